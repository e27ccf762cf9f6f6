"""Packed rows against the same sequences one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vibethinker.packed.attention import PackedAttention, rectangles
from vibethinker.packed.packing import pack
from vibethinker.packed.partition import balance, deal, split

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=20)


def test_pack_by_hand() -> None:
    row = pack([torch.tensor([1, 2]), torch.tensor([3])], [torch.tensor([4, 5]), torch.tensor([6])])
    assert row.input_ids.tolist() == [1, 2, 4, 3]
    assert row.position_ids.tolist() == [0, 1, 2, 0]
    assert row.cu_seqlens.tolist() == [0, 3, 4]
    assert row.lengths == (3, 1)
    assert row.predictors.tolist() == [1, 2, 3]
    assert row.targets.tolist() == [4, 5, 6]
    assert row.owner.tolist() == [0, 0, 1]


def test_an_empty_row_predicts_nothing() -> None:
    row = pack([], [])
    assert len(row.input_ids) == 1
    assert len(row.targets) == len(row.predictors) == 0


def test_pack_refuses_an_empty_completion() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        pack([torch.tensor([1])], [torch.tensor([], dtype=torch.long)])


@given(lengths, st.integers(1, 6))
def test_balance_deals_every_sequence_once(sizes: list[int], bins: int) -> None:
    dealt = balance(sizes, bins)
    assert len(dealt) == bins
    assert sorted(i for part in dealt for i in part) == list(range(len(sizes)))
    loads = [sum(sizes[i] for i in part) for part in dealt]
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
def test_deal_splits_micro_batches(sizes: list[int], bins: int, budget: int) -> None:
    dealt = deal(sizes, bins, budget)
    assert [sorted(i for row in rows for i in row) for rows in dealt] == balance(sizes, bins)
    assert [len(rows) for rows in deal(sizes, bins, None)] == [1] * bins


@given(lengths)
def test_rectangles_hold_every_token_once(sizes: list[int]) -> None:
    places = [index[real] for index, real in rectangles(tuple(sizes))]
    assert sorted(torch.cat(places).tolist()) == list(range(sum(sizes)))
    for _, real in rectangles(tuple(sizes)):
        assert real.numel() <= 1.25 * real.sum().item() or real.shape[0] == 1


@given(lengths, st.integers(0, 2**31))
def test_packed_attention_is_attention_one_by_one(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    total = sum(sizes)
    query = torch.randn(total, 4, 8, generator=generator)
    key, value = (torch.randn(total, 2, 8, generator=generator) for _ in range(2))
    row = pack([torch.zeros(n, dtype=torch.long) for n in sizes], [torch.zeros(1, dtype=torch.long)] * len(sizes))
    result = PackedAttention(row).attend(0, query, key, value, scale=0.3)
    start = 0
    for n in sizes:
        q, k, v = (x[start : start + n] for x in (query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)))
        scores = torch.einsum("qhd,khd->hqk", q, k) * 0.3
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
        expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
        torch.testing.assert_close(result[start : start + n], expected, atol=1e-5, rtol=1e-5)
        start += n
