"""Callbacks: the diversity probe, expert fusion, Hugging Face export, progress."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vibethinker.callbacks.checkpoint_export import HuggingFaceExport
    from vibethinker.callbacks.diversity_probe import DiversityProbe
    from vibethinker.callbacks.expert_fusion import ExpertFusion
    from vibethinker.callbacks.progress import Progress

__all__ = ["DiversityProbe", "ExpertFusion", "HuggingFaceExport", "Progress"]

_HOMES = {
    "HuggingFaceExport": "checkpoint_export",
    "ExpertFusion": "expert_fusion",
    "DiversityProbe": "diversity_probe",
    "Progress": "progress",
}


def __getattr__(name: str) -> Any:
    """All of them on first use of one: the meter needs no Lightning, and short class names are those of loaded ones."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vibethinker.callbacks' has no attribute {name!r}")
    globals().update({each: getattr(import_module(f"{__name__}.{home}"), each) for each, home in _HOMES.items()})
    return globals()[name]
