"""The state of every sequence being decoded, and how a sampled token changes it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, device

from vibethinker.ops.decode_state import torch as reference
from vibethinker.ops.decode_state.state import DecodeState as DecodeState


class Advance(Protocol):
    """Recording of sampled tokens."""

    def advance(
        self,
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
        ...


def implementation(on: device) -> Advance:
    """Triton's kernels on CUDA, else PyTorch's own operations."""
    if on.type == "cuda":
        from vibethinker.ops.decode_state import triton

        return triton
    return reference
