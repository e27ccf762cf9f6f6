"""Partitions of sequences into packed rows: every sequence once, no row above its budget, balanced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.groups import Groups, groups, sequences
from vibethinker.packed.packing import pack
from vibethinker.packed.partition import balance, partition, partition_groups

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=20)


@given(lengths, st.integers(1, 6))
def test_balance_takes_every_sequence_once(sizes: list[int], bins: int) -> None:
    parts = balance(sizes, bins)
    assert len(parts) == bins
    assert sorted(i for part in parts for i in part) == list(range(len(sizes)))
    loads = [sum(sizes[i] for i in part) for part in parts]
    assert max(loads) - min(loads) <= max(sizes)  # what the longest-first rule guarantees


def test_balance_refuses_no_bins() -> None:
    with pytest.raises(ValueError, match="bins"):
        balance([1], 0)


def test_partition_by_hand() -> None:
    assert partition([3, 9, 4, 2, 5], 23) == [[0, 1, 2, 3, 4]]
    assert partition([3, 9, 4, 2, 5], 8) == [[1], [3, 4], [0, 2]]  # 9 is above the budget; 7 and 7 are balanced
    assert partition([5, 5, 5], 8) == [[0], [1], [2]]
    assert partition([9, 9], 8) == [[0], [1]]
    assert partition([], 8) == [[]]


@given(lengths, st.integers(1, 60))
def test_partition_keeps_every_row_within_the_budget(sizes: list[int], budget: int) -> None:
    rows = partition(sizes, budget)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    loads = [sum(sizes[i] for i in row) for row in rows]
    assert all(load <= budget or len(row) == 1 for row, load in zip(rows, loads, strict=True))
    shared = [load for load in loads if load <= budget]
    assert len(shared) <= 1 or sum(shared) > (len(shared) - 1) * budget / 2  # half full at the least, all but one
    assert rows == partition(sizes, budget)


# Sequences that share prompts


def of_groups(sizes: Groups, budget: int) -> list[list[int]]:
    prompts, completions, group = sequences(sizes)
    return partition_groups(list(map(len, prompts)), list(map(len, completions)), group, budget)


def test_partition_groups_by_hand() -> None:
    two: Groups = [(10, [5, 5, 5, 5]), (10, [5, 5, 5, 5])]
    assert of_groups(two, 60) == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert of_groups(two, 59) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert of_groups(two, 29) == [[0, 1], [2, 3], [4, 5], [6, 7]]  # four rows, so evenly
    assert of_groups(two, 14) == [[i] for i in range(8)]  # each is above the budget
    assert of_groups([], 10) == [[]]
    three: Groups = [(10, [5, 5, 5])] * 3
    assert of_groups(three, 40) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]  # and not 40, 40 and 15 tokens
    assert of_groups(three, 74) == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]  # the second prompt in both
    assert partition_groups([10] * 8, [5] * 8, [0, 1] * 4, 59) == [[0, 2, 4, 6], [1, 3, 5, 7]]


@given(groups, st.integers(1, 120))
def test_partitioned_groups(sizes: Groups, budget: int) -> None:
    prompts, completions, group = sequences(sizes)

    def cost(row: list[int]) -> int:
        return sum({group[i]: len(prompts[i]) for i in row}.values()) + sum(len(completions[i]) for i in row)

    rows = of_groups(sizes, budget)
    assert rows == of_groups(sizes, budget)
    assert all(rows)
    assert [i for row in rows for i in row] == list(range(len(prompts)))  # each once, and groups together
    costs = [cost(row) for row in rows]
    assert all(c <= budget or len(row) == 1 for c, row in zip(costs, rows, strict=True))
    assert len(of_groups(sizes, 10**9)) == 1
    for row in rows:
        packed = pack([prompts[i] for i in row], [completions[i] for i in row], [group[i] for i in row])
        assert len(packed.input_ids) <= max(cost(row), 1)
    longest = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    whole = cost(list(range(len(prompts)))) + (len(rows) - 1) * max(map(len, prompts))
    assert max(costs) <= whole / len(rows) + longest  # no row costs more than an even fraction and a sequence
