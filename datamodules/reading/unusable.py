"""Rows that cannot be used are left out, counted and told; more than a stated share of them is an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from vibethinker.problems import Problem

_EXAMPLES: Final = 3


@dataclass
class Unusable:
    """Counts of one set.

    Attributes:
        limit: the share that is borne.
        seen: how many were looked at.
        reasons: how many of them cannot be used, by reason.
        examples: the first few, each told in full.
    """

    limit: float
    seen: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, reason: str, example: str) -> None:
        """Counts one among those seen."""
        self.reasons[reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)

    @property
    def too_many(self) -> bool:
        return self.reasons.total() > self.limit * self.seen

    def check(self, name: str, things: str = "rows") -> None:
        """Warns of what is left out, on the first rank.

        Raises:
            ValueError: when it is too much.
        """
        if not self.reasons:
            return
        counts = ", ".join(f"{reason}: {count}" for reason, count in self.reasons.most_common())
        what = f"{self.reasons.total()} of {self.seen} {things} cannot be used ({counts})"
        examples = "; ".join(self.examples) or name  # a resumed stream has counts alone
        if self.too_many:
            raise ValueError(f"{examples}: {what}, more than max_unusable={self.limit:g} allows")
        from lightning.pytorch.utilities import rank_zero_warn  # seconds that a reader of one table should not pay

        rank_zero_warn(f"{name}: {what} and are left out: {examples}")


def learnable(problems: Sequence[Problem], refusals: Sequence[Sequence[str]], limit: float, name: str) -> list[Problem]:
    """The problems with those of their solutions that can be learned from; none without any.

    Args:
        problems: of one set.
        refusals: for each solution of each why it cannot be learned from, empty where it can.
        limit: share of the solutions that may be unusable; a problem without one counts as one.
        name: what a warning calls the set.

    Raises:
        ValueError: when it is too much.
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
    """The problems without those that have a reason why they cannot be asked; an error when there are too many."""
    unusable = Unusable(limit, seen=len(problems))
    for problem, reason in zip(problems, reasons, strict=True):
        if reason:
            unusable.add(reason, f"{problem.source}, problem {problem.id!r}: {reason}")
    unusable.check(name, "problems")
    return [problem for problem, reason in zip(problems, reasons, strict=True) if not reason]
