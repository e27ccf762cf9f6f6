"""The recipe in miniature, through the real commands."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.support import miniature
from vibethinker.cli.main import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Path:
    """A recipe, and its output in `out`."""
    folder = tmp_path_factory.mktemp("recipe")
    configs = {"sft": miniature.sft(tiny_model), "mgpo": miniature.mgpo(tiny_model)}
    miniature.write(folder, recipe=miniature.recipe(tiny_model), **configs)
    start = time.monotonic()
    assert main(run(folder)) == 0
    assert time.monotonic() - start < 60 * max(1.0, os.getloadavg()[0] / 2)  # under a minute on two cores of its own
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def run(folder: Path, *more: str) -> list[str]:
    return ["run", str(folder / "recipe.yaml"), "--output", str(folder / "out"), "--jobs", "2", *more]


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def processes(text: str) -> list[str]:
    """Command lines of running processes that speak of `text`, this one's aside."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and "pytest" not in line:
            found.append(line)
    return found


def test_what_a_recipe_leaves(finished: Path) -> None:
    out = finished / "out"
    rows = json.loads((out / "results.json").read_text())
    assert {(row["stage"], row["domain"], row["metric"]) for row in rows} == {
        (stage, domain, metric)
        for stage in ("base", "signal")
        for domain in (*miniature.DOMAINS, "all")
        for metric in ("pass@1", "pass@2", "majority@2", "truncated", "unboxed", "timeout", "length")
    }
    keys = {"stage", "model", "domain", "split", "metric", "mean", "low", "high", "problems", "samples"}
    assert all(set(row) == keys | {"standard_error"} and row["split"] == "test" for row in rows)
    timings = json.loads((out / "timings.json").read_text())
    assert list(timings) == ["base", "specialist", "fused", "signal"]
    assert all(t["seconds"] > 0 and t["peak_memory_bytes"] > 2**20 for t in timings.values())
    assert "<html" in (out / "report.html").read_text()
    for name in ("base", "specialist/algebra", "specialist/geometry", "fused", "signal", "signal/evaluation"):
        record = json.loads((out / name / "stage.json").read_text())
        assert (out / name / "log.txt").read_text().startswith(f"$ vibethinker {record['command'][1]} ")
    chosen = json.loads((out / "specialist/algebra/stage.json").read_text())["model"]
    assert chosen.startswith("specialist/algebra/checkpoints/step=")
    fused, experts = (
        miniature.weights(out / "fused/model"),
        [
            miniature.weights(out / json.loads((out / f"specialist/{d}/stage.json").read_text())["model"])
            for d in miniature.DOMAINS
        ],
    )
    assert all(torch.allclose(fused[name], (experts[0][name] + experts[1][name]) / 2, atol=1e-6) for name in fused)


def test_a_second_run_does_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(copy / "out")
    assert main(run(copy)) == 0
    assert "all 6 stages" in capsys.readouterr().out
    after = files(copy / "out")
    rewritten = {"results.json", "timings.json", "report.html", "recipe.yaml"}
    assert {name for name in after if after[name] != before.get(name)} <= rewritten
    assert after["results.json"][1] == before["results.json"][1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("config", "stage specialist/algebra was made with config.trainer.max_steps=6, now it is 8: --redo specialist"),
        ("evaluation", "stage base was made with options.--problems=4, now it is 5: --redo base"),
        ("another recipe", "is of another recipe, with a stage 'signal' that"),
        ("no recipe", "is not empty and not of a recipe"),
        ("a file", "output is a file"),
        ("busy", "another run is running there"),
    ],
)
def test_what_is_there_is_not_overwritten(
    copy: Path, tiny_model: str, capsys: pytest.CaptureFixture[str], change: str, named: str
) -> None:
    recipe: dict[str, Any] = yaml.safe_load((copy / "recipe.yaml").read_text())
    lock = os.open(copy / "out", os.O_RDONLY)
    if change == "config":
        miniature.write(copy, sft=miniature.sft(tiny_model, max_steps=8))
    elif change == "evaluation":
        miniature.write(copy, recipe={**recipe, "evaluation": {**recipe["evaluation"], "problems": 5}})
    elif change == "another recipe":
        miniature.write(copy, recipe={**recipe, "stages": recipe["stages"][:3]})
    elif change == "no recipe":
        (copy / "out" / "recipe.yaml").unlink()
    elif change == "a file":
        shutil.rmtree(copy / "out")
        (copy / "out").touch()
    else:
        fcntl.flock(lock, fcntl.LOCK_EX)
    before = files(copy)
    assert main(run(copy)) == 1
    os.close(lock)
    error = capsys.readouterr().err
    assert error.startswith("vibethinker: ")
    assert error.count("\n") == 1
    assert named in error
    assert files(copy) == before


def test_redo_asks_for_a_stage_that_is_there(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(copy)
    assert main(run(copy, "--redo", "nosuch")) == 1
    assert "--redo nosuch: there is no such stage, only base, " in capsys.readouterr().err
    assert main(run(copy, "--redo", "fused", "--dry-run")) == 0
    states = {line.split()[-1 if line.startswith("done") else 2]: line for line in capsys.readouterr().out.splitlines()}
    assert sum(line.startswith("done") for line in states.values()) == 3
    assert files(copy) == before


def test_killed_at_random_moments_it_ends_with_the_same_weights(copy: Path, finished: Path) -> None:
    rng, last = random.Random(0), copy / "out/signal/checkpoints/last.ckpt"
    child = miniature.in_a_child(run(copy, "--redo", "signal"))
    time.sleep(rng.uniform(0.5, 6))  # before there is a checkpoint
    for _ in range(2):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        time.sleep(0.2)
        assert processes(str(copy)) == []
        child = miniature.in_a_child(run(copy))
        deadline = time.monotonic() + 100
        while not last.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    whole, killed = (miniature.weights(folder / "out/signal/checkpoints/last") for folder in (finished, copy))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    rows = [
        [{**row, "model": ""} for row in json.loads((folder / "out/results.json").read_text())]
        for folder in (finished, copy)
    ]
    assert rows[0] == rows[1]


def test_a_mistake_in_the_last_stage_shows_at_once(
    tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mgpo = miniature.mgpo(tiny_model)
    mgpo["model"]["init_args"]["groop_size"] = 4
    sft = miniature.sft(tiny_model, max_steps=10_000)
    miniature.write(tmp_path, sft=sft, mgpo=mgpo, recipe=miniature.recipe(tiny_model))
    assert main(run(tmp_path, "--jobs", "1")) == 1
    assert "Option 'groop_size' is not accepted" in capsys.readouterr().err
    assert processes(str(tmp_path)) == []


def test_a_failing_stage_shows_its_log(tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"model": tiny_model, "evaluation": {"nosuch": 1}, "stages": [{"name": "base", "evaluate": ["algebra"]}]}
    miniature.write(tmp_path, recipe=recipe)
    assert main(run(tmp_path)) == 1
    said = capsys.readouterr()
    assert "unrecognized arguments: --nosuch 1" in said.out
    assert "stage base failed with exit code 2; its log is" in said.err
    assert not (tmp_path / "out/base/stage.json").exists()
