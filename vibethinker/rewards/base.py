"""What a reward is, how it is called, and what it can say about a completion beside a number."""

from __future__ import annotations

import inspect
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeAlias

from vibethinker.problems import Problem

COUNTERS: Final = ("timeouts", "crashes")  # whole numbers that only grow; a reward has those that make sense for it


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one completion.

    Attributes:
        score: in [0, 1] where a verifier gives it.
        kind: `passed`, `partial` (between 0 and 1), `scored` (outside), `wrong`, `no answer`, `several answers`,
            `malformed`, `timeout`, `crashed`, `error`, or other words that tell a reader of many of them apart.
        detail: more about this one, for people.
        seconds: wall time it took, with the start of a worker where one was needed.
    """

    score: float
    kind: str
    detail: str = ""
    seconds: float = 0.0


class Verifier(ABC):
    """A reward with options: its subclasses go by their short names in a configuration and on the command line.

    One that holds processes starts them on first use, so that it can be copied and configured freely before, and ends
    them in `close`. It counts what it gave up on in `timeouts` and `crashes` (`COUNTERS`), which are then logged.
    """

    @abstractmethod
    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        """Outcome of `completions[i]` as an answer to `problems[i]`, in order."""

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        """What `__call__` gives, with its kinds; judged together, so without times."""
        return [Outcome(score, kind_of(score)) for score in scores(self, problems, completions, "reward")]

    def examine(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        """What `__call__` gives, with reasons and times; one after the other, so that each has a time of its own."""
        return [_examine(self, *pair) for pair in zip(problems, completions, strict=True)]

    def fault(self, problem: Problem, completion: str) -> tuple[str, str]:
        """Kind and detail of a completion that earned less than 1, and neither ran out of time nor crashed."""
        return "wrong", ""

    def close(self) -> None:
        """Ends what it holds; that comes back if it is needed again."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# Judges completions: one number per completion, in their order; the same for the same pair; never an exception because
# of what a completion says. A plain function will do. As `model.reward` its numbers are outcomes in [0, 1]; as a part
# of `model.shaping` they may be anything finite.
Reward: TypeAlias = Verifier | Callable[[Sequence[Problem], Sequence[str]], list[float]]


def name_of(reward: Reward) -> str:
    """What an error calls it."""
    return getattr(reward, "__name__", type(reward).__name__)


def check_callable(reward: Reward, option: str) -> None:
    """Refuses a function of another shape before anything is sampled for it.

    Raises:
        ValueError: naming `option`.
    """
    try:
        inspect.signature(reward).bind([], [])
    except TypeError as error:
        raise ValueError(f"{option}: {name_of(reward)} is not called as (problems, completions): {error}") from error


def scores(reward: Reward, problems: Sequence[Problem], completions: Sequence[str], option: str) -> list[float]:
    """What the reward gives, one finite number per completion.

    Raises:
        ValueError: naming `option` and the problem when it gives anything else.
    """
    values = [float(value) for value in reward(problems, completions)]
    if len(values) != len(completions):
        raise ValueError(f"{option}: {name_of(reward)} gave {len(values)} values for {len(completions)} completions")
    for value, problem in zip(values, problems, strict=True):
        if not math.isfinite(value):
            raise ValueError(f"{option}: {name_of(reward)} gave {value} for problem {problem.id!r}")
    return values


def grade(reward: Reward, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
    """What the reward gives, checked to be correctness: pass rates and maximum-entropy weights are made of it.

    Raises:
        ValueError: a value outside [0, 1], or as in `scores`.
    """
    if _own_grade(type(reward)):
        found = reward.grade(problems, completions)  # type: ignore[union-attr]  # no plain function has one
    else:
        found = [Outcome(score, kind_of(score)) for score in scores(reward, problems, completions, "reward")]
    for outcome, problem in zip(found, problems, strict=True):
        if not 0 <= outcome.score <= 1:
            raise ValueError(
                f"reward: {name_of(reward)} gave {outcome.score:g} for problem {problem.id!r}, an outcome lies in "
                "[0, 1]; what only shapes the reward belongs in model.shaping"
            )
    return found


def _own_grade(kind: type) -> bool:
    """Whether there is one for this very call, and not for one that a subclass has overridden since."""
    graded, called = (next((c for c in kind.__mro__ if name in vars(c)), None) for name in ("grade", "__call__"))
    return graded is not None and called is not None and issubclass(graded, called)


def kind_of(score: float, otherwise: str = "wrong") -> str:
    """Kind of an outcome of which no more than its score is known, `otherwise` where that is 0."""
    return "passed" if score == 1 else otherwise if score == 0 else "partial" if 0 < score < 1 else "scored"


def counted(reward: Reward) -> dict[str, int]:
    """The reward's counters as they are now; 0 for those that it does not have."""
    return {name: getattr(reward, name, 0) for name in COUNTERS}


def close(reward: Reward) -> None:
    """Ends what the reward holds, if it can hold anything."""
    getattr(reward, "close", lambda: None)()


def examine(reward: Reward, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
    """What became of each completion, in order: the reward's own `examine`, else made from what its call returns.

    A plain function may raise: that is an outcome of kind `error` here, since finding it is what one examines for.
    """
    own: Callable[..., list[Outcome]] | None = getattr(reward, "examine", None)
    if own is not None:
        return own(problems, completions)
    return [_examine(reward, *pair) for pair in zip(problems, completions, strict=True)]


def _examine(reward: Reward, problem: Problem, completion: str) -> Outcome:
    before, start = counted(reward), time.perf_counter()
    try:
        (score,) = scores(reward, [problem], [completion], "reward")
    except Exception as error:
        return Outcome(0.0, "error", f"{type(error).__name__}: {error}", time.perf_counter() - start)
    seconds = time.perf_counter() - start
    if score == 1:
        return Outcome(score, "passed", "", seconds)
    new = [name for name, count in counted(reward).items() if count > before[name]]
    if new:
        return Outcome(score, {"timeouts": "timeout", "crashes": "crashed"}[new[0]], "", seconds)
    kind, detail = reward.fault(problem, completion) if isinstance(reward, Verifier) else ("wrong", "")
    return Outcome(score, kind_of(score, kind), detail, seconds)
