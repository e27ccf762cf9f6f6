"""The steps between the matrix products of a decoder layer in inference."""

from __future__ import annotations

from typing import Any

from torch import device

from vibethinker.ops.decoder_layers import torch as reference
from vibethinker.ops.decoder_layers.torch import Rotation as Rotation


def implementation(on: device) -> Any:
    """The module of kernels on CUDA, and the reference elsewhere: the same functions with the same arguments."""
    if on.type != "cuda":
        return reference
    from vibethinker.ops.decoder_layers import triton

    return triton
