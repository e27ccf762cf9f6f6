"""Spectrum-to-Signal post-training of small reasoning models on PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vibethinker.problems import Problem

if TYPE_CHECKING:
    from vibethinker.grpo import GRPOModule
    from vibethinker.sft import SFTModule

__version__ = "0.2.0"
__all__ = ["GRPOModule", "Problem", "SFTModule", "__version__"]

_LAZY = {"GRPOModule": "vibethinker.grpo", "SFTModule": "vibethinker.sft"}


def __getattr__(name: str) -> Any:
    """The modules on first use: verifier processes and `--help` need neither torch nor lightning."""
    if name not in _LAZY:
        raise AttributeError(f"module 'vibethinker' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
