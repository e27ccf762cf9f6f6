"""`evaluate`, `probe` and `fuse` on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vibethinker.cli.main import main

SMALL = ["--problems", "3", "--samples", "2", "--k", "1", "2", "--max-new-tokens", "8", "--difficulty", "1"]
METRICS = ["pass@1", "pass@2", "majority@2", "truncated", "unboxed", "timeout", "length"]


def evaluate(model: str, out: Path, *more: str, command: str = "evaluate") -> dict[str, Any]:
    assert main([command, model, *SMALL, "--out", str(out), *more]) == 0
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def test_rows_and_samples(tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = evaluate(tiny_model, tmp_path / "a.json", "--domains", "algebra", "geometry", "--stage", "base")
    keys = ["stage", "model", "split", "domain", "metric", "mean", "low", "high", "standard_error"]
    assert all(list(row) == [*keys, "problems", "samples"] for row in made["rows"])
    found = [(row["domain"], row["metric"], row["problems"]) for row in made["rows"]]
    domains = {"algebra": 3, "geometry": 3, "all": 6}
    assert found == [(d, metric, count) for d, count in domains.items() for metric in METRICS]
    assert {(row["stage"], row["model"], row["split"], row["samples"]) for row in made["rows"]} == {
        ("base", tiny_model, "test", 2)
    }
    assert [sample["domain"] for sample in made["samples"]] == ["algebra", "geometry"] * 3
    assert all(len(sample["completions"]) == 2 for sample in made["samples"])
    assert set(made["samples"][0]["completions"][0]) == {"text", "outcome"}
    assert "geometry" in capsys.readouterr().out


def test_problems_are_counted_by_domain_however_few_another_has(tiny_model: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "answer": "1", "domain": "few" if i < 1 else "many"} for i in range(9)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = evaluate(tiny_model, tmp_path / "a.json", "--data", str(tmp_path / "data"), "--domains", "few", "many")
    assert {row["domain"]: row["problems"] for row in made["rows"]} == {"few": 1, "many": 3, "all": 4}


def test_the_same_again_and_another_seed(tiny_model: str, tmp_path: Path) -> None:
    first, again, other = (
        evaluate(tiny_model, tmp_path / f"{name}.json", "--domains", "algebra", "--seed", seed)
        for name, seed in (("x", "0"), ("y", "0"), ("z", "1"))
    )
    assert first == again
    assert first["samples"] != other["samples"]
    assert evaluate(tiny_model, tmp_path / "x.json", "--domains", "algebra", "--seed", "1", "--overwrite") == other


def test_probe_counts_distinct_solutions_on_problems_of_its_own(tiny_model: str, tmp_path: Path) -> None:
    probed = evaluate(tiny_model, tmp_path / "p.json", "--domains", "algebra", command="probe")
    tested = evaluate(tiny_model, tmp_path / "t.json", "--domains", "algebra")
    assert [row["metric"] for row in probed["rows"]] == [*METRICS[:3], "distinct_solutions", *METRICS[3:]]
    assert {row["split"] for row in probed["rows"]} == {"probe"}
    prompts = [{sample["prompt"] for sample in made["samples"]} for made in (probed, tested)]
    assert not prompts[0] & prompts[1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--k", "3"], "--k 3 needs at least as many --samples, got 2"),
        (["--domains", "chemistry"], "'chemistry'"),
        (["--max-new-tokens", "512"], "more than the context"),
        (["--data", "nosuch.jsonl"], "nosuch.jsonl"),
        (["--temperature", "-1"], "temperature"),
    ],
)
def test_bad_options(
    tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    assert main(["evaluate", tiny_model, *SMALL, *options, "--out", str(tmp_path / "out.json")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("vibethinker: ")
    assert named in error
    assert not list(tmp_path.iterdir())


def test_not_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path), *SMALL]) == 1
    assert "is not a checkpoint folder" in capsys.readouterr().err


def test_fuse(tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in Path(tiny_model).iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    shifted = {name: weight + 1 for name, weight in load_file(other / "model.safetensors").items()}
    save_file(shifted, other / "model.safetensors", {"format": "pt"})
    out = tmp_path / "fused"
    assert main(["fuse", tiny_model, str(other), "--out", str(out), "--weights", "0.25", "0.75"]) == 0
    begin, fused = (load_file(Path(folder) / "model.safetensors") for folder in (tiny_model, out))
    assert all(torch.allclose(fused[name], begin[name] + 0.75, atol=1e-6) for name in begin)
    capsys.readouterr()
    assert main(["fuse", tiny_model, str(other), "--out", str(tmp_path / "x"), "--weights", "0.5", "0.6"]) == 1
    assert "sum to 1.1" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
