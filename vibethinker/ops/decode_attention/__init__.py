"""Attention of one new token of each sequence to the KV cache."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, device

from vibethinker.ops.decode_attention import torch as reference
from vibethinker.ops.decode_attention.split import Split as Split
from vibethinker.ops.decoder_layers import Rotation


class DecodeAttentionKernels(Protocol):
    """Attention to cached prompts, which sequences share, and to each sequence's own completion."""

    @property
    def ROTATES(self) -> bool:  # noqa: N802
        """True if `attend` takes a rotation."""
        ...

    def plan(self, rows: tuple[Tensor, Tensor, Tensor], completions: Tensor, split: Split, previous: Any) -> Any:
        """Prepares a step for all layers.

        Args:
            rows: int64 [R] each: tokens in the cache before this step, the prompt's included; the prompt's slot; its
                tokens.
            completions: keys and values of any layer, see `attend`.
            split: programs for a sequence; they must reach the longest one.
            previous: plan of the step before, or `None`.
        """
        ...

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prompts: Tensor,
        completions: Tensor,
        rows: tuple[Tensor, Tensor, Tensor],
        scale: float,
        plan: Any,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Adds one new token of each of `R` sequences to the cache and attends to what is there of its sequence.

        Args:
            query: [R, heads, D].
            key: [R, kv_heads, D] of the new token.
            value: [R, kv_heads, D] of the new token.
            prompts: keys and values of prompts [2, slots, kv_heads, M, D], contiguous.
            completions: keys and values of completions [2, ≥ R, kv_heads, N, D], contiguous; row i is sequence i's.
            rows: see `plan`.
            scale: of the scores.
            plan: of this step.
            rotation: of query and key, not yet applied; a token's position is its sequence's length.

        Returns:
            [R, heads, D] in the query's precision.
        """
        ...

    def copy_rows_(self, store: Tensor, sources: Tensor, targets: Tensor, lengths: Tensor, longest: int) -> None:
        """Copies tokens of some rows of a cache to others; no row is both.

        Args:
            store: [..., rows, heads, M, D], contiguous.
            sources: int64 [C].
            targets: int64 [C].
            lengths: tokens to copy, int64 [C].
            longest: the largest of them.
        """
        ...


def implementation(on: device) -> DecodeAttentionKernels:
    """Triton's kernels on CUDA, else PyTorch's own operations."""
    if on.type == "cuda":
        from vibethinker.ops.decode_attention import triton

        return triton
    return reference
