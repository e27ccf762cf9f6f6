"""Attention to two sets of keys merged into attention to both: see `vibethinker.packed.shared_prompts`."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, device

from vibethinker.ops.attention_merge import torch as reference


class AttentionMerge(Protocol):
    """The merge of two attention outputs by their log-sum-exp."""

    def merge_(self, out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
        """Merges `other` [N, heads, D] into `out` and `other_lse` [heads, N] into `lse`, in place."""
        ...


def implementation(on: device) -> AttentionMerge:
    """Triton's kernels on CUDA, else PyTorch's own operations."""
    if on.type == "cuda":
        from vibethinker.ops.attention_merge import triton

        return triton
    return reference
