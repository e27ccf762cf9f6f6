"""`evaluate` on files, killed, resumed, regraded; `filter`."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import miniature
from vibethinker import Problem
from vibethinker.cli.main import main
from vibethinker.datamodules import DomainDataModule
from vibethinker.datamodules.difficulty import Criteria, filter_by_difficulty
from vibethinker.evaluation.benchmark import EvaluationOptions
from vibethinker.evaluation.store import SampleStore
from vibethinker.problems import split_of

SHARED = Path(os.environ.get("VIBETHINKER_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
ODD = ["--reward", "tests.support.miniature.odd_length"]
SETTINGS = EvaluationOptions(samples=2, max_new_tokens=4)
SMALL = ["--samples", "2", "--k", "1", "2", "--max-new-tokens", "8"]


def even_length(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    return [1 - value for value in miniature.odd_length(problems, completions)]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"p{i}", "problem": f"{i} + 1?", "answer": i + 1, **more} for i in range(count)]


@pytest.fixture
def bench(tmp_path: Path) -> str:
    own = rows(24, domain="sums")
    own[1]["domain"] = "more"
    return write(tmp_path / "bench.jsonl", own)


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


# Evaluate


def test_files_as_a_whole(tiny_model: str, bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pa.Table.from_pylist([{"question": "2?", "answer": "2"}, {"question": "3?", "answer": "3"}])
    pq.write_table(table, tmp_path / "other.parquet")
    out = tmp_path / "out.json"
    files = [bench, str(tmp_path / "other.parquet")]  # after options is as good as before them
    assert run("evaluate", tiny_model, *SMALL, *ODD, "--no-skip-long", "--out", str(out), *files) == 0
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
    command = ["evaluate", tiny_model, bench, *SMALL, *ODD, "--max-new-tokens", "40"]
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
    assert run("evaluate", tiny_model, bench, *SMALL, *ODD, "--out", str(out)) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.samples").glob("part-*")}
    assert run("evaluate", tiny_model, bench, *SMALL, *ODD, "--k", "2", "--distinct", "--out", str(out)) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out.samples").glob("part-*")} == before
    metrics = {row["metric"] for row in content(out)["rows"]}
    assert "distinct_solutions" in metrics
    assert "pass@1" not in metrics


def test_samples_of_other_options_are_refused_by_name(
    tiny_model: str, bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    command = ["evaluate", tiny_model, bench, *SMALL, *ODD, "--out", str(out)]
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
    assert run("evaluate", tiny_model, bench, *SMALL, *ODD, "--out", str(out)) == 0
    before = content(out)
    assert run("regrade", str(out)) == 0  # by the reward it was graded with
    assert content(out) == before
    assert run("regrade", str(out), "--reward", "tests.cli.test_benchmarks.even_length", "--k", "2") == 0
    after = content(out)
    assert after["options"]["--reward"] == "tests.cli.test_benchmarks.even_length"
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
        assert run("evaluate", tiny_model, bench, *SMALL, "--reward", reward) == 0
    capsys.readouterr()
    assert run("evaluate", tiny_model, bench, *SMALL, "--reward", "no_such") == 2
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
    error = refused(capsys, "evaluate", tiny_model, file, *SMALL, "--instruction", "")
    assert "problem 'p1'" in error
    assert "with --max-new-tokens 8 that is more than the context" in error
    assert "so it is for 2 of 4 problems" in error
    error = refused(capsys, "evaluate", tiny_model, file, "--skip-long")
    assert "--skip-long needs --max-new-tokens" in error
    assert run("evaluate", tiny_model, file, *SMALL, *ODD, "--skip-long", "--out", str(out)) == 0
    assert "long: 2 problems left out" in capsys.readouterr().out
    assert content(out)["left_out"] == {"long": 2}
    write(Path(file), own[1:2])
    assert "none of the 1 problems fits" in refused(capsys, "evaluate", tiny_model, file, *SMALL, "--skip-long")


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
    assert named in refused(capsys, "evaluate", tiny_model, bench, *options, *SMALL)


def test_two_files_of_one_name_and_two_rows_of_one_id(
    tiny_model: str, bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "folder" / "bench.jsonl", rows(2))
    assert "another one is called 'bench'" in refused(capsys, "evaluate", tiny_model, bench, other, *SMALL)
    twice = write(tmp_path / "twice.jsonl", rows(2) + rows(1))
    assert "twice.jsonl, line 3, field 'id'" in refused(capsys, "evaluate", tiny_model, twice, *SMALL)


def test_programs_are_run(tiny_model: str, tmp_path: Path) -> None:
    tests = ["assert f(2) == 4", "assert f(0) == 0"]
    file = write(tmp_path / "mbpp.jsonl", [{"text": "double", "test_list": tests, "domain": "code"}])
    out, fields = tmp_path / "out.json", '{"prompt": "text"}'
    assert run("evaluate", tiny_model, file, *SMALL, "--fields", fields, "--out", str(out)) == 0
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


# Filter


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
