"""Pass@K and the diversity of correct solutions."""

from vibethinker.metrics.functional import pass_at_k
from vibethinker.metrics.metric import PassAtK

__all__ = ["PassAtK", "pass_at_k"]
