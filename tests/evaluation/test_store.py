"""Kept samples: whole or not there, the same when read, refused when they are of something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vibethinker import Problem
from vibethinker.evaluation.store import SCHEMA, Said, SampleStore, problems_digest

TESTS = ({"call": "f", "args": [[1, 2]], "expected": {"a": None}}, {"assert": "assert f(2) == 4"})
PROBLEMS = [
    Problem(id="a", domain="algebra", prompt="½ of “3”?\n", answer="3/2", source="file"),
    Problem(id="b", domain="code", prompt="double", tests=TESTS, source="file"),
]


def said(problem: Problem, file: str = "bench") -> Said:
    given = [None, None] if problem.tests else ["1.5", None]
    facts = {"tokens": [3, 9], "finished": [True, False], "outcomes": [1.0, 0.25], "kinds": ["passed", "partial"]}
    return Said(file, problem, -(2**63), ["\\boxed{1.5}", ""], given=given, unboxed=[False, True], **facts)  # type: ignore[arg-type]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "s", {"--k": [1]})
    written = [said(PROBLEMS[0]), said(PROBLEMS[1]), said(PROBLEMS[0], "other")]
    with store.writing():
        store.add(written[:2])
        store.add(written[2:])
    again = SampleStore.open(tmp_path / "s")
    assert list(again.read()) == written
    assert again.finished() == {("bench", "a"), ("bench", "b"), ("other", "a")}
    assert again.solved() == dict.fromkeys(again.finished(), (1, 2))
    table = pq.read_table(tmp_path / "s" / "part-00000.parquet")
    assert table.schema.equals(SCHEMA)
    assert table["sample"].to_pylist() == [0, 1, 0, 1]


def test_demonstrations_are_not_kept(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, {})
    with store.writing():
        store.add([said(replace(PROBLEMS[0], solutions=("long",)))])
    assert next(store.read()).problem == PROBLEMS[0]


def test_samples_of_something_else_are_refused(tmp_path: Path) -> None:
    with SampleStore(tmp_path, {"--seed": 0, "--samples": 8}).writing():
        pass
    SampleStore(tmp_path, {"--samples": 8, "--seed": 0})
    with pytest.raises(ValueError, match=r"made with --seed = 0, now it is 1: choose another --out, or --overwrite"):
        SampleStore(tmp_path, {"--seed": 1, "--samples": 8})
    with pytest.raises(ValueError, match=r"--top-p = None, now it is 0.9"):
        SampleStore(tmp_path, {"--seed": 0, "--samples": 8, "--top-p": 0.9})
    with pytest.raises(FileNotFoundError, match="no samples are kept there"):
        SampleStore.open(tmp_path / "nowhere")


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        SampleStore(tmp_path, {}).writing(),
        pytest.raises(FileExistsError, match="another process"),
        SampleStore(tmp_path, {}).writing(),
    ):
        pass


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, {})
    with store.writing():
        store.add([said(PROBLEMS[0])])
    part = store.parts[0]
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"part-00000\.parquet: not a file of samples"):
        list(store.read())
    with pytest.raises(ValueError, match=r"part-00000\.parquet: not a file of samples"):
        store.finished()


def test_a_replacement_that_fails_changes_nothing(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "s", {"--reward": None})
    with store.writing():
        store.add([said(PROBLEMS[0])])
    broken = replace(said(PROBLEMS[0]), kinds=["one too few"])
    with pytest.raises(ValueError, match="shorter"), store.replacing({"--reward": "x"}) as write:
        write("part-00000.parquet", [broken])
    assert list(SampleStore.open(tmp_path / "s").read()) == [said(PROBLEMS[0])]
    assert SampleStore.open(tmp_path / "s").options == {"--reward": None}


def test_the_digest_of_problems_is_of_what_is_asked() -> None:
    changed = [replace(PROBLEMS[0], answer="2"), PROBLEMS[1]]
    assert problems_digest(PROBLEMS) == problems_digest([replace(p, source="moved") for p in PROBLEMS])
    assert len({problems_digest(p) for p in (PROBLEMS, changed, PROBLEMS[:1], PROBLEMS[::-1])}) == 4
