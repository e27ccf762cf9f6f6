"""Packed attention against attention over one sequence at a time."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from vibethinker.packed.attention import PackedAttention, rectangles
from vibethinker.packed.packing import pack

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=20)


@given(lengths)
def test_rectangles_hold_every_token_once(sizes: list[int]) -> None:
    indices = [index[real] for index, real in rectangles(tuple(sizes))]
    assert sorted(torch.cat(indices).tolist()) == list(range(sum(sizes)))
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
