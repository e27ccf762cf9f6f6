"""Rewards made of rewards, and what is said about single completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from vibethinker import Problem
from vibethinker.rewards import (
    CodeReward,
    CompositeReward,
    DispatchReward,
    FormatReward,
    MathReward,
    Outcome,
    Part,
    examine,
)
from vibethinker.rewards.base import grade

MATH = Problem(id="m", domain="algebra", prompt="2 + 2?", answer="4")
CODE = Problem(id="c", domain="code", prompt="print 4", tests=({"input": "", "output": "4"},))
RULE = Problem(id="r", domain="rules", prompt="be brief", answer="")
NOT_A_REWARD: Any = len
RIGHT, WRONG, TWO, NONE = r"\boxed{4}", r"\boxed{5}", r"\boxed{4} \boxed{5}", "4"


class Runs:
    """Stands for a reward that runs programs; remembers what it was asked."""

    made = 0
    timeouts = 2

    def __init__(self) -> None:
        type(self).made += 1
        self.asked: list[list[str]] = []
        self.closed = False

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        assert all(problem.tests for problem in problems)
        self.asked.append(list(completions))
        return [0.5] * len(completions)

    def examine(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        return [Outcome(0.0, "rejected", text) for text in completions]

    def close(self) -> None:
        self.closed = True


def brief(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    return [float(len(text) < 3) for text in completions]


def test_problems_go_to_the_reward_of_their_kind() -> None:
    code = Runs()
    with DispatchReward(code=code, domains={"rules": brief}) as reward:
        problems = [CODE, MATH, RULE, MATH, CODE, RULE]
        assert reward(problems, ["a", RIGHT, "ab", WRONG, "b", "abc"]) == [0.5, 1.0, 1.0, 0.0, 0.5, 0.0]
        assert code.asked == [["a", "b"]]  # at once, so that it may work in parallel
        assert reward([], []) == []
        assert (reward.timeouts, reward.crashes) == (2, 0)
        kinds = [o.kind for o in reward.examine(problems, ["a", RIGHT, "ab", WRONG, "b", "abc"])]
        assert kinds == ["rejected", "passed", "passed", "wrong", "rejected", "wrong"]
    assert code.closed


def test_what_nothing_asks_for_is_not_started() -> None:
    with DispatchReward() as reward:
        assert reward([MATH], [RIGHT]) == [1.0]
        assert isinstance(reward._code, CodeReward)
        assert reward._code._sandbox._server is None


def test_a_weighted_mean() -> None:
    reward = CompositeReward({"math": Part(MathReward(), 3.0), "brief": Part(brief, 1.0)})
    assert reward([MATH] * 3, [RIGHT, WRONG, "4"]) == [0.75, 0.0, 0.25]
    assert reward.figures == {"math": pytest.approx(1 / 3), "brief": pytest.approx(1 / 3)}
    (said,) = examine(reward, [MATH], [TWO])
    assert (said.score, said.kind) == (0.0, "wrong")
    assert said.detail == "math: several answers 4, 5 for 4; brief: wrong"
    (half,) = examine(reward, [MATH], ["4"])
    assert (half.score, half.kind) == (0.25, "partial")


def test_all_parts_right_is_exactly_one() -> None:
    reward = CompositeReward({str(i): Part(MathReward(), weight) for i, weight in enumerate([0.1, 0.2, 0.7, 1 / 3])})
    assert reward([MATH], [RIGHT]) == [1.0]


def test_parts_that_cannot_be() -> None:
    for parts, named in (
        ({}, "CompositeReward.parts"),
        ({"a": Part(brief, 0.0)}, "positive"),
        ({"a/b": Part(brief)}, "'a/b'"),
        ({"a": Part(NOT_A_REWARD)}, r"parts\.a\.reward: len"),
        ({"a": Part(brief, float("nan"))}, r"parts\.a\.weight"),
    ):
        with pytest.raises(ValueError, match=named):
            CompositeReward(parts)


def test_kinds_of_a_mathematical_answer() -> None:
    with MathReward() as reward:
        said = reward.examine([MATH] * 4, [RIGHT, WRONG, TWO, NONE])
    assert [(o.score, o.kind, o.detail) for o in said] == [
        (1.0, "passed", ""),
        (0.0, "wrong", "5 for 4"),
        (0.0, "several answers", "4, 5 for 4"),
        (0.0, "no answer", ""),
    ]
    assert all(0 <= o.seconds < 1 for o in said)


def test_an_answer_that_takes_too_long() -> None:
    hangs = Problem(id="h", domain="algebra", prompt="?", answer="f(x)+(x+y+1)^{3000}")
    with MathReward(timeout=0.5) as reward:
        hung, right = DispatchReward(reward).examine([hangs, MATH], [r"\boxed{f(x)+(x+y+2)^{3000}}", RIGHT])
    assert (hung.score, hung.kind) == (0.0, "timeout")
    assert hung.seconds > 0.4
    assert right.kind == "passed"


def test_a_plain_function_has_outcomes_too() -> None:
    def fails(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        return [1 / len(text) for text in completions]

    assert [o.kind for o in examine(brief, [MATH] * 2, ["4", "four"])] == ["passed", "wrong"]
    said = examine(fails, [MATH] * 3, ["", "1234", "1"])
    assert [(o.score, o.kind) for o in said] == [(0.0, "error"), (0.25, "partial"), (1.0, "passed")]
    assert said[0].detail == "ZeroDivisionError: division by zero"
    assert examine(lambda p, c: [3.0], [MATH], [""])[0].kind == "scored"


def test_rewards_are_torch_free() -> None:
    import subprocess
    import sys

    program = "import sys, vibethinker.rewards; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


def test_a_format_is_no_answer() -> None:
    assert FormatReward()([MATH], [WRONG]) == [1.0]


class Generous(MathReward):
    """Overrides what it gives, and not the kinds that go with it."""

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        return [max(score, 0.5) for score in super().__call__(problems, completions)]


def test_grade_goes_with_the_call_that_a_subclass_overrides() -> None:
    problems = [Problem(id="p", domain="algebra", prompt="?", answer="2")] * 4
    texts = [r"\boxed{2}", r"\boxed{3}", "two", r"\boxed{2} or \boxed{3}"]
    kinds = ["passed", "wrong", "no answer", "several answers"]
    assert [outcome.kind for outcome in grade(DispatchReward(), problems, texts)] == kinds
    assert [outcome.kind for outcome in grade(Generous(), problems, texts)] == ["passed", *["partial"] * 3]
    assert [outcome.kind for outcome in grade(DispatchReward(math=Generous()), problems, texts)][1] == "partial"
    assert [outcome.score for outcome in grade(lambda p, c: [0.0] * len(c), problems, texts)] == [0.0] * 4
    with pytest.raises(ValueError, match="an outcome lies in"):
        grade(lambda p, c: [2.0] * len(c), problems, texts)
