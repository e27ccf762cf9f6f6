"""The steps between the matrix products of a decoder layer in inference."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, device

from vibethinker.ops.decoder_layers import torch as reference
from vibethinker.ops.decoder_layers.torch import Rotation as Rotation


class DecoderLayers(Protocol):
    """Norms, rotary embedding and activation of `T` tokens."""

    def add_norm_(self, residual: Tensor, update: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        """Adds an update [T, H] to the float32 residual stream [T, H], in place, and returns its RMS norm [T, H].

        The norm is in the weight's precision. Without an update the stream stays as it is.
        """
        ...

    def rotate_(self, qkv: Tensor, positions: Tensor, heads: int, kv_heads: int, rotation: Rotation) -> None:
        """Rotates queries and keys by their positions, in place.

        Args:
            qkv: [T, (heads + 2·kv_heads)·D], the queries, keys and values of each token.
            positions: int64 [T].
            heads: heads of the queries.
            kv_heads: heads of keys and values.
            rotation: angles and norms.
        """
        ...

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """[T, 2·I], gate and up side by side → silu(gate) · up [T, I]."""
        ...


def implementation(on: device) -> DecoderLayers:
    """Triton's kernels on CUDA, else PyTorch's own operations."""
    if on.type == "cuda":
        from vibethinker.ops.decoder_layers import triton

        return triton
    return reference
