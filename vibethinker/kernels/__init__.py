"""Arithmetic of this library as Triton kernels: each module is the twin of a plain one in PyTorch's operations."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch


def kernels_of(device: torch.device, name: str, plain: Any) -> Any:
    """The module of this name on CUDA; elsewhere the plain one, since Triton need not be installed there."""
    return import_module(f"vibethinker.kernels.{name}") if device.type == "cuda" else plain
