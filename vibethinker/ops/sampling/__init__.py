"""Sampling the next token of every sequence."""

from __future__ import annotations

from typing import Any

from torch import device

from vibethinker.ops.sampling import torch as reference
from vibethinker.ops.sampling.torch import SamplingParams as SamplingParams


def implementation(on: device) -> Any:
    """The module of kernels on CUDA, and the reference elsewhere: the same functions with the same arguments."""
    if on.type != "cuda":
        return reference
    from vibethinker.ops.sampling import triton

    return triton
