"""Merged attention in one pass (Triton)."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _merge(
    out,
    lse,
    other,
    other_lse,
    out_row,
    out_head,
    lse_head,
    other_row,
    other_head,
    other_lse_head,
    heads,
    width,
    heads_block: tl.constexpr,
    width_block: tl.constexpr,
):
    """All heads of one token."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, heads_block).to(tl.int64)
    column = tl.arange(0, width_block)
    there = head < heads
    mine = lse + head * lse_head + row
    first = tl.load(mine, mask=there, other=0.0)
    second = tl.load(other_lse + head * other_lse_head + row, mask=there, other=0.0)
    highest = tl.maximum(first, second)
    total = highest + tl.log(tl.exp(first - highest) + tl.exp(second - highest))
    inside = there[:, None] & (column < width)[None, :]
    target = out + row * out_row + (head * out_head)[:, None] + column[None, :]
    one = tl.load(target, mask=inside, other=0.0).to(tl.float32)
    two = tl.load(other + row * other_row + (head * other_head)[:, None] + column[None, :], mask=inside, other=0.0)
    mixed = one * tl.exp(first - total)[:, None] + two.to(tl.float32) * tl.exp(second - total)[:, None]
    tl.store(target, mixed.to(out.dtype.element_ty), mask=inside)
    tl.store(mine, total, mask=there)


def merge_(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """As the reference does; `lse` and `other_lse` are float32."""
    rows, heads, width = out.shape
    if not rows:
        return
    if any(x.stride(-1) != 1 for x in (out, lse, other, other_lse)):
        raise ValueError("attention merge: the last dimension must be contiguous")
    strides = *out.stride()[:2], lse.stride(0), *other.stride()[:2], other_lse.stride(0)
    blocks = triton.next_power_of_2(heads), triton.next_power_of_2(width)
    _merge[(rows,)](out, lse, other, other_lse, *strides, heads, width, *blocks, num_warps=4)
