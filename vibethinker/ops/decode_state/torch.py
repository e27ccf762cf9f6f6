"""Recording sampled tokens in PyTorch's operations."""

from __future__ import annotations

import torch
from torch import Tensor

from vibethinker.ops.decode_state.state import ENDED, GENERATED, LAST, LENGTH, LIMIT


def advance(
    state: Tensor,
    counters: Tensor,
    sampled: tuple[Tensor, Tensor, Tensor],
    stops: Tensor,
    outputs: tuple[Tensor, Tensor, Tensor],
    grows: bool,
) -> None:
    """Records one sampled token for each of the first `R` rows that have not ended.

    Args:
        state: int64 [9, slots], `DecodeState.rows`.
        counters: int64 [2], `DecodeState.counters`.
        sampled: tokens [R] and their two log-probs [R].
        stops: int64, tokens that end a sequence; −1 stands for none.
        outputs: tokens and log-probs so far, each [slots, M].
        grows: true where the token before this one has been added to the cache.
    """
    tokens, logp, _ = sampled
    rows = state[:, : len(tokens)]
    alive = rows[ENDED] == 0
    generated = rows[GENERATED]
    for store, new in zip(outputs, sampled, strict=True):
        some = store[: len(tokens)]
        kept = torch.where(alive, new, some.gather(1, generated[:, None])[:, 0])
        some.scatter_(1, generated[:, None], kept[:, None].to(store.dtype))
    counters[0] += 1
    broken = (alive & logp.isnan()).any()
    counters[1] = torch.where((counters[1] == 0) & broken, counters[0], counters[1])
    rows[LAST] = torch.where(alive, tokens, rows[LAST])
    rows[GENERATED] += alive
    if grows:
        rows[LENGTH] += alive
    stopped = alive & torch.isin(tokens, stops)
    over = alive & (rows[GENERATED] >= rows[LIMIT])
    rows[ENDED] = torch.where(stopped, rows[GENERATED], torch.where(over, -rows[GENERATED], rows[ENDED]))
