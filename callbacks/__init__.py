"""Callbacks: the diversity probe, expert fusion, Hugging Face export, progress."""

from vibethinker.callbacks.diversity_probe import DiversityProbe
from vibethinker.callbacks.expert_fusion import ExpertFusion
from vibethinker.callbacks.huggingface_export import HuggingFaceExport
from vibethinker.callbacks.progress import Progress

__all__ = ["DiversityProbe", "ExpertFusion", "HuggingFaceExport", "Progress"]
