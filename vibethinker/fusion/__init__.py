"""Fusion of experts: a streaming weighted average of checkpoints."""

from vibethinker.fusion.average import fuse

__all__ = ["fuse"]
