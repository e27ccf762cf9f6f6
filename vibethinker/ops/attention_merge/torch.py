"""Merged attention in PyTorch's operations."""

from __future__ import annotations

import torch
from torch import Tensor


def merge_(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """See `vibethinker.ops.attention_merge.AttentionMerge`."""
    weight = torch.sigmoid(other_lse - lse).T[..., None]  # exp(lse₂ − ln(exp lse₁ + exp lse₂))
    out.copy_(torch.lerp(out.to(lse.dtype), other.to(lse.dtype), weight))
    lse.copy_(torch.logaddexp(lse, other_lse))
