"""What a result was made from, compared with today's options and files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from vibethinker.utils.provenance import Provenance, digest, file_digest, leaves


@pytest.mark.parametrize(
    ("saved", "now", "text"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": (1, 2), "p": Path("x")}, {"a": [1, 2], "p": "x"}, None),
        ({"a": 1, "b": None}, {"a": 1}, None),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, "a=1, now it is 2"),
        ({"t": {"max_steps": 6}}, {"t": {"max_steps": 8}}, "t.max_steps=6, now it is 8"),
        ({"a": [1, 2]}, {"a": [1]}, "a=[1, 2], now it is [1]"),
        ({"a": 1}, {}, "a=1, now it is None"),
        ({}, {"name": "x"}, "name=None, now it is 'x'"),
        ({"c": [{"k": 1}, {"k": 2}]}, {"c": [{"k": 1}, {"k": 3}]}, "c.1.k=2, now it is 3"),
    ],
)
def test_the_first_option_that_differs(saved: dict[str, Any], now: dict[str, Any], text: str | None) -> None:
    difference = Provenance(now).difference(Provenance(saved))
    assert (None if difference is None else str(difference)) == text


def test_files_come_after_options() -> None:
    saved = Provenance({"a": 1}, {"x.jsonl": "old"})
    difference = Provenance({"a": 1}, {"x.jsonl": "new"}).difference(saved)
    assert difference == ("x.jsonl", "old", "new", True)
    assert str(difference) == "another version of x.jsonl"
    assert str(Provenance({"a": 2}).difference(saved)) == "a=1, now it is 2"


def test_what_is_saved_is_read_back() -> None:
    provenance = Provenance({"a": (1, {"b": Path("c")})}, {"d": digest("e")})
    assert Provenance(**asdict(provenance)).difference(provenance) is None


def test_a_files_digest_is_that_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert file_digest(tmp_path / "file") == digest(b"content") == digest("content") != digest("other")


def test_leaves_keep_lists_of_plain_values_whole() -> None:
    assert dict(leaves({"a": [1, 2], "b": [{"c": 1}], "d": {}})) == {"a": [1, 2], "b.0.c": 1}
