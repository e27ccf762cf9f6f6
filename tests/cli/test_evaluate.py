"""`evaluate`, `probe`, `regrade` and `fuse` on a tiny model: held-out problems, files, kills, wrong options."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import miniature
from tests.support.evaluations import ODD, content, refused, rows, run, write
from vibethinker.cli.main import main
from vibethinker.evaluation.store import SampleStore

SHARED = Path(os.environ.get("VIBETHINKER_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
ON_FILES = ["--samples", "2", "--k", "1", "2", "--max-new-tokens", "8"]
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


# On files


@pytest.fixture
def bench(tmp_path: Path) -> str:
    own = rows(24, domain="sums")
    own[1]["domain"] = "more"
    return write(tmp_path / "bench.jsonl", own)


def test_files_as_a_whole(tiny_model: str, bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pa.Table.from_pylist([{"question": "2?", "answer": "2"}, {"question": "3?", "answer": "3"}])
    pq.write_table(table, tmp_path / "other.parquet")
    out = tmp_path / "out.json"
    files = [bench, str(tmp_path / "other.parquet")]  # after options is as good as before them
    assert run("evaluate", tiny_model, *ON_FILES, *ODD, "--no-skip-long", "--out", str(out), *files) == 0
    made = content(out)
    counts = {(r["file"], r["domain"]): r["problems"] for r in made["rows"] if r["metric"] == "pass@1"}
    assert counts == {
        **{("bench", "more"): 1, ("bench", "sums"): 23, ("bench", "all"): 24, ("other", "other"): 2},
        **{("all", "more"): 1, ("all", "other"): 2, ("all", "sums"): 23, ("all", "all"): 26},
    }
    assert {row["split"] for row in made["rows"]} == {"all"}
    assert len(made["problems"]) == 26
    rates = [problem["pass_rate"] for problem in made["problems"]]
    assert rates == sorted(rates)
    said = " ".join(capsys.readouterr().out.split())  # a title wraps where the path of the model is long
    assert "pass@1 is avg@2" in said
    assert "fewer than 20 problems: bench more (1), other other (2)" in said
    store = SampleStore.open(tmp_path / "out.samples")
    assert [problem.id for problem in store.read().problems][:3] == ["p0", "p1", "p2"]
    assert made["options"] == store.options


def test_killed_at_random_moments_it_ends_with_the_same_samples(tiny_model: str, bench: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.json", tmp_path / "killed.json"
    command = ["evaluate", tiny_model, bench, *ON_FILES, *ODD, "--max-new-tokens", "40"]
    assert run(*command, "--out", str(whole)) == 0
    rng, parts = random.Random(0), tmp_path / "killed.samples"
    for slots in ("1", "2"):  # chunks of 2 problems, then of 4: neighbours make no difference
        before = len(list(parts.glob("part-*")))
        child = miniature.in_a_child([*command, "--slots", slots, "--out", str(killed)])
        deadline = time.monotonic() + 60
        while len(list(parts.glob("part-*"))) <= before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert not killed.exists()
    kept = {part: part.read_bytes() for part in parts.glob("part-*")}
    assert run(*command, "--out", str(killed)) == 0
    assert all(part.read_bytes() == bytes_ for part, bytes_ in kept.items())
    assert content(killed) == content(whole)
    stores = (SampleStore.open(path.with_suffix(".samples")) for path in (whole, killed))
    ours, theirs = (pa.concat_tables(map(pq.read_table, store.parts)) for store in stores)
    assert ours.equals(theirs)


def test_done_once_it_samples_no_more(tiny_model: str, bench: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert run("evaluate", tiny_model, bench, *ON_FILES, *ODD, "--out", str(out)) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.samples").glob("part-*")}
    assert run("evaluate", tiny_model, bench, *ON_FILES, *ODD, "--k", "2", "--distinct", "--out", str(out)) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out.samples").glob("part-*")} == before
    metrics = {row["metric"] for row in content(out)["rows"]}
    assert "distinct_solutions" in metrics
    assert "pass@1" not in metrics


def test_samples_of_other_options_are_refused_by_name(
    tiny_model: str, bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    command = ["evaluate", tiny_model, bench, *ON_FILES, *ODD, "--out", str(out)]
    assert run(*command) == 0
    before = out.read_bytes()
    assert "--temperature=1.0, now it is 0.5" in refused(capsys, *command, "--temperature", "0.5")
    assert "--reward='tests.support.miniature.odd_length', now it is None" in refused(
        capsys, *[part for part in command if part not in ODD]
    )
    assert "content of MODEL" in refused(capsys, "evaluate", "nano", *command[2:])
    write(Path(bench), rows(23))
    assert "problems of bench" in refused(capsys, *command)
    assert out.read_bytes() == before


def test_regrade(tiny_model: str, bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert run("evaluate", tiny_model, bench, *ON_FILES, *ODD, "--out", str(out)) == 0
    before = content(out)
    assert run("regrade", str(out)) == 0  # by the reward it was graded with
    assert content(out) == before
    assert run("regrade", str(out), "--reward", "tests.support.evaluations.even_length", "--k", "2") == 0
    after = content(out)
    assert after["options"]["--reward"] == "tests.support.evaluations.even_length"
    rates = [{p["id"]: p["pass_rate"] for p in made["problems"]} for made in (before, after)]
    assert all(rates[1][name] == 1 - rate for name, rate in rates[0].items())
    assert "pass@1" not in {row["metric"] for row in after["rows"]}
    assert "no such" in refused(capsys, "regrade", str(tmp_path / "none.json")).lower()
    write(tmp_path / "x.json", [{"rows": []}])
    assert "x.json: not the results of an evaluation" in refused(capsys, "regrade", str(tmp_path / "x.json"))


def test_rewards_by_name_class_and_json(
    tiny_model: str, bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = '{"class_path": "MathReward", "init_args": {"fallbacks": true}}'
    for reward in ("MathReward", box):
        assert run("evaluate", tiny_model, bench, *ON_FILES, "--reward", reward) == 0
    capsys.readouterr()
    assert run("evaluate", tiny_model, bench, *ON_FILES, "--reward", "no_such") == 2
    assert capsys.readouterr().err == "vibethinker: reward: there is no class no_such\n"


def test_presets(tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, out = write(tmp_path / "one.jsonl", rows(1)), tmp_path / "out.json"
    assert run("evaluate", tiny_model, one, "--preset", "vibethinker", "--samples", "8", "--out", str(out), *ODD) == 0
    options = content(out)["options"]
    assert (options["--samples"], options["--temperature"], options["--top-p"]) == (8, 1.0, 0.95)
    assert options["--instruction"].startswith("Let's think step by step")
    said = " ".join(capsys.readouterr().out.split())
    assert f"takes up to 40960 new tokens: {options['--max-new-tokens']} here, which is what the context" in said
    cool = ["--preset", "vibethinker-0.6", "--samples", "8", "--max-new-tokens", "4", "--instruction", ""]
    assert run("evaluate", tiny_model, one, *cool, "--out", str(tmp_path / "cool.json"), *ODD) == 0
    options = content(tmp_path / "cool.json")["options"]
    assert [options[f"--{name}"] for name in ("temperature", "instruction", "max-new-tokens")] == [0.6, "", 4]
    assert "takes up to" not in capsys.readouterr().out


def test_prompts_that_do_not_fit(tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = rows(4)
    own[1]["problem"] = own[3]["problem"] = "x" * 600
    file, out = write(tmp_path / "long.jsonl", own), tmp_path / "out.json"
    error = refused(capsys, "evaluate", tiny_model, file, *ON_FILES, "--instruction", "")
    assert "problem 'p1'" in error
    assert "with --max-new-tokens 8 that is more than the context" in error
    assert "so it is for 2 of 4 problems" in error
    error = refused(capsys, "evaluate", tiny_model, file, "--skip-long")
    assert "--skip-long needs --max-new-tokens" in error
    assert run("evaluate", tiny_model, file, *ON_FILES, *ODD, "--skip-long", "--out", str(out)) == 0
    assert "long: 2 problems left out" in capsys.readouterr().out
    assert content(out)["left_out"] == {"long": 2}
    write(Path(file), own[1:2])
    assert "none of the 1 problems fits" in refused(capsys, "evaluate", tiny_model, file, *ON_FILES, "--skip-long")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--data", "x"], "--data is for held-out problems"),
        (["--split", "val"], "--split is for held-out problems"),
        (["nosuch.jsonl"], "there is no file nosuch.jsonl"),
        (["README.md"], "README.md: is not one of the kinds"),
        (["--fields", '{"prompt": "nosuch"}'], "which is none of its columns"),
        (["--fields", '{"promt": "prompt"}'], "fields maps 'promt', which is none of prompt"),
    ],
)
def test_bad_files(
    tiny_model: str, bench: str, capsys: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    assert named in refused(capsys, "evaluate", tiny_model, bench, *options, *ON_FILES)


def test_two_files_of_one_name_and_two_rows_of_one_id(
    tiny_model: str, bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "folder" / "bench.jsonl", rows(2))
    assert "another one is called 'bench'" in refused(capsys, "evaluate", tiny_model, bench, other, *ON_FILES)
    twice = write(tmp_path / "twice.jsonl", rows(2) + rows(1))
    assert "twice.jsonl, line 3, field 'id'" in refused(capsys, "evaluate", tiny_model, twice, *ON_FILES)


def test_programs_are_run(tiny_model: str, tmp_path: Path) -> None:
    tests = ["assert f(2) == 4", "assert f(0) == 0"]
    file = write(tmp_path / "mbpp.jsonl", [{"text": "double", "test_list": tests, "domain": "code"}])
    out, fields = tmp_path / "out.json", '{"prompt": "text"}'
    assert run("evaluate", tiny_model, file, *ON_FILES, "--fields", fields, "--out", str(out)) == 0
    made = content(out)
    assert {row["metric"]: row["mean"] for row in made["rows"]}["unboxed"] == 1.0
    assert made["problems"][0]["kinds"] == {"no answer": 2}
    assert run("regrade", str(out)) == 0
    assert content(out) == made


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs the shared data")
def test_benchmarks_that_people_use(tmp_path: Path) -> None:
    files = [str(SHARED / "data" / f"{name}.jsonl") for name in ("aime24", "aime25", "hmmt25")]
    out, few = tmp_path / "out.json", ["--samples", "2", "--k", "1", "2", "--max-new-tokens", "4"]
    assert run("evaluate", "nano", *files, *few, "--skip-long", "--out", str(out)) == 0
    made = content(out)
    assert sum(made["left_out"].values()) + len(made["problems"]) == 90
