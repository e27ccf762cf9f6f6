"""`prepare`: a configuration and raw files to a folder that the data modules read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from vibethinker.cli.main import main
from vibethinker.datamodules import AlgebraDataModule
from vibethinker.datamodules.prepare import output
from vibethinker.problems import SPLITS

CONFIG = Path(__file__).parents[2] / "configs/data/math.yaml"
SHARED = Path(os.environ.get("VIBETHINKER_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
ANIMALS = ["cats", "dogs", "cows", "pigs", "hens", "owls", "bats", "rats", "fish", "ants", "bees", "moles"]


def row(number: int) -> dict[str, Any]:
    problem = " ".join(f"{name}{number}" for name in ANIMALS)
    solution = f"Thus \\boxed{{{number}}}."
    return {
        "id": f"raw/{number}",
        "problem": problem,
        "answer": number,
        "solution": solution,
        "kind": "ABC"[number % 3],
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a configuration, raw rows and a benchmark."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    rows = [*map(row, range(90)), row(7) | {"id": "again"}, row(100) | {"answer": None, "solution": "?"}]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "bench.jsonl").write_text(json.dumps({"problem": row(3)["problem"].upper()}) + "\n")
    configure({})
    return tmp_path


def configure(changes: dict[str, Any]) -> None:
    content = {
        "out": "clean",
        "sources": [{"data": "raw.jsonl", "fields": {"domain": "kind"}}],
        "domains": {"algebra": ["A"], "geometry": ["B"]},
        "benchmarks": ["bench.jsonl"],
    }
    Path("set.yaml").write_text(yaml.safe_dump(content | changes))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_folder_that_the_data_modules_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "set.yaml"]) == 0
    clean = folder / "clean"
    assert {path.name for path in clean.iterdir()} == {*(f"{s}.jsonl" for s in SPLITS), "removed.jsonl", "report.json"}
    rows = [r for split in SPLITS for r in lines(clean / f"{split}.jsonl")]
    assert len(rows) == 59
    assert rows[0] == {
        "id": rows[0]["id"],
        "domain": rows[0]["domain"],
        "prompt": row(int(rows[0]["answer"]))["problem"],
        "answer": rows[0]["answer"],
        "solutions": [f"Thus \\boxed{{{rows[0]['answer']}}}."],
        "source": "raw.jsonl",
    }
    removed = lines(clean / "removed.jsonl")
    assert [r["line"] for r in removed] == sorted(r["line"] for r in removed)
    by_id = {r["id"]: r for r in removed if r["reason"] != "no domain"}
    assert by_id["raw/3"]["matches"][0] | {"ngram": ""} == {
        "benchmark": "bench.jsonl", "id": "bench/1", "shared": 3, "ngram": ""
    }  # fmt: skip
    assert by_id["again"] == {
        "id": "again", "source": "raw.jsonl", "line": 91, "domain": "geometry", "reason": "duplicate", "of": "raw/7"
    }  # fmt: skip
    report = json.loads((clean / "report.json").read_text())
    assert report["rows"] == {"raw.jsonl": 92}
    assert report["removed"]["no domain"] == {"": 30}
    assert report["without_domain"] == {"C": 30}
    assert report["removed"]["contaminated"] == {"algebra": 1}
    assert report["shared_ngrams"] == {"3": 1}
    assert report["benchmarks"] == {"bench.jsonl": {"rows": 1, "matched": 1}}
    assert sum(report["domains"]["algebra"][split] for split in SPLITS) == 29
    said = capsys.readouterr().out
    assert "no answer: raw.jsonl, line 92, raw/100: missing, and no solution holds a" in said
    assert "no domain: C 30" in said
    assert said.splitlines()[-1] == "clean"
    data = AlgebraDataModule(data="clean", batch_size=4)
    data.setup("fit")
    assert len(data.problems("train")) == report["domains"]["algebra"]["train"]
    assert {p.domain for p in data.problems("train")} == {"algebra"}


def test_the_same_again_is_already_there_and_another_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "set.yaml"]) == 0
    first = content(folder / "clean")
    stamp = (folder / "clean").stat().st_ino
    assert main(["prepare", "set.yaml"]) == 0
    assert "clean: already there" in capsys.readouterr().out
    assert (folder / "clean").stat().st_ino == stamp
    assert main(["prepare", "set.yaml", "--out", "elsewhere"]) == 0
    assert content(folder / "elsewhere") == first  # byte for byte

    configure({"decontamination": {"min_shared": 4}})
    assert main(["prepare", "set.yaml"]) == 1
    assert (
        "clean: exists already, but it was made with decontamination.min_shared=1, now it is 4; --ov"
        in capsys.readouterr().err
    )
    configure({})
    with (folder / "raw.jsonl").open("a") as file:
        file.write(json.dumps(row(120)) + "\n")
    assert main(["prepare", "set.yaml"]) == 1
    assert (
        "clean: exists already, but it was made with another version of raw.jsonl; --overwrite"
        in capsys.readouterr().err
    )
    assert content(folder / "clean") == first
    assert main(["prepare", "set.yaml", "--overwrite"]) == 0
    assert content(folder / "clean") != first


def test_a_folder_that_was_meddled_with_or_is_not_ours(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "set.yaml"]) == 0
    (folder / "clean/val.jsonl").write_text("{}\n")
    assert main(["prepare", "set.yaml"]) == 1
    assert (
        "clean: exists already, but val.jsonl is not as it was written; --overwrite replaces" in capsys.readouterr().err
    )
    (folder / "mine").mkdir()
    (folder / "mine/thesis.txt").write_text("years of work")
    for report in (None, "[]", '{"format": 1}'):
        if report is not None:
            (folder / "mine/report.json").write_text(report)
        assert main(["prepare", "set.yaml", "--out", "mine", "--overwrite"]) == 1
        assert "mine: exists already and was not written by prepare" in capsys.readouterr().err
    assert (folder / "mine/thesis.txt").read_text() == "years of work"
    assert main(["prepare", "set.yaml", "--out", ".", "--overwrite"]) == 1
    assert "raw.jsonl: lies in ., which would be replaced" in capsys.readouterr().err


def test_nothing_is_left_behind_by_a_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(output, "counts", fails)
    assert main(["prepare", "set.yaml"]) == 1
    assert {path.name for path in folder.iterdir()} == {"raw.jsonl", "bench.jsonl", "set.yaml"}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"dupicates": {}}, "set.yaml: unknown key 'dupicates'; there are sources, out, domains"),
    ({"duplicates": {"simlarity": 1}}, "set.yaml: duplicates: unknown key 'simlarity'; there are similarity, shingle"),
    ({"duplicates": {"similarity": "high"}}, "set.yaml: duplicates.similarity: Expected a <class 'float'>"),
    ({"duplicates": {"similarity": 2}}, "set.yaml: duplicates.similarity must lie in (0, 1], not 2"),
    ({"duplicates": {"shingle": 0}}, "set.yaml: duplicates.shingle must be at least 1"),
    ({"decontamination": {"ngram": 0}}, "set.yaml: decontamination.ngram must be at least 1"),
    ({"sources": []}, "set.yaml: sources: there must be at least one"),
    (
        {"sources": [{"data": "raw.jsonl", "colums": {}}]},
        "set.yaml: sources, entry 1: unknown key 'colums'; there are data",
    ),
    ({"sources": [{"data": "raw.jsonl", "fields": {"subject": "kind"}}]}, "fields maps 'subject', which is none of"),
    ({"sources": [{"data": "raw.jsonl", "fields": {"domain": "kin"}}]}, "raw.jsonl: fields maps 'domain' to 'kin'"),
    ({"sources": [{"data": "raw.jsonl", "domain": "a", "fields": {"domain": "kind"}}]}, "either domain or a column"),
    ({"sources": ["nosuch.jsonl"]}, "there is no file nosuch.jsonl"),
    ({"sources": ["set.yaml"]}, "set.yaml: is not one of the kinds that can be read"),
    ({"benchmarks": [{"data": "bench.jsonl", "domain": "a"}]}, "set.yaml: benchmarks, entry 1: unknown key 'domain'"),
    ({"benchmarks": ["raw.jsonl"]}, "set.yaml: raw.jsonl is named twice"),
    ({"domains": {"algebra": ["A"], "geometry": ["A"]}}, "set.yaml: domains: 'A' is mapped twice"),
    ({"domains": {"algebra": ["a"]}}, "domains: algebra: no row has 'a'; there are A, B, C"),
    ({"domains": {"algebra": "A"}}, "set.yaml: domains: Expected a <class 'list'>"),
    ({"out": None}, "set.yaml: out is missing"),
]


@pytest.mark.parametrize(("changes", "named"), BAD, ids=[named for _, named in BAD])
def test_a_mistake_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], named: str
) -> None:
    configure(changes)
    assert main(["prepare", "set.yaml"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
    assert not (folder / "clean").exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["prepare", "--help"]) == 0
    example = capsys.readouterr().out.partition("$ cat math.yaml\n")[2].partition("\n  $ ")[0]
    Path("set.yaml").write_text(example)
    assert main(["prepare", "set.yaml"]) == 1  # it is well formed; the files are not here
    assert "there is no file data/math_train.jsonl" in capsys.readouterr().err
    assert main(["prepare", "nosuch.yaml"]) == 1
    assert "nosuch.yaml: no such file" in capsys.readouterr().err


@pytest.mark.skipif(not (SHARED / "data/math_train.jsonl").exists(), reason="the real data is not here")
def test_real_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(SHARED / "data")
    start = time.perf_counter()
    assert main(["prepare", str(CONFIG), "--out", "clean"]) == 0
    assert time.perf_counter() - start < 60  # 5 s alone on one core
    report = json.loads(Path("clean/report.json").read_text())
    assert report["removed"]["no answer"] == {"number_theory": 2}
    assert sum(report["removed"]["contaminated"].values()) == 436
    assert sum(report["removed"]["duplicate"].values()) == 1
    assert sum(report["removed"]["near duplicate"].values()) == 3
    data = AlgebraDataModule(data="clean", batch_size=8)
    data.setup("fit")
    assert len(data.problems("train")) == report["domains"]["algebra"]["train"] > 2800
    assert all(p.solutions == () or "\\boxed" in p.solutions[0] for p in data.problems("train"))
