"""The reward protocol: `Verifier.grade` turns problems and completions into outcomes.

Plain functions are rewards too. `as_verifier` wraps them once, where an option or an argument takes a reward; behind it
everything is a `Verifier`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final, Self, TypeAlias

from vibethinker.problems import Problem

COUNTERS: Final = ("timeouts", "crashes")  # whole numbers that only grow; a reward has those that make sense for it


@dataclass(frozen=True, slots=True)
class Outcome:
    """The grade of one completion.

    Attributes:
        score: in [0, 1], where 1 is correct; any finite number from a reward that only shapes.
        kind: `passed`, `partial` (between 0 and 1), `scored` (outside), `wrong`, `no answer`, `several answers`,
            `malformed`, `timeout`, `crashed`, `memory`, `rejected` or `error`.
        detail: an explanation for people.
        seconds: wall time it took; 0 from a verifier that is not `timed`.
    """

    score: float
    kind: str
    detail: str = ""
    seconds: float = 0.0

    @classmethod
    def of(cls, score: float) -> Outcome:
        """An outcome of which only the score is known."""
        kind = "passed" if score == 1 else "wrong" if score == 0 else "partial" if 0 < score < 1 else "scored"
        return cls(score, kind)


class Verifier:
    """Base class of rewards; subclasses go by their short names in a configuration and on the command line.

    A subclass defines `grade`. One that needs processes starts them on first use, so that it can be copied and
    configured freely before, and ends them in `close`. It counts completions that it gave up on in the attributes
    `timeouts` and `crashes`, which are logged.

    Attributes:
        timed: true where `grade` measures the seconds of each outcome; a caller that wants times passes other rewards
            one completion at a time.
        part_means: mean score of each part in the last call, of a reward that has parts; they are logged.
    """

    timed: ClassVar[bool] = False
    part_means: Mapping[str, float] = MappingProxyType({})

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        """The outcome of `completions[i]` as an answer to `problems[i]`, in order.

        Deterministic, and never an exception because of what a completion says.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no grade")

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        """The scores of `grade`."""
        return [outcome.score for outcome in self.grade(problems, completions)]

    def close(self) -> None:
        """Ends the processes; they start again when needed."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# As options take it. The numbers that a function returns are outcomes in [0, 1] as `model.reward`, and may be anything
# finite as a part of `model.shaping`.
Reward: TypeAlias = Verifier | Callable[[Sequence[Problem], Sequence[str]], list[float]]


class _FunctionReward(Verifier):
    """A function `(problems, completions) -> numbers`, or an object that is called as one."""

    def __init__(self, function: Callable[[Sequence[Problem], Sequence[str]], list[float]]) -> None:
        self.function = function

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        return [Outcome.of(float(score)) for score in self.function(problems, completions)]

    def close(self) -> None:
        getattr(self.function, "close", lambda: None)()


def as_verifier(reward: Reward, option: str) -> Verifier:
    """The reward as a verifier: itself, or what wraps a function or a subclass that overrides `__call__`.

    Raises:
        ValueError: the reward is not called as `(problems, completions)`.
    """
    if isinstance(reward, Verifier) and type(reward).__call__ is Verifier.__call__:
        return reward
    try:
        inspect.signature(reward).bind([], [])
    except TypeError as error:
        raise ValueError(f"{option}: {name_of(reward)} is not called as (problems, completions): {error}") from error
    return _FunctionReward(reward)


def name_of(reward: Reward) -> str:
    """The name that errors and records use."""
    inner = _unwrapped(reward)
    return getattr(inner, "__name__", type(inner).__name__)


def counted(reward: Verifier) -> dict[str, int]:
    """The current values of the reward's counters; 0 for those that it does not have."""
    return {name: getattr(_unwrapped(reward), name, 0) for name in COUNTERS}


def _unwrapped(reward: Reward) -> Reward:
    return reward.function if isinstance(reward, _FunctionReward) else reward


def outcomes(
    reward: Verifier,
    problems: Sequence[Problem],
    completions: Sequence[str],
    option: str = "reward",
    *,
    shaping: bool = False,
) -> list[Outcome]:
    """The reward's outcomes, checked.

    Args:
        reward: grades the completions.
        problems: one for each completion.
        completions: texts.
        option: name for errors.
        shaping: accept any finite score. Otherwise scores are correctness, of which pass rates and maximum-entropy
            weights are made, and lie in [0, 1].

    Raises:
        ValueError: another number of outcomes than of completions, or a score out of range; names `option`, the reward
            and the problem.
    """
    found = reward.grade(problems, completions)
    if len(found) != len(completions):
        raise ValueError(f"{option}: {name_of(reward)} gave {len(found)} values for {len(completions)} completions")
    for outcome, problem in zip(found, problems, strict=True):
        score = outcome.score
        if not math.isfinite(score):
            raise ValueError(f"{option}: {name_of(reward)} gave {score} for problem {problem.id!r}")
        if not (shaping or 0 <= score <= 1):
            raise ValueError(
                f"{option}: {name_of(reward)} gave {score:g} for problem {problem.id!r}, an outcome lies in [0, 1]; "
                "what only shapes the reward belongs in model.shaping"
            )
    return found
