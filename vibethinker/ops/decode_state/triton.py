"""Booking drawn tokens, all rows in one program (Triton): the contract of `vibethinker.ops.decode_state.torch`."""

# Triton's language is no Python that a type checker could follow.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from vibethinker.ops.decode_state import torch as layout

_LAST, _LENGTH, _MADE = tl.constexpr(layout.LAST), tl.constexpr(layout.LENGTH), tl.constexpr(layout.MADE)
_LIMIT, _ENDED = tl.constexpr(layout.LIMIT), tl.constexpr(layout.ENDED)


@triton.jit
def _advance(
    state,
    counters,
    drawn_tokens,
    drawn_logp,
    drawn_under,
    stops,
    tokens,
    logp,
    under,
    rows,
    slots,
    room,
    grows: tl.constexpr,
    known_stops: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.arange(0, block)
    inside = row < rows
    step = tl.load(counters) + 1
    ended = tl.load(state + _ENDED * slots + row, mask=inside, other=1)
    alive = inside & (ended == 0)
    made = tl.load(state + _MADE * slots + row, mask=alive, other=0)
    token = tl.load(drawn_tokens + row, mask=alive, other=0)
    value = tl.load(drawn_logp + row, mask=alive, other=0.0)
    where = row.to(tl.int64) * room + made
    tl.store(tokens + where, token.to(tl.int32), mask=alive)
    tl.store(logp + where, value, mask=alive)
    tl.store(under + where, tl.load(drawn_under + row, mask=alive, other=0.0), mask=alive)
    made += 1
    stop = tl.load(stops + tl.arange(0, known_stops))
    stopped = tl.max((token[:, None] == stop[None, :]).to(tl.int32), 1) > 0
    at_limit = made >= tl.load(state + _LIMIT * slots + row, mask=alive, other=0)
    tl.store(state + _LAST * slots + row, token, mask=alive)
    if grows:
        length = tl.load(state + _LENGTH * slots + row, mask=alive, other=0)
        tl.store(state + _LENGTH * slots + row, length + 1, mask=alive)
    tl.store(state + _MADE * slots + row, made, mask=alive)
    tl.store(state + _ENDED * slots + row, tl.where(stopped, made, tl.where(at_limit, -made, 0)), mask=alive)
    broken = tl.max((alive & (value != value)).to(tl.int32), 0)
    fault = tl.load(counters + 1)
    tl.store(counters + 1, tl.where((fault == 0) & (broken > 0), step, fault))
    tl.store(counters, step)


def advance(
    state: Tensor,
    counters: Tensor,
    drawn: tuple[Tensor, Tensor, Tensor],
    stops: Tensor,
    outputs: tuple[Tensor, Tensor, Tensor],
    grows: bool,
) -> None:
    """Books one drawn token for each of the first `R` rows, as `vibethinker.ops.decode_state.torch.advance` does."""
    rows, slots, room = len(drawn[0]), state.stride(0), outputs[0].shape[1]
    _advance[(1,)](
        state,
        counters,
        *drawn,
        stops,
        *outputs,
        rows,
        slots,
        room,
        grows,
        len(stops),
        max(16, triton.next_power_of_2(rows)),
        num_warps=4,
    )
