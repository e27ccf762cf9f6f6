"""The steps between the matrix products of a decoder layer in PyTorch's operations."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Rotation(NamedTuple):
    """Rotary embedding of queries and keys (arXiv 2104.09864), with the norm of each head that may precede it.

    Attributes:
        cos, sin: float32 [M, D/2], of each position's angles.
        norms: weights [D] of the queries' and the keys' RMS norm and its epsilon; `None` without such norms.
    """

    cos: Tensor
    sin: Tensor
    norms: tuple[Tensor, Tensor, float] | None = None


def add_norm_(residual: Tensor, update: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
    """Adds an update [T, H] to the float32 residual stream [T, H], in place, and returns its RMS norm [T, H].

    The norm is in the weight's precision. Without an update the stream stays as it is.
    """
    if update is not None:
        residual.add_(update)
    return _normed(residual, weight, epsilon).to(weight.dtype)


def _normed(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return (x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt_()).mul_(weight)


def rotate_(qkv: Tensor, positions: Tensor, heads: int, kv_heads: int, rotation: Rotation) -> None:
    """Rotates queries and keys by their positions, in place.

    Args:
        qkv: [T, (heads + 2·kv_heads)·D], the queries, keys and values of each token.
        positions: int64 [T].
        heads: heads of the queries.
        kv_heads: heads of keys and values.
        rotation: angles and norms.
    """
    x = qkv.view(qkv.shape[0], heads + 2 * kv_heads, -1)[:, : heads + kv_heads]
    rotated = x.float()
    if rotation.norms:
        q_norm, k_norm, epsilon = rotation.norms
        weight = F.pad(q_norm.expand(heads, -1), (0, 0, 0, kv_heads))
        weight[heads:] = k_norm
        rotated = _normed(rotated, weight.float(), epsilon)
    cos, sin = (table.index_select(0, positions)[:, None] for table in rotation[:2])
    a, b = rotated.chunk(2, -1)
    first, second = (a * cos).addcmul_(b, sin, value=-1), (b * cos).addcmul_(a, sin)
    half = x.shape[-1] // 2
    x[..., :half], x[..., half:] = first, second


def swiglu(gate_up: Tensor) -> Tensor:
    """[T, 2·I], gate and up side by side → silu(gate) · up [T, I]."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate).mul_(up)
