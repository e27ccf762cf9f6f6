"""Recording sampled tokens, all rows in one program (Triton)."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from vibethinker.ops.decode_state import torch as fields

_LAST, _LENGTH, _GENERATED = map(tl.constexpr, (fields.LAST, fields.LENGTH, fields.GENERATED))
_LIMIT, _ENDED = tl.constexpr(fields.LIMIT), tl.constexpr(fields.ENDED)


@triton.jit
def _advance(
    state,
    counters,
    sampled_tokens,
    sampled_logp,
    sampled_under,
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
    generated = tl.load(state + _GENERATED * slots + row, mask=alive, other=0)
    token = tl.load(sampled_tokens + row, mask=alive, other=0)
    value = tl.load(sampled_logp + row, mask=alive, other=0.0)
    where = row.to(tl.int64) * room + generated
    tl.store(tokens + where, token.to(tl.int32), mask=alive)
    tl.store(logp + where, value, mask=alive)
    tl.store(under + where, tl.load(sampled_under + row, mask=alive, other=0.0), mask=alive)
    generated += 1
    stop = tl.load(stops + tl.arange(0, known_stops))
    stopped = tl.max((token[:, None] == stop[None, :]).to(tl.int32), 1) > 0
    at_limit = generated >= tl.load(state + _LIMIT * slots + row, mask=alive, other=0)
    tl.store(state + _LAST * slots + row, token, mask=alive)
    if grows:
        length = tl.load(state + _LENGTH * slots + row, mask=alive, other=0)
        tl.store(state + _LENGTH * slots + row, length + 1, mask=alive)
    tl.store(state + _GENERATED * slots + row, generated, mask=alive)
    tl.store(state + _ENDED * slots + row, tl.where(stopped, generated, tl.where(at_limit, -generated, 0)), mask=alive)
    broken = tl.max((alive & (value != value)).to(tl.int32), 0)
    fault = tl.load(counters + 1)
    tl.store(counters + 1, tl.where((fault == 0) & (broken > 0), step, fault))
    tl.store(counters, step)


def advance(
    state: Tensor,
    counters: Tensor,
    sampled: tuple[Tensor, Tensor, Tensor],
    stops: Tensor,
    outputs: tuple[Tensor, Tensor, Tensor],
    grows: bool,
) -> None:
    """As the reference does."""
    rows, slots, room = len(sampled[0]), state.stride(0), outputs[0].shape[1]
    tensors, block = (state, counters, *sampled, stops, *outputs), max(16, triton.next_power_of_2(rows))
    _advance[(1,)](*tensors, rows, slots, room, grows, len(stops), block, num_warps=4)
