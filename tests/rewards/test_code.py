"""The reward around the sandbox: a double stands in for it here, which counts what it is asked."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from vibethinker.problems import Problem
from vibethinker.rewards import CodeReward, Outcome, Verifier
from vibethinker.rewards import code as module
from vibethinker.sandbox import Verdict

TESTS = ({"call": "f", "args": [3], "expected": 9}, {"call": "f", "args": [0], "expected": 0})
PROBLEM = Problem("1", "code", "Square it.", tests=TESTS, source="embedded")
OTHER = Problem("2", "code", "Cube it.", tests=({"call": "f", "args": [2], "expected": 8},))

VERDICTS = {
    "square": Verdict(True, 1.0, "passed"),
    "half": Verdict(False, 0.5, "wrong", "test 2: 1 instead of 0"),
    "loop": Verdict(False, 0.0, "timeout"),
    "crash": Verdict(False, 0.0, "crashed"),
    "eat": Verdict(False, 0.0, "memory"),
    "sneak": Verdict(False, 0.0, "rejected"),
}


class Double:
    """Knows the programs `x = "square"` and so on by their words."""

    made: ClassVar[list[Double]] = []
    layers: ClassVar[dict[str, Any]] = {}
    reached = "none"

    def __init__(self, workers: int, *, level: str, memory: int) -> None:
        self.options = (workers, level, memory)
        self.jobs: list[tuple[str, Any]] = []
        self.calls: list[dict[str, Any]] = []
        self.closed = 0
        Double.made.append(self)

    def run_many(self, jobs: Sequence[tuple[str, Any]], **options: Any) -> list[Verdict]:
        self.jobs += jobs
        self.calls.append(options)
        return [next(verdict for word, verdict in VERDICTS.items() if word in program) for program, _ in jobs]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> type[Double]:
    monkeypatch.setattr(module, "Sandbox", Double)
    Double.made = []
    return Double


def program(word: str) -> str:
    return f"Sure:\n```python\nx = {word!r}\n```"


def test_all_or_nothing_or_a_share() -> None:
    completions = [program("square"), program("half"), program("loop"), "no program"]
    problems = [PROBLEM] * 4
    assert CodeReward()(problems, completions) == [1.0, 0.0, 0.0, 0.0]
    assert CodeReward(partial=True)(problems, completions) == [1.0, 0.5, 0.0, 0.0]
    whole, share = (made.calls[0]["stop_early"] for made in Double.made)
    assert (whole, share) == (True, False)


def test_it_is_a_reward_with_counters() -> None:
    reward = CodeReward()
    assert isinstance(reward, Verifier)
    words = ["loop", "crash", "eat", "sneak", "half", "square", "loop"]
    reward([PROBLEM] * 7, [program(word) for word in words])
    assert (reward.timeouts, reward.crashes) == (1, 2)  # the second loop is the first one
    reward([PROBLEM], [program("loop")])
    assert reward.timeouts == 2


def test_a_pair_of_program_and_tests_runs_once() -> None:
    reward = CodeReward()
    same = Problem("3", "code", "In other words.", tests=copy.deepcopy(TESTS))
    problems = [PROBLEM, PROBLEM, same, OTHER, PROBLEM]
    completions = [program("square"), program("square").upper().lower(), program("square"), program("square"), "none"]
    assert reward(problems, completions) == [1.0, 1.0, 1.0, 1.0, 0.0]
    (sandbox,) = Double.made
    assert sandbox.jobs == [("x = 'square'", TESTS), ("x = 'square'", OTHER.tests)]


def test_nothing_to_run_starts_nothing() -> None:
    reward = CodeReward()
    assert reward([], []) == []
    assert reward([PROBLEM], ["no program"]) == [0.0]
    assert Double.made[0].calls == []


def test_outcomes_have_reasons() -> None:
    problems, completions = [PROBLEM] * 3, [program("half"), "none", program("square")]
    half, none, whole = CodeReward().grade(problems, completions)
    assert half == Outcome(0.0, "wrong", "test 2: 1 instead of 0")
    assert (none.score, none.kind) == (0.0, "no answer")
    assert "no program" in none.detail
    assert whole == Outcome(1.0, "passed")
    assert CodeReward(partial=True).grade(problems, completions)[0].score == 0.5
    assert [made.calls[0]["stop_early"] for made in Double.made] == [True, False]


def test_options_reach_the_sandbox_and_it_is_closed() -> None:
    with CodeReward(workers=3, timeout=1.5, memory=1 << 28, level="basic") as reward:
        reward([PROBLEM], [program("square")])
    (sandbox,) = Double.made
    assert sandbox.options == (3, "basic", 1 << 28)
    assert sandbox.calls == [{"timeout": 1.5, "stop_early": True}]
    assert sandbox.closed == 1


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="2 problems for 1 completions"):
        CodeReward()([PROBLEM, PROBLEM], ["a"])
    with pytest.raises(ValueError, match=r"problem '4' \(set\.jsonl\) has no tests to run"):
        CodeReward()([Problem("4", "code", "p", "5", source="set.jsonl")], ["a"])
    with pytest.raises(ValueError, match="CodeReward: timeout must be positive"):
        CodeReward(timeout=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"workers": 0}, "workers must be"), ({"level": "steel"}, "level must be"), ({"memory": 1}, "memory must be")],
)
def test_the_sandboxs_own_complaints_come_at_once(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with pytest.raises(ValueError, match=f"CodeReward: {message}"):
        CodeReward(**options)


def test_copies_before_and_after_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real sandbox, which has to run: a square, for each copy by processes of its own."""
    monkeypatch.undo()
    answer = "```python\ndef f(n):\n    return n*n\n```"
    with CodeReward(workers=1, level="none") as reward:
        early = pickle.loads(pickle.dumps(reward))
        assert reward([PROBLEM] * 2, [answer, answer.replace("n*n", "9")]) == [1.0, 0.0]
        with early, copy.deepcopy(reward) as late:
            assert early([PROBLEM], [answer]) == late([PROBLEM], [answer]) == [1.0]
        assert reward([PROBLEM], [answer]) == [1.0]
