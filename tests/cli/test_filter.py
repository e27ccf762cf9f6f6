"""`filter` on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.evaluations import ODD, content, refused, rows, run, write
from vibethinker.datamodules import DomainDataModule
from vibethinker.datamodules.pass_rate_filter import Criteria, filter_by_difficulty
from vibethinker.evaluation.evaluator import EvaluationOptions
from vibethinker.evaluation.store import SampleStore
from vibethinker.problems import split_of

SETTINGS = EvaluationOptions(samples=2, max_new_tokens=4)


def test_criteria_by_hand() -> None:
    def kept(**bounds: Any) -> list[int]:
        return [solved for solved in range(9) if Criteria(**bounds).keeps(solved, 8)]

    assert kept() == [1, 2, 3, 4, 5, 6, 7]
    assert kept(min_error_rate=0.75) == [0, 1, 2]
    assert kept(max_error_rate=0.25) == [6, 7, 8]
    assert kept(min_error_rate=0.5, max_error_rate=0.75) == [2, 3, 4]
    assert Criteria(min_error_rate=0.1).keeps(9, 10)  # 1 - 0.9 is less than 0.1
    for bounds in ({"min_error_rate": 0.5, "max_error_rate": 0.4}, {"min_error_rate": -0.1}, {"max_error_rate": 1.1}):
        with pytest.raises(ValueError, match="min-error-rate"):
            Criteria(**bounds)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="min-solution-tokens"):
        Criteria(min_solution_tokens=-1)


ASK = ["--samples", "4", "--max-new-tokens", "8", *ODD]


def jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_is_filtered_and_its_held_out_files_stay(
    tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    train = rows(30, domain="sums", level=[1, {"x": None}])
    write(data / "train.jsonl", train)
    write(data / "test.jsonl", [{"id": "t", "problem": "held out?", "answer": "1", "domain": "sums"}])
    assert run("filter", tiny_model, str(data), "--out", str(out), *ASK) == 0
    assert (out / "test.jsonl").read_bytes() == (data / "test.jsonl").read_bytes()
    solved = SampleStore.open(tmp_path / "out.samples").solved()
    cut_off = {row["id"] for row in train if split_of(row["problem"]) in ("probe", "val")}
    assert 0 < len(cut_off) < 15
    assert {problem for _, problem in solved} == {row["id"] for row in train} - cut_off
    rates = {problem: right / n for (_, problem), (right, n) in solved.items()}
    expected = [
        row if row["id"] in cut_off else {**row, "pass_rate": rates[row["id"]]}
        for row in train
        if row["id"] in cut_off or 0 < rates[row["id"]] < 1
    ]
    assert jsonl(out / "train.jsonl") == expected
    manifest = content(out / "manifest.json")
    assert manifest["domains"]["sums"]["problems"] == len(rates)
    assert manifest["domains"]["sums"]["kept"] == len(expected) - len(cut_off)
    assert manifest["held_out"] == len(cut_off)
    before, after = (DomainDataModule("sums", str(folder)) for folder in (data, out))
    assert before.problems("val")
    assert [p.id for p in before.problems("val")] == [p.id for p in after.problems("val")]
    assert {p.id for p in after.problems("train")} == {row["id"] for row in expected} - cut_off
    assert "problems by how many of 4 samples" in capsys.readouterr().out

    hard = ["--min-error-rate", "1"]  # other criteria, the same samples
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.samples").glob("part-*")}
    assert run("filter", tiny_model, str(data), "--out", str(out), *ASK, *hard) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out.samples").glob("part-*")} == parts
    assert {row["pass_rate"] for row in jsonl(out / "train.jsonl") if "pass_rate" in row} <= {0.0}
    before_nothing = (out / "train.jsonl").read_bytes()
    error = refused(capsys, "filter", tiny_model, str(data), "--out", str(out), *ASK, "--min-solution-tokens", "5000")
    assert f"none of its problems is kept: sums: {len(rates)} problems, " in error
    assert (out / "train.jsonl").read_bytes() == before_nothing
    error = refused(capsys, "filter", tiny_model, str(data), "--out", str(out), *ASK, "--seed", "3")
    assert "--seed=0, now it is 3" in error
    assert run("filter", tiny_model, str(data), "--out", str(out), *ASK, "--seed", "3", "--overwrite") == 0


def test_held_out_shards_are_held_out(tiny_model: str, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "v1.5"
    write(data / "train.jsonl", rows(30, domain="sums"))
    for part in range(2):
        write(data / f"test-0000{part}-of-00002.jsonl", [{"id": f"t{part}", "problem": f"{part}?", "answer": "1"}])
    assert run("filter", tiny_model, str(data), "--out", str(out), *ASK, "--max-error-rate", "1") == 0
    assert {path.name for path in out.glob("test-*")} == {f"test-0000{part}-of-00002.jsonl" for part in range(2)}
    asked = {problem for _, problem in SampleStore.open(tmp_path / "v1.5.samples").solved()}
    named = ("train", "test")  # the training file's own share of the test split is trained on, as the loader does
    assert asked == {row["id"] for row in rows(30, domain="sums") if split_of(row["problem"]) in named}


def test_short_solutions_go(tiny_model: str, tmp_path: Path) -> None:
    """The tokenizer's tokens are bytes."""
    own = [row for row in rows(30) if split_of(row["problem"]) == "train"][:4]
    for row, solutions in zip(own, (["a" * 9, "b" * 20], ["c" * 9], "d" * 20, "e"), strict=True):
        row["solutions"] = solutions
    data, everything = write(tmp_path / "own.jsonl", own), Criteria(min_error_rate=0, min_solution_tokens=10)
    made = filter_by_difficulty(tiny_model, data, tmp_path / "out", everything, settings=SETTINGS)
    assert [row["solutions"] for row in jsonl(tmp_path / "out/train.jsonl")] == [["b" * 20], "d" * 20]
    assert made["domains"]["own"] == {"problems": 4, "never": 4, "between": 0, "always": 0, "kept": 2, "short": 2}


def test_parquet_keeps_its_types(tiny_model: str, tmp_path: Path) -> None:
    own = [row for row in rows(30) if split_of(row["problem"]) == "train"]
    columns = {
        "id": [r["id"] for r in own],
        "problem": [r["problem"] for r in own],
        "answer": [f"{r['answer']}" for r in own],
    }
    table = pa.table(
        {**columns, "level": pa.array([1] * len(own), pa.int8()), "solutions": [["x" * 9, "y"]] * len(own)}
    )
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "train.parquet")
    everything = Criteria(min_error_rate=0, min_solution_tokens=5)
    for _ in range(2):  # also what is filtered already
        filter_by_difficulty(tiny_model, tmp_path / "data", tmp_path / "out", everything, settings=SETTINGS)
    made = pq.read_table(tmp_path / "out" / "train.parquet")
    assert made.schema.field("level").type == pa.int8()
    assert made["solutions"].to_pylist() == [["x" * 9]] * len(own)
    assert made["pass_rate"].to_pylist() == [0.0] * len(own)


def test_what_filter_refuses(tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data" / "train.jsonl", rows(3))
    command = ["filter", tiny_model, str(tmp_path / "data"), *ASK, "--out"]
    assert "data: is there already, and not a folder of filtered data" in refused(
        capsys, *command, str(tmp_path / "data")
    )
    write(tmp_path / "data" / "test.jsonl", rows(3))
    Path(data).unlink()
    assert "holds 0 files train.jsonl" in refused(capsys, *command, str(tmp_path / "out"))
    assert "there is no file" in refused(capsys, "filter", tiny_model, "nosuch.jsonl", "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
