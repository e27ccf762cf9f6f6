"""Runs untrusted programs against tests."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vibethinker.sandbox.exceptions import SandboxError
    from vibethinker.sandbox.job import Verdict
    from vibethinker.sandbox.sandbox import Sandbox

__all__ = ["Sandbox", "SandboxError", "Verdict"]


def __getattr__(name: str) -> Any:
    """The host's side on first use: the processes of programs are parts of this package and need none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vibethinker.sandbox import sandbox

    return getattr(sandbox, name)
