"""Operations with two implementations: one folder each, with the same functions in `torch` and `triton`.

`torch` is the reference, on any device, and documents the contract. `triton` holds kernels for CUDA and is optional.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from torch import device


def implementation(operation: ModuleType, on: device) -> Any:
    """The operation's `triton` on CUDA and its `torch` elsewhere: the same functions with the same arguments."""
    return import_module(f"{operation.__name__}.{'triton' if on.type == 'cuda' else 'torch'}")
