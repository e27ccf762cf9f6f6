"""A reward of one's own: one class with `grade`, named in the configuration."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.fits import fit, grpo
from vibethinker import Problem
from vibethinker.rewards import Outcome, Verifier


class ShortReward(Verifier):
    """1 for a completion of at most `limit` characters."""

    def __init__(self, limit: int = 5) -> None:
        self.limit = limit

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        return [Outcome.of(float(len(text) <= self.limit)) for text in completions]


def test_a_policy_is_trained_on_it(tiny_model: str) -> None:
    logged = fit(grpo(tiny_model, reward=ShortReward(8))).steps
    assert 0 < logged[0]["train/pass_rate"] < 1
    assert logged[0]["train/pass_rate"] == pytest.approx(logged[0]["train/reward/outcome"])


def test_the_command_line_knows_it_by_name(tmp_path: pytest.TempPathFactory) -> None:
    from vibethinker.cli.fit import parse

    reward = "tests.extending.test_add_reward.ShortReward"
    config = parse(["fit", "--config", "configs/nano/mgpo.yaml", "--model.reward", reward, "--model.reward.limit", "9"])
    assert config["model"]["init_args"]["reward"] == {"class_path": reward, "init_args": {"limit": 9}}
