"""`verify`: completions from a file, graded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import vibethinker.rewards.composite
from vibethinker import Problem
from vibethinker.cli.main import main
from vibethinker.rewards import Outcome, Verifier

ROWS: list[dict[str, Any]] = [
    {"id": "a", "answer": "4", "domain": "algebra", "completion": r"It is \boxed{4}."},
    {"id": "b", "answer": "4", "domain": "algebra", "completion": [r"\boxed{5}", "It is 4.", r"\boxed{4} \boxed{5}"]},
    {"prompt": "Half of 3?", "answer": "3/2", "domain": "fractions", "completion": r"\boxed{1.5}"},
    {"id": "d", "answer": "f(x)+(x+y+1)^{3000}", "domain": "fractions", "completion": r"\boxed{f(x)+(x+y+2)^{3000}}"},
]


def no_vowels(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    return [1 / (not set(text) & set("aeiou")) for text in completions]


class Runs(Verifier):
    """Stands for a reward that runs programs."""

    timed = True

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        return [Outcome(0.5, "memory", f"{len(p.tests or ())} tests", 9.0) for p in problems]


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def verdicts(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def verify(file: Path, *options: str, width: str = "200") -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", width)
        return main(["verify", str(file), *options])


def test_every_completion_has_its_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = write(tmp_path / "a.jsonl", ROWS), tmp_path / "out.jsonl"
    options = ["--reward", "MathReward", "--reward.timeout", "1", "--slowest", "1", "--out", str(out)]
    assert verify(file, *options) == 0
    made = verdicts(out)
    assert [(v["line"], v["completion"], v["id"], v["score"], v["kind"]) for v in made] == [
        (1, 0, "a", 1.0, "passed"),
        (2, 0, "b", 0.0, "wrong"),
        (2, 1, "b", 0.0, "no answer"),
        (2, 2, "b", 0.0, "several answers"),
        (3, 0, "a/3", 1.0, "passed"),
        (4, 0, "d", 0.0, "timeout"),
    ]
    assert all(0 <= v["seconds"] < 1 for v in made[:-1])
    assert made[-1]["seconds"] > 0.9  # its time-out
    assert list(made[0]) == ["line", "completion", "id", "domain", "score", "kind", "detail", "seconds"]
    said = capsys.readouterr().out.splitlines()
    cells = {line.split()[0]: line.split() for line in said if line.split()}
    heading = next(line for line in said if "mean score" in line)
    assert heading.split("mean score")[1].split()[:2] == ["passed", "wrong"]
    assert cells["algebra"][1:3] == ["4", "0.250"]
    assert cells["fractions"][1:3] == ["2", "0.500"]
    assert cells["all"][1:4] == ["6", "0.333", "2"]
    for title in ("in trouble", "slowest"):
        place = next(i for i, line in enumerate(said) if line.strip() == title)
        listed = [line.split()[:4] for line in said[place + 1 : place + 6] if line.split()[:1] == ["4"]]
        assert listed == [["4", "0", "d", "timeout"]]


def test_other_columns_and_shapes(tmp_path: Path) -> None:
    rows = [{"q": "2 + 2?", "answer": 4, "responses": [r"\boxed{4}", ""]}, {"q": "?", "answer": "5", "responses": []}]
    file, out = write(tmp_path / "a.jsonl", rows), tmp_path / "out.jsonl"
    assert verify(file, "--out", str(out), "--fields", '{"prompt": "q"}') == 0
    assert [v["score"] for v in verdicts(out)] == [1.0, 0.0]
    assert verify(write(file, [{"x": "a", "answer": "a"}]), "--fields", '{"completion": "x"}', "--out", str(out)) == 0
    assert [v["kind"] for v in verdicts(out)] == ["no answer"]


def test_a_function_of_ones_own_and_what_it_raises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = write(tmp_path / "a.jsonl", [{"completion": "hmpf"}, {"completion": "aha"}]), tmp_path / "out.jsonl"
    assert verify(file, "--reward", "tests.cli.test_verify.no_vowels", "--out", str(out)) == 0
    assert [v["kind"] for v in verdicts(out)] == ["passed", "error"]
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_tests_go_to_the_reward_that_runs_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vibethinker.rewards.composite, "CodeReward", Runs)
    code = {"tests": [{"input": "", "output": "4"}], "domain": "code", "completion": "```\nprint(4)\n```"}
    out = tmp_path / "out.jsonl"
    assert verify(write(tmp_path / "a.jsonl", [ROWS[0], *[code] * 30]), "--out", str(out)) == 0
    made = verdicts(out)
    assert [v["kind"] for v in made] == ["passed", *["memory"] * 30]
    assert (made[1]["detail"], made[1]["seconds"]) == ("1 tests", 9.0)
    assert "and 10 more" in capsys.readouterr().out


BAD: dict[str, tuple[list[Any], str]] = {
    "no completion": ([{"answer": "4"}], "no column for field 'completion'"),
    "a missing one": ([ROWS[0], {"answer": "4"}], "a.jsonl, line 2, field 'completion': missing"),
    "a number": ([{"answer": "4", "completion": 4}], "line 1, field 'completion': expected text or a list of texts"),
    "no answer": ([{"completion": "4"}], "line 1, field 'answer': missing; MathReward compares with it"),
    "an empty answer": ([{"answer": " ", "completion": "4"}], "line 1, field 'answer': empty"),
    "bad tests": ([{"tests": "x", "completion": "4"}], "line 1, field 'tests': "),
    "no object": ([[1]], "line 1: expected a JSON object"),
    "nothing": ([], "a.jsonl: is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    rows, named = BAD[case]
    assert verify(write(tmp_path / "a.jsonl", rows), "--out", str(tmp_path / "out.jsonl")) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["--reward", "NoReward"], 2, "reward: there is no class NoReward"),
        (["--reward", "os.getcwd"], 1, "reward: getcwd is not called as"),
        (["--reward", "MathReward", "--reward.timeout", "0"], 1, "timeout must be positive"),
        (["--fields", '{"nosuch": "a"}'], 1, "fields maps 'nosuch'"),
        (["--fields", '{"completion": "nosuch"}'], 1, "'nosuch', which is none of its columns"),
        (["--slowest", "-1"], 2, "slowest"),
        (["--nosuch"], 2, "--nosuch"),
    ],
)
def test_bad_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, named: str
) -> None:
    assert verify(write(tmp_path / "a.jsonl", ROWS[:1]), *options) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(tmp_path / "nosuch.jsonl") == 1
    assert "there is no file" in capsys.readouterr().err
    assert main(["verify"]) == 2


def test_it_starts_without_torch_and_finds_rewards_in_the_current_folder(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS[:1])
    (tmp_path / "mine.py").write_text(
        "def short(problems, completions):\n    return [len(c) / 100 for c in completions]\n"
    )
    program = (
        "import sys; sys.path.remove(''); from vibethinker.cli.main import main; code = main(sys.argv[1:]); "
        "print([m for m in ('torch', 'lightning', 'transformers', 'datasets') if m in sys.modules], code)"
    )
    command = [sys.executable, "-c", program, "verify", "a.jsonl", "--reward", "mine.short"]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"
