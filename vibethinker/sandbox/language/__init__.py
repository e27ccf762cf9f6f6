"""Python for programs that nobody vouches for: a policy on their source, and guards while they run.

A program compiled by `compile_program` and run in a `namespace` reaches nothing but its own objects, plain data, and
frozen tables of library functions. It can still use time and memory without end, and crash the interpreter: limits on
those belong to the process around it.
"""

from __future__ import annotations

from typing import Any

from vibethinker.sandbox.exceptions import OutputLimitError, RejectedError
from vibethinker.sandbox.language import guards
from vibethinker.sandbox.language.builtin import make_namespace
from vibethinker.sandbox.language.console import Console
from vibethinker.sandbox.language.transformer import compile_program
from vibethinker.sandbox.language.warm import preload, reset

__all__ = [
    "Console",
    "OutputLimitError",
    "RejectedError",
    "compile_program",
    "namespace",
    "open_to_writes",
    "preload",
    "reset",
]


def open_to_writes(kind: type) -> None:
    """Lets programs set attributes of a class's instances, as they may of their own."""
    guards.BASES.add(kind)


def namespace(console: Console, name: str = "__main__") -> dict[str, Any]:
    """Globals for `exec(code, namespace(console))`.

    What an earlier program changed is not seen by the next: see `reset`.
    """
    reset()
    return make_namespace(console, name)
