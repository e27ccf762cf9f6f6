"""Unusable rows are left out, counted and reported; more than a stated fraction of them is an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from vibethinker.problems import Problem

MAX_UNUSABLE: Final = 0.01  # default limit
_EXAMPLES: Final = 3


@dataclass
class Unusable:
    """Counts the unusable rows of one data set."""

    limit: float  # the largest fraction that is allowed
    seen: int = 0  # number of rows, usable or not
    reasons: Counter[str] = field(default_factory=Counter)  # number of unusable rows by reason
    examples: list[str] = field(default_factory=list)  # full error messages of the first few

    def add(self, reason: str, example: str) -> None:
        """Counts one of the rows seen as unusable."""
        self.reasons[reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)

    @property
    def too_many(self) -> bool:
        """True if more are unusable than the limit allows."""
        return self.reasons.total() > self.limit * self.seen

    def check(self, name: str, things: str = "rows") -> None:
        """Warns on rank 0 about the things of a data set that are left out.

        Raises:
            ValueError: more are unusable than the limit allows.
        """
        if not self.reasons:
            return
        counts = ", ".join(f"{reason}: {count}" for reason, count in self.reasons.most_common())
        what = f"{self.reasons.total()} of {self.seen} {things} cannot be used ({counts})"
        examples = "; ".join(self.examples) or name  # a resumed stream has counts alone
        if self.too_many:
            raise ValueError(f"{examples}: {what}, more than max_unusable={self.limit:g} allows")
        from lightning.pytorch.utilities import rank_zero_warn  # takes seconds to import

        rank_zero_warn(f"{name}: {what} and are left out: {examples}")


def learnable(problems: Sequence[Problem], refusals: Sequence[Sequence[str]], limit: float, name: str) -> list[Problem]:
    """The problems with the solutions that can be used for fine-tuning; problems without any are left out.

    Args:
        problems: of one data set.
        refusals: for each solution of each problem the reason why it cannot be used, empty where it can.
        limit: largest fraction of the solutions that may be unusable; a problem without solutions counts as one.
        name: name of the data set in warnings.

    Raises:
        ValueError: more are unusable than the limit allows.
    """
    unusable = Unusable(limit)
    kept = []
    for problem, own in zip(problems, refusals, strict=True):
        for reason in own or ["no solution to learn from"]:
            unusable.seen += 1
            if reason:
                unusable.add(reason, f"{problem.source}, problem {problem.id!r}: {reason}")
        solutions = tuple(s for s, reason in zip(problem.solutions, own, strict=True) if not reason)
        if solutions:
            kept.append(replace(problem, solutions=solutions) if any(own) else problem)
    unusable.check(name, "demonstrations")
    return kept


def askable(problems: Sequence[Problem], reasons: Sequence[str], limit: float, name: str) -> list[Problem]:
    """The problems that can be asked.

    Args:
        problems: of one data set.
        reasons: for each problem the reason why it cannot be asked, empty where it can.
        limit: largest fraction that may be unusable.
        name: name of the data set in warnings.

    Raises:
        ValueError: more are unusable than the limit allows.
    """
    unusable = Unusable(limit, seen=len(problems))
    for problem, reason in zip(problems, reasons, strict=True):
        if reason:
            unusable.add(reason, f"{problem.source}, problem {problem.id!r}: {reason}")
    unusable.check(name, "problems")
    return [problem for problem, reason in zip(problems, reasons, strict=True) if not reason]
