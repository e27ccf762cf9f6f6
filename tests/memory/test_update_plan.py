"""How long the rows of an update are, when it recomputes its activations, and what a row holds at the most."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen2Config

from tests.support.fits import fit, grpo, sft
from vibethinker.memory import update_plan
from vibethinker.memory.estimate import Estimate, Workload, estimate
from vibethinker.memory.update_plan import plan_update
from vibethinker.models.loading import Lora
from vibethinker.packed.partition import partition, partition_groups
from vibethinker.training import fit_memory
from vibethinker.training.fit_memory import samples_between_updates, tokens_of_update, workload

pytestmark = pytest.mark.slow

MADE = Estimate(10, 10, {"policy": 40, "optimizer": 80}, {"gradients": 40, "activations": 60}, {"keys and values": 900})
WORK = Workload(
    config=Qwen2Config(),
    lora=None,
    bits=32,
    checkpointing=False,
    autocast=True,
    fused=False,
    row_tokens=65_536,
    update_tokens=None,
    max_length=4_096,
    prompt_length=256,
    group=1,
    slots=0,
    rollouts=0,
    reference=False,
    replicas=1,
)


def as_large_as_tokens(work: Workload) -> Estimate:
    """A tenth of the memory where activations are recomputed."""
    tokens = work.row_tokens // 10 if work.checkpointing else work.row_tokens
    return Estimate(1, 1, {"policy": 0}, {"activations": tokens}, {"keys and values": 10**9})


@pytest.mark.parametrize(
    ("size", "rows", "recomputed"),
    [
        (100_000, 65_536, False),
        (65_536 / 0.75, 65_536, False),
        (65_536 / 0.76, 32_768, False),  # rows as long as that are worth no risk
        (8_192 / 0.88, 8_192, False),  # but recomputing costs more than the last of the memory
        (8_191 / 0.88, 65_536, True),
        (4_000, 16_384, True),
        (820 / 0.88, 8_192, True),
        (410 / 0.88, 4_096, True),
        (1, 4_096, True),  # nothing fits: the least there is
    ],
)
def test_what_is_decided(size: float, rows: int, recomputed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts and updates alternate, and recomputation does nothing for rollouts."""
    monkeypatch.setattr(update_plan, "estimate", as_large_as_tokens)
    plan = plan_update(WORK, size, auto_rows=True, auto_checkpointing=True)
    assert (plan.work.row_tokens, plan.work.checkpointing) == (rows, recomputed)
    assert plan == plan_update(WORK, size, auto_rows=True, auto_checkpointing=True)
    kept = plan_update(WORK, size, auto_rows=False, auto_checkpointing=True)
    assert (kept.work.row_tokens, kept.work.checkpointing) == (65_536, 0.88 * size < 65_536)
    assert not plan_update(WORK, size, auto_rows=True, auto_checkpointing=False).work.checkpointing


def test_memory_in_updates() -> None:
    assert MADE.in_updates == 220


def test_tokens_of_an_update_by_hand() -> None:
    assert tokens_of_update(3, 100) == 300
    assert tokens_of_update(4, 100, 40, 4) == 100 + 3 * 60
    assert tokens_of_update(8, 100, 40, 4) == 2 * (100 + 3 * 60)
    assert tokens_of_update(6, 100, 40, 4) == 2 * 100 + 4 * 60


