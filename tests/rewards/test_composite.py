"""Rewards made of rewards, and the outcomes of single completions."""

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
    Verifier,
)
from vibethinker.rewards.base import as_verifier, outcomes

MATH = Problem(id="m", domain="algebra", prompt="2 + 2?", answer="4")
CODE = Problem(id="c", domain="code", prompt="print 4", tests=({"input": "", "output": "4"},))
RULE = Problem(id="r", domain="rules", prompt="be brief", answer="")
NOT_A_REWARD: Any = len
RIGHT, WRONG, TWO, NONE = r"\boxed{4}", r"\boxed{5}", r"\boxed{4} \boxed{5}", "4"


class Runs(Verifier):
    """Stands for a reward that runs programs; remembers what it was asked."""

    timeouts = 2

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.closed = False

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        assert all(problem.tests for problem in problems)
        self.asked.append(list(completions))
        return [Outcome(0.5, "rejected", text) for text in completions]

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
        kinds = [o.kind for o in reward.grade(problems, ["a", RIGHT, "ab", WRONG, "b", "abc"])]
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
    assert reward.part_means == {"math": pytest.approx(1 / 3), "brief": pytest.approx(1 / 3)}
    (wrong,) = reward.grade([MATH], [TWO])
    assert (wrong.score, wrong.kind) == (0.0, "wrong")
    assert wrong.detail == "math: several answers 4, 5 for 4; brief: wrong"
    (half,) = reward.grade([MATH], ["4"])
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
        graded = reward.grade([MATH] * 4, [RIGHT, WRONG, TWO, NONE])
    assert [(o.score, o.kind, o.detail) for o in graded] == [
        (1.0, "passed", ""),
        (0.0, "wrong", "5 for 4"),
        (0.0, "several answers", "4, 5 for 4"),
        (0.0, "no answer", ""),
    ]


def test_an_answer_that_takes_too_long() -> None:
    hangs = Problem(id="h", domain="algebra", prompt="?", answer="f(x)+(x+y+1)^{3000}")
    with MathReward(timeout=0.5) as reward:
        hung, right = DispatchReward(reward).grade([hangs, MATH], [r"\boxed{f(x)+(x+y+2)^{3000}}", RIGHT])
    assert (hung.score, hung.kind) == (0.0, "timeout")
    assert right.kind == "passed"


def test_a_plain_function_has_outcomes_too() -> None:
    def inverse(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        return [1 / len(text) for text in completions]

    assert [o.kind for o in as_verifier(brief, "reward").grade([MATH] * 2, ["4", "four"])] == ["passed", "wrong"]
    graded = as_verifier(inverse, "reward").grade([MATH] * 2, ["1234", "1"])
    assert [(o.score, o.kind) for o in graded] == [(0.25, "partial"), (1.0, "passed")]
    assert as_verifier(lambda p, c: [3.0], "reward").grade([MATH], [""])[0].kind == "scored"


def test_rewards_are_torch_free() -> None:
    import subprocess
    import sys

    program = "import sys, vibethinker.rewards; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


def test_a_format_is_no_answer() -> None:
    assert FormatReward()([MATH], [WRONG]) == [1.0]


class Generous(MathReward):
    """Overrides the scores alone, not the kinds that go with them."""

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        return [max(score, 0.5) for score in super().__call__(problems, completions)]


class Constant(Verifier):
    """Defines no outcomes, only scores."""

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        return [0.25] * len(completions)


def test_a_subclass_that_overrides_the_call_is_graded_by_its_scores() -> None:
    problems = [Problem(id="p", domain="algebra", prompt="?", answer="2")] * 4
    texts = [r"\boxed{2}", r"\boxed{3}", "two", r"\boxed{2} or \boxed{3}"]
    kinds = ["passed", "wrong", "no answer", "several answers"]
    for reward, expected in (
        (DispatchReward(), kinds),
        (Generous(), ["passed", *["partial"] * 3]),
        (DispatchReward(math=Generous()), ["passed", *["partial"] * 3]),
        (Constant(), ["partial"] * 4),
        (lambda p, c: [0.0] * len(c), ["wrong"] * 4),
    ):
        verifier = as_verifier(reward, "reward")
        assert [outcome.kind for outcome in outcomes(verifier, problems, texts)] == expected
    for wrong, named in (
        (lambda p, c: [2.0] * len(c), "<lambda> gave 2 for problem 'p', an outcome lies in"),
        (lambda p, c: [float("nan")] * len(c), "gave nan for problem 'p'"),
        (lambda p, c: [1.0], "gave 1 values for 4 completions"),
    ):
        with pytest.raises(ValueError, match=named):
            outcomes(as_verifier(wrong, "reward"), problems, texts)
