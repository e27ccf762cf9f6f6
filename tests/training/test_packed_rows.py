"""An update that is computed as several rows is the update of one row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.fits import PlainSFT, fit, plain_grpo, sft, weights
from vibethinker.models.loading import Lora
from vibethinker.training.policy_module import PolicyModule

pytestmark = pytest.mark.slow


def rows_of(module: PolicyModule) -> list[int]:
    """Tokens of each row that was computed, as they are computed."""
    seen: list[int] = []
    logprobs: Any = module.logprobs

    def counted(model: Any, row: Any) -> Any:
        if torch.is_grad_enabled():
            seen.append(len(row.input_ids))
        return logprobs(model, row)

    module.logprobs = counted  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize(
    "options", [{}, {"gradient_checkpointing": True}, {"lora": Lora(rank=4)}], ids=["plain", "recomputed", "lora"]
)
def test_rows_within_a_budget_make_the_same_updates(
    tiny_model: str, options: dict[str, Any], clip: float | None
) -> None:
    whole, parts = (
        (
            torch.manual_seed(0),
            plain_grpo(tiny_model, packing={"row_tokens": n}, optimizer={"learning_rate": 0.3}, **options),
        )[1]
        for n in ("auto", 60)
    )
    seen = [rows_of(module) for module in (whole, parts)]
    logged = [fit(module, steps=3, gradient_clip_val=clip).steps for module in (whole, parts)]
    assert len(seen[0]) == 3
    assert len(seen[1]) > 6
    assert max(seen[1]) <= 60 < max(seen[0])
    assert sum(seen[0]) <= sum(seen[1])  # a group in two rows has its prompt in both
    for one, other in zip(*logged, strict=True):
        assert one.keys() == other.keys()
        for key in (k for k in one if "second" not in k):
            assert other[key] == pytest.approx(one[key], abs=1e-5, rel=1e-4)
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("recomputed", [False, True])
def test_rows_under_autocast(tiny_model: str, recomputed: bool) -> None:
    """Each row's backward runs outside of autocast, as Lightning's does, and rounds no other way."""
    made = []
    for budget in ("auto", 30):
        module = sft(tiny_model, PlainSFT, packing={"row_tokens": budget}, gradient_checkpointing=recomputed)
        steps = fit(module, precision="bf16-mixed", steps=2).steps
        made.append((steps, weights(module)))
    assert made[1][0][-1]["train/loss"] == pytest.approx(made[0][0][-1]["train/loss"], abs=2e-3)
    for name, weight in made[0][1].items():
        torch.testing.assert_close(made[1][1][name], weight, atol=1e-4, rtol=1e-3)
