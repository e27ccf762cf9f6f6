"""Merged attention in PyTorch's operations."""

from __future__ import annotations

import torch
from torch import Tensor


def merge_(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """Merges `other` [N, heads, D] into `out` and `other_lse` [heads, N] into `lse`, in place."""
    weight = torch.sigmoid(other_lse - lse).T[..., None]  # exp(lse₂ − ln(exp lse₁ + exp lse₂))
    out.copy_(torch.lerp(out.to(lse.dtype), other.to(lse.dtype), weight))
    lse.copy_(torch.logaddexp(lse, other_lse))
