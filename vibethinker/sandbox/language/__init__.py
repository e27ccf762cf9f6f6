"""Python for untrusted programs: a policy on their source, and guards while they run.

A program compiled by `compile_program` and run in a `namespace` reaches nothing but its own objects, plain data, and
frozen tables of library functions. It can still use time and memory without end, and crash the interpreter: limits on
those belong to the process around it.
"""

from vibethinker.sandbox.exceptions import OutputLimitError, RejectedError
from vibethinker.sandbox.language.ast_transformer import compile_program
from vibethinker.sandbox.language.attribute_guards import BASES
from vibethinker.sandbox.language.preloading import namespace, preload
from vibethinker.sandbox.language.standard_streams import Console

__all__ = ["Console", "OutputLimitError", "RejectedError", "compile_program", "namespace", "open_to_writes", "preload"]


def open_to_writes(kind: type) -> None:
    """Lets programs set attributes of a class's instances, as they may of their own."""
    BASES.add(kind)
