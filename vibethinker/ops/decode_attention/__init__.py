"""Attention of one new token of each sequence to the KV cache."""

from __future__ import annotations

from typing import Any

from torch import device

from vibethinker.ops.decode_attention import torch as reference
from vibethinker.ops.decode_attention.split import Split as Split


def implementation(on: device) -> Any:
    """The module of kernels on CUDA, and the reference elsewhere: the same functions with the same arguments."""
    if on.type != "cuda":
        return reference
    from vibethinker.ops.decode_attention import triton

    return triton