@given(st.integers(1, 6), st.integers(1, 6), st.integers(2, 90))
def test_no_row_of_groups_costs_more(problems: int, group: int, budget: int) -> None:
    """Of rollouts as long as they may be, which the estimate takes for granted."""
    total = problems * group
    rows = partition_groups([24] * total, [16] * total, [i // group for i in range(total)], budget)
    computed = [24 * len({i // group for i in row}) + 16 * len(row) for row in rows]
    assert max(computed) <= min(max(budget, 40), tokens_of_update(total, 40, 24, group))


@given(st.lists(st.integers(2, 40), min_size=1, max_size=12), st.integers(2, 90))
def test_no_row_is_longer(lengths: list[int], budget: int) -> None:
    rows = [sum(lengths[i] for i in row) for row in partition(lengths, budget)]
    assert max(rows) <= min(max(budget, 40), tokens_of_update(len(lengths), 40))


def test_a_workload_is_what_the_options_say(tiny_model: str) -> None:
    facts: dict[str, Any] = {"autocast": True, "replicas": 2, "samples": True}
    work = workload(grpo(tiny_model, group_size=6, packing={"row_tokens": "auto"}), 4, **facts)
    assert (work.row_tokens, work.accumulates, work.reference) == (2 * (54 + 6 * 10), False, True)
    assert (work.bits, work.slots, work.replicas, work.checkpointing, work.group) == (32, 64, 2, False, 6)
    assert (work.prompt_length, work.rollouts) == (54, 12)
    work = workload(sft(tiny_model, packing={"row_tokens": "auto"}, gradient_checkpointing=True), 4, **facts)
    assert (work.row_tokens, work.accumulates, work.reference, work.prompt_length) == (128, False, False, 32)
    assert work.checkpointing
    rows = workload(sft(tiny_model, packing={"row_tokens": 96}, lora=Lora(rank=2)), 8, **facts)
    assert (rows.row_tokens, rows.accumulates, rows.bits, rows.rollouts) == (96, True, 16, 0)
    unknown = workload(sft(tiny_model, packing={"row_tokens": 40}), None, **facts)
    assert (unknown.row_tokens, unknown.accumulates) == (64, True)  # a sequence may be longer than a row


def test_a_budget_bounds_the_estimate(tiny_model: str) -> None:
    facts: dict[str, Any] = {"autocast": True, "replicas": 1, "samples": False}
    module, whole = sft(tiny_model, packing={"row_tokens": 128}), sft(tiny_model, packing={"row_tokens": "auto"})
    many = {n: estimate(workload(module, n, **facts)).in_updates for n in (8, 64, None)}
    assert len(set(many.values())) == 1
    assert estimate(workload(whole, 64, **facts)).in_updates > 2 * many[8]


def test_on_a_processor_auto_is_off(tiny_model: str) -> None:
    module = sft(tiny_model, packing={"row_tokens": "auto"})
    assert module.gradient_checkpointing == "auto"
    fit(module, steps=1)
    assert not module.policy.is_gradient_checkpointing
    assert module.row_tokens == 16_384


def test_auto_recomputes_what_cannot_be_estimated(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(work: Workload) -> Estimate:
        raise RuntimeError("an operation without a fake")

    lines: list[str] = []
    monkeypatch.setattr(fit_memory, "rank_zero_info", lines.append)
    monkeypatch.setattr(fit_memory, "gpu_memory", lambda device: 2**40)
    monkeypatch.setattr(update_plan, "estimate", unable)
    module = sft(tiny_model)
    fit(module, steps=1)
    assert module.policy.is_gradient_checkpointing
    assert "cannot be estimated: an operation without a fake" in lines[0]


@pytest.mark.parametrize(("validation", "probes"), [(0, False), (1.0, False), (0, True)])
def test_a_replica_counts_where_there_is_one(tiny_model: str, validation: float, probes: bool) -> None:
    names = ["ModelCheckpoint", *(["vibethinker.callbacks.DiversityProbe"] if probes else [])]
    assert samples_between_updates(sft(tiny_model), names, validation) == bool(validation or probes)
    assert samples_between_updates(grpo(tiny_model), [], 0)


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
@pytest.mark.parametrize("size", [2**16, 2**40])
@pytest.mark.parametrize("asked", [64, "auto"])
def test_auto_decides_when_a_fit_starts(
    tiny_model: str, lora: Lora | None, size: int, asked: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU of a given size, whatever the device."""
    lines: list[str] = []
    monkeypatch.setattr(fit_memory, "rank_zero_info", lines.append)
    monkeypatch.setattr(fit_memory, "gpu_memory", lambda device: size)
    module = sft(tiny_model, lora=lora, packing={"row_tokens": asked})
    fit(module, steps=1)
    fits = size == 2**40
    assert module.policy.is_gradient_checkpointing != fits
    assert module.row_tokens == (64 if asked == 64 or not fits else 65_536)
    (line,) = lines
    recomputed = "off" if fits else "on"
    assert line.startswith(
        f"packed rows of at most {module.row_tokens:,} tokens, gradient_checkpointing {recomputed}: updates take "
    )
