"""The steps between the matrix products of a decoder layer in training, with their gradients."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, device, dtype

from vibethinker.ops.train_layers import torch as reference


class TrainLayers(Protocol):
    """Norms, rotary embedding and activation, in any precision."""

    def add_norm(
        self, residual: Tensor, update: Tensor | None, weight: Tensor, epsilon: float, dtype: dtype, readers: int = 1
    ) -> tuple[Tensor, ...]:
        """Adds an update to the residual stream, and normalises the sum by its root mean square (arXiv 1910.07467).

        Args:
            residual: [..., H] in any precision.
            update: [..., H], likewise; without one the sum is the residual itself. Taking it from here, and not from
                elsewhere, saves a pass over the gradients that meet in it.
            weight: [H] weight of the norm.
            epsilon: added to the mean square.
            dtype: precision of the norm.
            readers: modules that read the norm, at most 3. Each gets a tensor of its own over the same memory, so that
                their gradients are added up here.

        Returns:
            The sum [..., H] in the wider precision of the two, and the norm [..., H] for each reader.
        """
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float, dtype: dtype) -> Tensor:
        """x [..., H] · rsqrt(mean x² + epsilon) · weight [H] in this precision."""
        ...

    def rotate(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Rotates queries and keys by their positions (rotary embedding, arXiv 2104.09864).

        Args:
            query: [T, heads, D].
            key: [T, kv_heads, D].
            cos: [..., T, D or D/2], of the angle of each position and pair; of D the first half is read.
            sin: likewise.

        Returns:
            Both in their shape and precision, contiguous.
        """
        ...

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) · up (arXiv 2002.05202), each [..., I]; backward keeps the two alone."""
        ...


def implementation(on: device) -> TrainLayers:
    """Triton's kernels on CUDA, else PyTorch's own operations."""
    if on.type == "cuda":
        from vibethinker.ops.train_layers import triton

        return triton
    return reference
