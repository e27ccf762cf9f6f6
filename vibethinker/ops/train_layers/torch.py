"""The steps of a decoder layer in training in PyTorch's operations, whose gradients autograd derives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def add_norm(
    residual: Tensor, update: Tensor | None, weight: Tensor, epsilon: float, dtype: torch.dtype, readers: int = 1
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
    total = residual if update is None else residual + update
    return (total, *[F.rms_norm(total, total.shape[-1:], weight, epsilon).to(dtype)] * readers)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
    """X [..., H] · rsqrt(mean x² + epsilon) · weight [H] in this precision."""
    return add_norm(x, None, weight, epsilon, dtype)[1]


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotates queries and keys by their positions (rotary embedding, arXiv 2104.09864).

    Args:
        query: [T, heads, D].
        key: [T, kv_heads, D].
        cos: [..., T, D or D/2], of the angle of each position and pair; of D the first half is read.
        sin: likewise.

    Returns:
        Both in their shape and precision, contiguous.
    """
    angle = torch.complex(*(x[0, :, : query.shape[-1] // 2].float() for x in (cos, sin)))[:, None]
    rotated = [torch.complex(*x.float().chunk(2, -1)) * angle for x in (query, key)]
    q, k = (torch.cat([x.real, x.imag], -1).to(query.dtype) for x in rotated)
    return q, k


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up (arXiv 2002.05202), each [..., I]; backward keeps the two alone."""
    return gate * gate.sigmoid() * up
