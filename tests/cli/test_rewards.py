"""Rewards and shaping from configurations and the command line, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support import miniature
from vibethinker import Problem
from vibethinker.cli.main import main

pytestmark = pytest.mark.slow

HERE = "tests.cli.test_rewards"


def unannotated(problems, completions):  # type: ignore[no-untyped-def]  # as users write them
    return [float(len(text) % 2) for text in completions]


def length(problems: list[Problem], completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


class Modulo:
    """A class without a base."""

    def __init__(self, divisor: int = 2) -> None:
        self.divisor = divisor

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        return [float(len(text) % self.divisor == 0) for text in completions]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: str) -> Path:
    config = miniature.mgpo(tiny_model, max_steps=2)
    config["model"]["init_args"]["updates_per_rollout"] = 1
    del config["model"]["init_args"]["reward"]
    miniature.write(tmp_path, mgpo=config)
    return tmp_path


def fit(folder: Path, *more: str) -> list[str]:
    root = ["--trainer.default_root_dir", str(folder / "run")]
    return ["fit", "--config", str(folder / "mgpo.yaml"), *root, *more]


def logged(folder: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(folder / "run")).Reload()
    return {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def part(reward: str, **options: Any) -> str:
    return json.dumps({"reward": reward, **options})


def kept(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    return config["model"]["init_args"]


def test_without_a_word_it_is_the_dispatcher_and_nothing_is_shaped(folder: Path) -> None:
    assert main(fit(folder)) == 0
    figures = logged(folder)
    assert {tag for tag in figures if tag.startswith("train/reward/")} == {"train/reward/outcome", "train/reward/kl"}
    assert {tag for tag in figures if tag.startswith("reward/")} == {
        f"reward/{n}" for n in ("timeouts", "crashes", "seconds")
    }
    assert kept(folder)["reward"] is None


@pytest.mark.parametrize(
    "options",
    [
        ["--model.reward", "MathReward", "--model.reward.timeout", "2"],
        [
            "--model.reward",
            "DispatchReward",
            "--model.reward.math",
            "MathReward",
            "--model.reward.math.fallbacks",
            "true",
        ],
        ["--model.reward", f"{HERE}.unannotated"],
        ["--model.reward", f"{HERE}.Modulo", "--model.reward.divisor", "3"],
        ["--model.reward", "CompositeReward", "--model.reward.parts", json.dumps({"m": {"reward": "MathReward"}})],
    ],
    ids=["short", "nested", "function", "class", "composite"],
)
def test_rewards_on_the_command_line(folder: Path, options: list[str]) -> None:
    assert main(fit(folder, *options)) == 0
    assert kept(folder)["reward"] is not None


def test_shaping_on_the_command_line(folder: Path) -> None:
    function = part(f"{HERE}.length", weight=-0.25)
    shaping = ["--model.shaping.format", part("FormatReward", weight=0.5), "--model.shaping.length", function]
    options = ["--model.reward", f"{HERE}.unannotated", *shaping, "--model.objective.overlong_buffer", "4"]
    assert main(fit(folder, *options)) == 0
    figures = logged(folder)
    names = ("outcome", "format", "length", "overlong", "kl")
    total = [sum(step) for step in zip(*(figures[f"train/reward/{name}"] for name in names), strict=True)]
    assert figures["train/reward"] == pytest.approx(total, abs=1e-5)
    assert max(figures["train/reward/length"]) < 0
    assert figures["train/reward/outcome"] == figures["train/pass_rate"]


def test_everything_in_a_configuration(folder: Path) -> None:
    config = yaml.safe_load((folder / "mgpo.yaml").read_text())
    shaped = {"class_path": "FormatReward", "init_args": {"think": True, "answer": "any"}}
    config["model"]["init_args"] |= {
        "reward": {"class_path": f"{HERE}.Modulo", "init_args": {"divisor": 3}},
        "shaping": {"format": {"reward": shaped, "weight": 0.1}, "length": {"reward": f"{HERE}.length"}},
        "objective": {"overlong_buffer": 3, "overlong_penalty": 0.5},
    }
    miniature.write(folder, mgpo=config)
    assert main(fit(folder)) == 0
    assert main(fit(folder)) == 0  # its own record of the options is the same run
    assert {"train/reward/format", "train/reward/length", "train/reward/overlong"} <= logged(folder).keys()
    assert kept(folder)["shaping"]["format"]["reward"]["init_args"] == {"think": True, "answer": "any"}


BAD = {
    "no class": (["--model.reward", "NoReward"], "reward: there is no class NoReward"),
    "no function": (["--model.reward", f"{HERE}.nothing"], "has no attribute 'nothing'"),
    "no reward": (["--model.reward", "os.getcwd"], "reward: getcwd is not called as (problems, completions)"),
    "no outcome": (["--model.reward", f"{HERE}.length"], "an outcome lies in [0, 1]"),
    "bad option": (
        ["--model.reward", "MathReward", "--model.reward.timeout", "x"],
        "MathReward: timeout: Expected",
    ),
    "bad value": (["--model.reward", "MathReward", "--model.reward.timeout", "-1"], "timeout must be positive"),
    "unknown option": (["--model.reward", "MathReward", "--model.reward.nosuch", "1"], "'nosuch' is not accepted"),
    "no part": (["--model.shaping.a", part("NoReward")], "shaping: Part: reward: there is no class NoReward"),
    "no weight": (
        ["--model.shaping.a", part("FormatReward", weight="x")],
        "shaping: Part: weight: Expected",
    ),
    "no value": (["--model.shaping.a", part("FormatReward", weight=".nan")], "shaping.a.weight must be finite"),
    "taken": (["--model.shaping.kl", part("FormatReward")], "shaping: 'kl'"),
    "too long a buffer": (
        ["--model.objective.overlong_buffer", "9"],
        "overlong_buffer must be 0 to max_new_tokens=8, got 9",
    ),
    "no buffer": (["--model.objective.overlong_buffer", "x"], "overlong_buffer: Expected"),
    "a gain": (
        ["--model.objective.overlong_buffer", "2", "--model.objective.overlong_penalty", "-1"],
        "overlong_penalty",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    options, named = BAD[case]
    assert main(fit(folder, *options)) in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vibethinker: ")]
    assert len(lines) == 1
    assert named in lines[0]
    assert lines[0].count("Expected") <= 1
