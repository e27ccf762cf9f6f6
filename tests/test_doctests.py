"""The examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    path.relative_to(ROOT)
    for folder in ("vibethinker", "callbacks", "datamodules", "cli")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not any(parent.is_symlink() for parent in path.parents) and ">>> " in path.read_text("utf-8")
]


def module_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts if parts[0] == "vibethinker" else ("vibethinker", *parts)).removesuffix(".__init__")


def test_there_are_examples() -> None:
    assert len(SOURCES) >= 8


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_the_examples_of(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # examples may write files
    failed, attempted = doctest.testmod(importlib.import_module(module_of(path)), optionflags=doctest.ELLIPSIS)
    assert attempted > 0
    assert failed == 0
