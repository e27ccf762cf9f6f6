"""Partitions of sequences into packed rows: every sequence once, no row above its budget, balanced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.groups import Groups, groups, sequences
from vibethinker.packed.packing import pack
from vibethinker.packed.partition import balance, partition, partition_groups, split

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


def test_split_by_hand() -> None:
    assert split([3, 9, 4, 2, 5], None) == [[0, 1, 2, 3, 4]]
    assert split([3, 9, 4, 2, 5], 23) == [[0, 1, 2, 3, 4]]
    assert split([3, 9, 4, 2, 5], 8) == [[1], [3, 4], [0, 2]]  # 9 is above the budget; 7 and 7 are balanced
    assert split([5, 5, 5], 8) == [[0], [1], [2]]
    assert split([9, 9], 8) == [[0], [1]]
    assert split([], 8) == [[]]


@given(lengths, st.integers(1, 60))
def test_split_keeps_every_row_within_the_budget(sizes: list[int], budget: int) -> None:
    rows = split(sizes, budget)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    loads = [sum(sizes[i] for i in row) for row in rows]
    assert all(load <= budget or len(row) == 1 for row, load in zip(rows, loads, strict=True))
    shared = [load for load in loads if load <= budget]
    assert len(shared) <= 1 or sum(shared) > (len(shared) - 1) * budget / 2  # half full at the least, all but one
    assert rows == split(sizes, budget)


@given(lengths, st.integers(1, 5), st.integers(1, 60))
def test_partition_splits_micro_batches(sizes: list[int], bins: int, budget: int) -> None:
    parts = partition(sizes, bins, budget)
    assert [sorted(i for row in rows for i in row) for rows in parts] == balance(sizes, bins)
    assert [len(rows) for rows in partition(sizes, bins, None)] == [1] * bins


# Sequences that share prompts


def of_groups(sizes: Groups, bins: int, budget: int | None) -> list[list[list[int]]]:
    prompts, completions, group = sequences(sizes)
    return partition_groups(list(map(len, prompts)), list(map(len, completions)), group, bins, budget)


def test_partition_groups_by_hand() -> None:
    two: Groups = [(10, [5, 5, 5, 5]), (10, [5, 5, 5, 5])]
    assert of_groups(two, 1, None) == [[[0, 1, 2, 3, 4, 5, 6, 7]]]
    assert of_groups(two, 2, None) == [[[0, 1, 2, 3]], [[4, 5, 6, 7]]]
    assert of_groups(two, 1, 60) == [[[0, 1, 2, 3, 4, 5, 6, 7]]]
    assert of_groups(two, 1, 59) == [[[0, 1, 2, 3], [4, 5, 6, 7]]]
    assert of_groups(two, 1, 29) == [[[0, 1], [2, 3], [4, 5], [6, 7]]]  # four rows, so evenly
    assert of_groups(two, 1, 14) == [[[i] for i in range(8)]]  # each is above the budget
    assert of_groups([], 2, 10) == [[[]], [[]]]
    three: Groups = [(10, [5, 5, 5])] * 3
    assert of_groups(three, 1, 40) == [[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]  # and not 40, 40 and 15 tokens
    assert of_groups(three, 2, None) == [[[0, 1, 2, 3, 4]], [[5, 6, 7, 8]]]  # the second prompt in both
    interleaved = partition_groups([10] * 8, [5] * 8, [0, 1] * 4, 2, None)
    assert interleaved == [[[0, 2, 4, 6]], [[1, 3, 5, 7]]]
    with pytest.raises(ValueError, match="bins"):
        of_groups(two, 0, None)


@given(groups, st.integers(1, 5), st.one_of(st.none(), st.integers(1, 120)))
def test_partitioned_groups(sizes: Groups, bins: int, budget: int | None) -> None:
    prompts, completions, group = sequences(sizes)

    def cost(row: list[int]) -> int:
        return sum({group[i]: len(prompts[i]) for i in row}.values()) + sum(len(completions[i]) for i in row)

    parts = of_groups(sizes, bins, budget)
    assert parts == of_groups(sizes, bins, budget)
    assert len(parts) == bins
    rows = [row for rows in parts for row in rows]
    assert all(rows for rows in parts)
    assert [i for row in rows for i in row] == list(range(len(prompts)))  # each once, and groups together
    costs = [cost(row) for row in rows]
    assert all(budget is None or c <= budget or len(row) == 1 for c, row in zip(costs, rows, strict=True))
    assert all(row for rows in parts if len(rows) > 1 for row in rows)
    assert [len(rows) for rows in of_groups(sizes, bins, None)] == [1] * bins
    for row in rows:
        packed = pack([prompts[i] for i in row], [completions[i] for i in row], [group[i] for i in row])
        assert len(packed.input_ids) <= max(cost(row), 1)
    longest = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    whole = cost(list(range(len(prompts)))) + (bins - 1) * max(map(len, prompts))
    loads = [cost([i for row in rows for i in row]) for rows in parts]
    assert max(loads) <= whole / bins + longest  # no part costs more than an even fraction and a sequence
