"""Triton kernels; each module says which plain functions, or which of transformers' layers, it stands for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch


def kernels_of(device: torch.device, name: str, plain: Any) -> Any:
    """The module of this name on CUDA; elsewhere the plain one, since Triton need not be installed there."""
    return import_module(f"vibethinker.ops.{name}") if device.type == "cuda" else plain
