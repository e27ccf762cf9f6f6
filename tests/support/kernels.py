"""Random tensors and plain arithmetic for tests of kernels."""

from __future__ import annotations

import torch
from torch import Tensor


def normal(*shape: int, device: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight


def angles(positions: int, size: int, device: str) -> tuple[Tensor, Tensor]:
    turn = torch.arange(positions)[:, None] * 100.0 ** -(torch.arange(size // 2) / (size // 2))
    return turn.cos().to(device), turn.sin().to(device)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [T, heads, D] as complex numbers whose parts lie D/2 apart, cos and sin [T, D/2]."""
    real, imaginary = x.chunk(2, -1)
    turned = torch.complex(real, imaginary) * torch.complex(cos, sin)[:, None]
    return torch.cat([turned.real, turned.imag], -1)
