"""Attention to two sets of keys merged into attention to both: see `vibethinker.packed.shared_prompts`."""

from __future__ import annotations

from typing import Any

from torch import device

from vibethinker.ops.attention_merge import torch as reference


def implementation(on: device) -> Any:
    """The module of kernels on CUDA, and the reference elsewhere: the same functions with the same arguments."""
    if on.type != "cuda":
        return reference
    from vibethinker.ops.attention_merge import triton

    return triton
