"""Kept samples: whole or not there, the same when read, refused when they are of something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vibethinker import Problem
from vibethinker.evaluation.grading import GradedSamples, extract_answers
from vibethinker.evaluation.store import SCHEMA, SampleStore, _table, problems_digest, read_part

CODE = "```python\nx = 1\n```"
TESTS = ({"call": "f", "args": [[1, 2]], "expected": {"a": None}}, {"assert": "assert f(2) == 4"})
PROBLEMS = [
    Problem(id="a", domain="algebra", prompt="½ of “3”?\n", answer="3/2", source="file"),
    Problem(id="b", domain="code", prompt="double", tests=TESTS, source="file"),
]


def samples_of(*problems: Problem, file: str = "bench") -> GradedSamples:
    """Two samples of each problem, the first of them correct."""
    count = len(problems)
    texts = [text for p in problems for text in (CODE if p.tests else "\\boxed{1.5}", "")]
    lengths, finished = torch.tensor([[3, 9]] * count), torch.tensor([[True, False]] * count)
    scores, kinds = torch.tensor([[1.0, 0.25]] * count), ["passed", "partial"] * count
    facts: dict[str, Any] = {"scores": scores, "kinds": kinds, "files": [file] * count}
    return GradedSamples(problems, 2, texts, lengths, finished, [-(2**63)] * count, **facts)


def rows(samples: GradedSamples) -> pa.Table:
    return _table(extract_answers(samples))


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "s", {"--k": [1]})
    written = [samples_of(*PROBLEMS), samples_of(PROBLEMS[0], file="other")]
    with store.writing():
        for samples in written:
            store.add(samples)
    again = SampleStore.open(tmp_path / "s")
    read = again.read()
    assert rows(read).equals(pa.concat_tables(map(rows, written)))
    assert read.problems == [*PROBLEMS, PROBLEMS[0]]
    assert read.answers == ["1.5", None, None, None, "1.5", None]
    assert read.unboxed == [False, True] * 3
    without = again.read(texts=False)
    assert without.completions == []
    assert rows(replace(without, completions=read.completions)).equals(rows(read))
    assert again.solved() == dict.fromkeys([("bench", "a"), ("bench", "b"), ("other", "a")], (1, 2))
    table = pq.read_table(tmp_path / "s" / "part-00000.parquet")
    assert table.schema.equals(SCHEMA)
    assert table["sample"].to_pylist() == [0, 1, 0, 1]


def test_a_store_without_samples_is_empty(tmp_path: Path) -> None:
    assert SampleStore(tmp_path, {}).read().problems == []


def test_demonstrations_are_not_kept(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, {})
    with store.writing():
        store.add(samples_of(replace(PROBLEMS[0], solutions=("long",))))
    assert store.read().problems == [PROBLEMS[0]]


def test_samples_of_something_else_are_refused(tmp_path: Path) -> None:
    with SampleStore(tmp_path, {"--seed": 0, "--samples": 8}).writing():
        pass
    SampleStore(tmp_path, {"--samples": 8, "--seed": 0})
    with pytest.raises(ValueError, match=r"made with --seed=0, now it is 1: choose another --out, or --overwrite"):
        SampleStore(tmp_path, {"--seed": 1, "--samples": 8})
    with pytest.raises(ValueError, match=r"--top-p=None, now it is 0.9"):
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
        store.add(samples_of(PROBLEMS[0]))
    part = store.parts[0]
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"part-00000\.parquet: not a file of samples"):
        store.read()
    with pytest.raises(ValueError, match=r"part-00000\.parquet: not a file of samples"):
        store.solved()


def test_missing_samples_are_named(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    pq.write_table(rows(samples_of(*PROBLEMS)).slice(1), path)
    with pytest.raises(ValueError, match=r"part\.parquet: not a file of samples .* fewer than 2"):
        read_part(path)


def test_a_replacement_that_fails_changes_nothing(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "s", {"--reward": None})
    with store.writing():
        store.add(samples_of(PROBLEMS[0]))
    broken = replace(samples_of(PROBLEMS[0]), kinds=["one too few"])
    with (
        pytest.raises(ValueError, match="kind expected length 2 but got length 1"),
        store.replacing({"--reward": "x"}) as write,
    ):
        write("part-00000.parquet", broken)
    assert rows(SampleStore.open(tmp_path / "s").read()).equals(rows(samples_of(PROBLEMS[0])))
    assert SampleStore.open(tmp_path / "s").options == {"--reward": None}


def test_the_digest_of_problems_is_of_prompts_and_answers() -> None:
    changed = [replace(PROBLEMS[0], answer="2"), PROBLEMS[1]]
    assert problems_digest(PROBLEMS) == problems_digest([replace(p, source="moved") for p in PROBLEMS])
    assert len({problems_digest(p) for p in (PROBLEMS, changed, PROBLEMS[:1], PROBLEMS[::-1])}) == 4
