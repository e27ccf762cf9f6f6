"""The state of every sequence being decoded, and how a sampled token changes it."""

from __future__ import annotations

from typing import Any

from torch import device

from vibethinker.ops.decode_state import torch as reference
from vibethinker.ops.decode_state.state import DecodeState as DecodeState


def implementation(on: device) -> Any:
    """The module of kernels on CUDA, and the reference elsewhere: the same functions with the same arguments."""
    if on.type != "cuda":
        return reference
    from vibethinker.ops.decode_state import triton

    return triton
