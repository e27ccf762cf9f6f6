"""The signature of a program: its syntax tree, normalised.

Programs that differ only in layout, comments, docstrings, annotations, or in the names that they define themselves
(functions, parameters, variables) have the same signature.
"""

from __future__ import annotations

import ast

from vibethinker.rewards.code_blocks import parsed, program_of


def program_signature(completion: str) -> str | None:
    """The normalised program of a completion, or `None` when there is none that parses. Never raises."""
    program = program_of(completion)
    tree = None if program is None else parsed(program)
    if tree is None:
        return None
    # The same shape gives the same order, whatever the names are.
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        for name in _defined(node):
            names.setdefault(name, f"_{len(names)}")
    for node in ast.walk(tree):
        _normalise(node, names)
    try:
        return ast.dump(tree)
    except RecursionError:
        return None


def _defined(node: ast.AST) -> list[str]:
    """The names that a node defines."""
    match node:
        case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name) | ast.arg(name):
            return [name]
        case ast.Name(name, ast.Store()) | ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
            return [name]
    return []


def _normalise(node: ast.AST, names: dict[str, str]) -> None:
    """Numbers the names that the program defines; removes annotations and docstrings."""
    for field in ("name", "id", "arg", "asname"):
        name = getattr(node, field, None)
        if isinstance(name, str) and not (field == "name" and isinstance(node, ast.alias)):
            setattr(node, field, names.get(name, name))
    for field in ("annotation", "returns"):
        if isinstance(node, ast.arg | ast.FunctionDef | ast.AsyncFunctionDef) and hasattr(node, field):
            setattr(node, field, None)
    if isinstance(body := getattr(node, "body", None), list):
        body[:] = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
