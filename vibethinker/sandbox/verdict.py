"""`Verdict`: the result of a program's tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["passed", "wrong", "error", "timeout", "memory", "rejected", "crashed"]


@dataclass(frozen=True)
class Verdict:
    """The result of a program's tests.

    Attributes:
        passed: True if it passed every test.
        score: fraction of the tests that it passed.
        outcome: `passed`, or the reason why the first test that failed did.
        detail: one line about that.
        seconds: of wall clock, from its start to its verdict.
    """

    passed: bool
    score: float
    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0
