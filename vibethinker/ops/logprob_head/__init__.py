"""Log-probs, entropies and gradients of a chunk of logits."""

from __future__ import annotations

from typing import Any

from torch import device

from vibethinker.ops.logprob_head import torch as reference


def implementation(on: device) -> Any:
    """The module of kernels on CUDA, and the reference elsewhere: the same functions with the same arguments."""
    if on.type != "cuda":
        return reference
    from vibethinker.ops.logprob_head import triton

    return triton
