"""Commands that sample from a tiny model, on files of a few problems."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import miniature
from vibethinker import Problem
from vibethinker.cli.main import main

ODD = ["--reward", "tests.support.miniature.odd_length"]


def even_length(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    return [1 - value for value in miniature.odd_length(problems, completions)]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"p{i}", "problem": f"{i} + 1?", "answer": i + 1, **more} for i in range(count)]


def run(*command: str) -> int:
    return main(list(command))


def refused(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    capsys.readouterr()
    assert run(*command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def content(path: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(path.read_text())
    return made
