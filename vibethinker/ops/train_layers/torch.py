"""The steps of a decoder layer in training in PyTorch's operations, whose gradients autograd derives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def add_norm(
    residual: Tensor, update: Tensor | None, weight: Tensor, epsilon: float, dtype: torch.dtype, readers: int = 1
) -> tuple[Tensor, ...]:
    """See `vibethinker.ops.train_layers.TrainLayers`."""
    total = residual if update is None else residual + update
    return (total, *[F.rms_norm(total, total.shape[-1:], weight, epsilon).to(dtype)] * readers)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
    """See `vibethinker.ops.train_layers.TrainLayers`."""
    return add_norm(x, None, weight, epsilon, dtype)[1]


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """See `vibethinker.ops.train_layers.TrainLayers`."""
    angle = torch.complex(*(x[0, :, : query.shape[-1] // 2].float() for x in (cos, sin)))[:, None]
    rotated = [torch.complex(*x.float().chunk(2, -1)) * angle for x in (query, key)]
    q, k = (torch.cat([x.real, x.imag], -1).to(query.dtype) for x in rotated)
    return q, k


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """See `vibethinker.ops.train_layers.TrainLayers`."""
    return gate * gate.sigmoid() * up
