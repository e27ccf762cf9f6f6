"""A fit that goes on from a checkpoint ends with the same weights, bit for bit, as one that was never interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.fits import SHAPED, SaveAt, assert_same_weights, fit, grpo, sft, weights
from vibethinker.models.loading import Lora
from vibethinker.training.policy_module import PolicyModule

pytestmark = pytest.mark.slow

RUNS: dict[str, Callable[[str], PolicyModule]] = {
    "sft": lambda model: sft(model, optimizer={"min_learning_rate": 1e-3, "weight_decay": 0.1}),
    "sft-lora-dropout": lambda model: sft(model, lora=Lora(rank=4, dropout=0.3)),
    "grpo": lambda model: grpo(model, optimizer={"min_learning_rate": 1e-3}),
    "grpo-lora": lambda model: grpo(model, lora=Lora(rank=4)),
    "grpo-shaped": lambda model: grpo(model, **SHAPED),
    "grpo-two-updates": lambda model: grpo(model, updates_per_rollout=2),
    "grpo-rows": lambda model: grpo(model, updates_per_rollout=2, packing={"row_tokens": 40}),
}


def make(name: str, model: str) -> PolicyModule:
    torch.manual_seed(0)  # of a new adapter
    return RUNS[name](model)


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("name", RUNS)
def test_resume_is_bitwise(tiny_model: str, tmp_path: Path, name: str, step: int) -> None:
    """Five steps of two batches an epoch: saved within an epoch, at its end, between two steps on a batch."""
    undisturbed, going_on = make(name, tiny_model), make(name, tiny_model)
    logged = fit(undisturbed, SaveAt(step, tmp_path / "a.ckpt"), steps=5).steps
    torch.manual_seed(99)  # another process begins with other random numbers
    rest = fit(going_on, steps=5, resume=tmp_path / "a.ckpt").steps
    assert_same_weights(weights(undisturbed), weights(going_on))
    timings = {key for key in logged[-1] if "second" in key}
    for key in logged[-1].keys() - timings:
        assert rest[-1][key] == logged[-1][key]


def test_resume_twice(tiny_model: str, tmp_path: Path) -> None:
    name = "grpo-two-updates"
    undisturbed, second, third = (make(name, tiny_model) for _ in range(3))
    fit(undisturbed, SaveAt(1, tmp_path / "a.ckpt"), steps=5)
    fit(second, SaveAt(3, tmp_path / "b.ckpt"), steps=5, resume=tmp_path / "a.ckpt")
    fit(third, steps=5, resume=tmp_path / "b.ckpt")
    assert_same_weights(weights(undisturbed), weights(third))


def test_metrics_of_an_unfinished_rollout_batch_are_logged_after_a_resume(tiny_model: str, tmp_path: Path) -> None:
    name = "grpo-two-updates"
    logged = fit(make(name, tiny_model), SaveAt(1, tmp_path / "a.ckpt")).steps
    first = fit(make(name, tiny_model), resume=tmp_path / "a.ckpt").steps[0]
    assert first["train/pass_rate"] == logged[1]["train/pass_rate"]
    assert first["train/kl"] == logged[1]["train/kl"]


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_holds_what_is_trained_and_no_more(tiny_model: str, tmp_path: Path, name: str) -> None:
    """No reference, no replica, no frozen base; plain types, so that it loads with `weights_only=True`."""
    module = make(name, tiny_model)
    fit(module, SaveAt(1, tmp_path / "a.ckpt"))
    saved: dict[str, Any] = torch.load(tmp_path / "a.ckpt", weights_only=True)
    trained = {n for n, p in module.policy.named_parameters(remove_duplicate=False) if p.requires_grad}
    assert saved["state_dict"].keys() == {f"policy.{n}" for n in trained}
    assert len(saved["ranks"]) == 1
    update = saved["ranks"][0]["update"]
    assert (update is not None) == (module.updates_per_rollout == 2)
    assert update is None or (update["used"] == 1 and len(update["rows"]) >= 1)


def test_a_checkpoint_of_another_model_is_refused(tiny_model: str, tmp_path: Path) -> None:
    fit(make("sft", tiny_model), SaveAt(1, tmp_path / "a.ckpt"))
    with pytest.raises(ValueError, match="another lora"):
        fit(make("sft-lora-dropout", tiny_model), resume=tmp_path / "a.ckpt")


def test_rollouts_of_two_processes_are_refused_by_one(tiny_model: str, tmp_path: Path) -> None:
    fit(make("grpo-two-updates", tiny_model), SaveAt(1, tmp_path / "a.ckpt"))
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    saved["ranks"] *= 2
    torch.save(saved, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="unused rollouts of 2 processes"):
        fit(make("grpo-two-updates", tiny_model), resume=tmp_path / "a.ckpt")


def test_a_checkpoint_of_an_older_version_is_refused(tiny_model: str, tmp_path: Path) -> None:
    fit(make("sft", tiny_model), SaveAt(1, tmp_path / "a.ckpt"))
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    saved["ranks"] = [{"random_state": saved["ranks"][0]["random_state"], "window": {"slices": [], "used": 2}}]
    torch.save(saved, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="of an older version"):
        fit(make("sft", tiny_model), resume=tmp_path / "a.ckpt")
