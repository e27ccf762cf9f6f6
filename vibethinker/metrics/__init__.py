"""Pass@K and the diversity of correct solutions."""

from typing import TYPE_CHECKING, Any

from vibethinker.metrics.functional import pass_at_k

if TYPE_CHECKING:
    from vibethinker.metrics.metric import PassAtK

__all__ = ["PassAtK", "pass_at_k"]


def __getattr__(name: str) -> Any:
    """Imports `PassAtK` on first use: the functions need no torch."""
    if name != "PassAtK":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vibethinker.metrics.metric import PassAtK

    return PassAtK
