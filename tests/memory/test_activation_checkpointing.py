"""When an update recomputes its activations, and what a row holds at the most."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen2Config

from tests.support.fits import fit, grpo, sft
from vibethinker.memory import activation_checkpointing as recomputation
from vibethinker.memory.activation_checkpointing import longest_row, members, recomputes, workload
from vibethinker.memory.estimate import Estimate, Workload, estimate
from vibethinker.models.loading import Lora
from vibethinker.packed.partition import partition, partition_groups
from vibethinker.rollout import Sampling

MADE = Estimate(10, 10, {"policy": 40, "optimizer": 80}, {"gradients": 40, "activations": 60}, {"keys and values": 900})

WORK = Workload(Qwen2Config(), None, 32, False, True, (40,), 24, 1, True, 0, 40, Sampling(), False)


def test_what_is_decided() -> None:
    """Rollouts take turns with updates, and recomputation does nothing for them."""
    assert MADE.in_updates == 220
    assert not recomputes(MADE, 250)  # 88% of which are 220
    assert recomputes(MADE, 249)


def test_longest_row_by_hand() -> None:
    assert longest_row(3, 100, None) == (100, 100, 100)
    assert longest_row(3, 100, 300) == (100, 100, 100)
    assert longest_row(4, 100, 250) == (100, 100, 50)
    assert longest_row(None, 100, 250) == (100, 100, 50)
    assert longest_row(4, 100, 60) == (100,)  # one sequence may be longer than a row
    assert longest_row(4, 100, None, 40, 4) == (100,) * 4
    assert longest_row(8, 100, 250, 40, 4) == (100, 100, 100, 70)  # 40 + 60 + 60 + 60 + 30
    assert longest_row(8, 100, 250, 40, 2) == (100, 100, 90)  # the third is of another group
    assert longest_row(None, 100, 281, 40, 4) == (100,) * 4  # and a token is left
    with pytest.raises(ValueError, match="budget"):
        longest_row(None, 100, None)


def test_members_by_hand() -> None:
    assert members(32, 16, True) == members(32, 16, False) == (16, 16)
    assert members(24, 16, False) == (16, 8)
    assert members(24, 16, True) == (1, 16, 7)  # a micro-batch of three: the end of one group, and the next
    assert members(1, 16, True) == (1,)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.one_of(st.none(), st.integers(2, 90)))
def test_no_row_of_groups_costs_more(problems: int, group: int, bins: int, budget: int | None) -> None:
    """Of rollouts as long as they may be, which the estimate takes for granted."""
    sequences = -(-problems * group // bins)
    row = longest_row(sequences, 40, budget, 24, group)
    shared = members(len(row), group, len(row) == sequences)
    work = replace(WORK, row_lengths=row, prompt_length=24, members=shared).longest_row
    total = problems * group
    parts = partition_groups([24] * total, [16] * total, [i // group for i in range(total)], bins, budget)
    computed = [24 * len({i // group for i in row}) + 16 * len(row) for rows in parts for row in rows]
    assert max(computed) <= max(len(work.input_ids) + len(row), budget or 0)


@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=12), st.integers(1, 3), st.one_of(st.none(), st.integers(2, 90))
)
def test_no_row_is_longer(lengths: list[int], bins: int, budget: int | None) -> None:
    """Of sequences as long as they may be; shorter ones may gather in one micro-batch, which only a budget bounds."""
    lengths = [40] * len(lengths) if budget is None else lengths
    most = sum(longest_row(-(-len(lengths) // bins), 40, budget))
    rows = [sum(lengths[i] for i in row) for rows in partition(lengths, bins, budget) for row in rows]
    assert max(rows) <= max(most, budget or 0)


def test_a_workload_is_what_the_options_say(tiny_model: str) -> None:
    facts: dict[str, Any] = {"autocast": True, "replicas": 2, "samples": True}
    work = workload(grpo(tiny_model, group_size=6, micro_batches=2), 4, **facts)
    assert (work.row_lengths, work.accumulates, work.reference, work.prompt_length) == ((64,) * 6, True, True, 54)
    assert (work.bits, work.slots, work.replicas, work.checkpointing, work.members) == (32, 64, 2, False, (6,))
    assert len(work.longest_row.input_ids) == 54 + 6 * 9
    work = workload(sft(tiny_model, micro_batches=1, gradient_checkpointing=True), 4, **facts)
    assert (work.row_lengths, work.accumulates, work.reference, work.prompt_length) == ((64,) * 2, False, False, 32)
    assert work.checkpointing
    rows = workload(sft(tiny_model, micro_batches=1, row_tokens=96, lora=Lora(rank=2)), 8, **facts)
    assert (rows.row_lengths, rows.accumulates, rows.bits) == ((64, 32), True, 16)
    unknown = workload(sft(tiny_model, row_tokens=96), None, **facts)
    assert unknown.row_lengths == (64, 32)


def test_a_budget_bounds_the_estimate(tiny_model: str) -> None:
    facts: dict[str, Any] = {"autocast": True, "replicas": 1, "samples": False}
    many = {n: estimate(workload(sft(tiny_model, row_tokens=128), n, **facts)).in_updates for n in (8, 64, None)}
    assert len(set(many.values())) == 1
    whole = estimate(workload(sft(tiny_model), 64, **facts))
    assert whole.in_updates > 2 * many[8]


def test_on_a_processor_auto_is_off(tiny_model: str) -> None:
    module = sft(tiny_model)
    assert module.gradient_checkpointing == "auto"
    fit(module, steps=1)
    assert not module.policy.is_gradient_checkpointing


def test_auto_is_on_for_what_cannot_be_estimated(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(work: Workload) -> Estimate:
        raise RuntimeError("an operation without a fake")

    said: list[str] = []
    monkeypatch.setattr(recomputation, "rank_zero_info", said.append)
    monkeypatch.setattr(recomputation, "memory_of", lambda device: 2**40)
    monkeypatch.setattr(recomputation, "estimate", unable)
    module = sft(tiny_model)
    fit(module, steps=1)
    assert module.policy.is_gradient_checkpointing
    assert "cannot be estimated: an operation without a fake" in said[0]


@pytest.mark.parametrize(("validation", "probes"), [(0, False), (1.0, False), (0, True)])
def test_a_replica_counts_where_there_is_one(tiny_model: str, validation: float, probes: bool) -> None:
    names = ["ModelCheckpoint", *(["vibethinker.callbacks.DiversityProbe"] if probes else [])]
    assert recomputation.samples_in_between(sft(tiny_model), names, validation) == bool(validation or probes)
    assert recomputation.samples_in_between(grpo(tiny_model), [], 0)


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
@pytest.mark.parametrize("size", [2**16, 2**40])
def test_auto_decides_when_a_fit_starts(
    tiny_model: str, lora: Lora | None, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU of a given size, whatever the device."""
    said: list[str] = []
    monkeypatch.setattr(recomputation, "rank_zero_info", said.append)
    monkeypatch.setattr(recomputation, "memory_of", lambda device: size)
    module = sft(tiny_model, lora=lora, row_tokens=64)
    fit(module, steps=1)
    assert module.policy.is_gradient_checkpointing == (size == 2**16)
    (line,) = said
    assert line.startswith(f"gradient_checkpointing=auto: {'on' if size == 2**16 else 'off'}, updates")
