"""What happens around training: probe, choose, fuse, export, show."""

from vibethinker.callbacks.export import HuggingFaceExport
from vibethinker.callbacks.fusion import ExpertFusion
from vibethinker.callbacks.probe import DiversityProbe
from vibethinker.callbacks.progress import Progress

__all__ = ["DiversityProbe", "ExpertFusion", "HuggingFaceExport", "Progress"]
