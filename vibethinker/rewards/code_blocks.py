"""The program in a completion.

Only the text after the last `</think>` counts. The last fenced block there is the program; a last fence that is never
closed means a truncated text and no program. Without any fence the text itself is the program if it parses and has a
statement beside expressions, as some plain sentences do not.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from typing import Final

MAX_CHARACTERS: Final = 100_000  # of a program; a longer one is ignored
# Possessive quantifiers: a line of fence marks is scanned once.
_FENCE: Final = re.compile(r"^[ \t]*+(?P<marks>`{3,}+|~{3,}+)(?P<words>[^\n`]*+)$", re.MULTILINE)
_LANGUAGES: Final = frozenset({"", "python", "python3", "py", "py3"})


def program_of(completion: str) -> str | None:
    """The Python source in a completion, or `None`. Takes time linear in the text; never raises.

    A block in another language (```` ```text ````, ```` ```bash ````) is skipped.
    An indented block, as in a list, loses its common indentation.
    """
    text = completion.rpartition("</think>")[2].replace("\r\n", "\n")
    blocks = fenced_blocks(text)
    if blocks is None:
        return None
    programs = [content for language, content in blocks if language in _LANGUAGES]
    if blocks:
        program = programs[-1] if programs else ""
    else:
        program = textwrap.dedent(text).strip("\n")
        tree = parsed(program) if len(program) <= MAX_CHARACTERS else None
        if tree is None or all(isinstance(statement, ast.Expr) for statement in tree.body):
            return None
    return program if program.strip() and len(program) <= MAX_CHARACTERS else None


def fenced_blocks(text: str) -> list[tuple[str, str]] | None:
    """Language and content of the fenced blocks; `None` when the last one is not closed."""
    blocks: list[tuple[str, str]] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence["marks"].startswith(opened["marks"]) and not fence["words"].strip():  # CommonMark 4.5
            content = text[opened.end() + 1 : fence.start()]
            words = opened["words"].split()
            blocks.append((words[0].lower() if words else "", textwrap.dedent(content).rstrip("\n")))
            opened = None
    return blocks if opened is None else None


def has_effect(tree: ast.Module) -> bool:
    """Returns True if running a program may have an effect; a word of prose parses as a name and has none."""
    return any(
        not isinstance(statement, ast.Expr) or any(isinstance(node, ast.Call) for node in ast.walk(statement))
        for statement in tree.body
    )


def parsed(source: str) -> ast.Module | None:
    """The syntax tree of a source, or `None` if it is not Python, or nested too deeply for Python."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
