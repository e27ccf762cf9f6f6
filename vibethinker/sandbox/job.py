"""`Job`: one program through its tests to a `Verdict`; its input and output are the supervisor's."""

from __future__ import annotations

import math
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Literal

from vibethinker.sandbox.cases import Case

Outcome = Literal["passed", "wrong", "error", "timeout", "memory", "rejected", "crashed"]
_CPU_RESERVE: Final = 2  # CPU seconds beyond the wall limits, so that the wall decides
_LONGEST_DETAIL: Final = 1000
_REPORTED: Final = ("error", "memory", "rejected", "wrong")  # outcomes that a process may report of itself


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


class Job:
    """A program, its cases, and the answers so far.

    The cases of one form that follow each other are a *stage*, put to one process, or for asserts to a pair. Most
    programs have a single stage.

    Args:
        program: source.
        cases: at least one, from `cases.read`.
        timeout: seconds of wall clock for each.
        stop_early: whether it ends at the first case that fails.
        output: characters that it may print.
    """

    def __init__(self, program: str, cases: Sequence[Case], timeout: float, stop_early: bool, output: int) -> None:
        self.program, self.timeout, self.stop_early, self.output = program, timeout, stop_early, output
        self.stages = [list(group) for _, group in groupby(cases, lambda case: case.form)]
        self.unanswered = Counter(case.test for case in cases)
        self.failed: set[int] = set()
        self.failure: tuple[Outcome, str] | None = None
        self.started = self.ended = time.monotonic()
        self.deadline = math.inf
        self._cases: list[Case] = []  # of the stage
        self._at = 0

    def next_stage(self) -> list[dict[str, Any]]:
        """The tasks of the next stage's processes, the answering one last; empty when there is no further stage."""
        now = time.monotonic()
        if not self.stages or (self.stop_early and self.failure):
            self.ended = now
            return []
        if not self._cases:
            self.started = now
        self._cases, self._at, self.deadline = self.stages.pop(0), 0, now + self.timeout
        form, questions = self._cases[0].form, [case.question for case in self._cases]
        program = {"program": self.program, "limit": self.output}
        if form == "asserts":
            return [{"kind": "serve", **program}, {"kind": form, "questions": questions}]
        return [{"kind": form, "questions": questions, **program}]

    @property
    def cpu_seconds(self) -> int:
        """CPU time for a process of the stage."""
        return math.ceil(self.timeout * len(self._cases)) + _CPU_RESERVE

    @property
    def stage_is_over(self) -> bool:
        """True once every case of the stage is answered, or none needs to be any more."""
        return self._at >= len(self._cases) or (self.stop_early and self.failure is not None)

    def receive(self, message: Any, answering: bool) -> None:
        """Takes a message, which may be anything, from an untrusted process.

        Of a process that is not the `answering` one, which serves asserts, only a failure counts: it runs the program,
        and a verdict of its own is a forgery.
        """
        if not isinstance(message, dict) or not _is_failure(failed := message.get("failed")):
            return self.end("crashed", "its process did not keep to the protocol")
        if failed and "at" not in message:
            return self.end(failed[0], failed[1])
        if not answering or type(message.get("at")) is not int or message["at"] != self._at:
            return self.end("crashed", "its process answered what it was not asked")
        case = self._cases[self._at]
        self._at += 1
        self.deadline = time.monotonic() + self.timeout
        self.unanswered[case.test] -= 1
        if failed:
            self._fail(case, failed[0], failed[1])
        elif (objection := case.objection(message.get("value"))) is not None:
            self._fail(case, "wrong", objection)

    def expire(self) -> None:
        """Ends it at its deadline."""
        self.end("timeout", f"more than {self.timeout:g} s")

    def died(self, status: int, cpu: float) -> None:
        """Ends it when a process has ended before it had answered everything.

        It ended with a `status` as of `os.wait`, after `cpu` seconds of processor time.
        """
        if not os.WIFSIGNALED(status):
            self.end("crashed", f"its process left with status {os.WEXITSTATUS(status)} before it had answered")
            return
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU or (number == signal.SIGKILL and cpu >= self.cpu_seconds):
            self.end("timeout", f"more than {self.cpu_seconds} s of processor time")
        else:
            self.end("crashed", f"its process was ended by {signal.Signals(number).name}")

    def end(self, outcome: Outcome, detail: str) -> None:
        """Fails the case that is under way; those that follow stay unanswered."""
        if self._at < len(self._cases):
            self._fail(self._cases[self._at], outcome, detail)
        self._at = len(self._cases)
        self.stages.clear()

    def _fail(self, case: Case, outcome: Outcome, detail: str) -> None:
        self.failed.add(case.test)
        if self.failure is None:
            detail = "".join(c if c.isprintable() else " " for c in detail)  # it may hold a program's own words
            self.failure = outcome, f"test {case.test + 1}: {detail}" if len(self.unanswered) > 1 else detail

    def verdict(self) -> Verdict:
        """The result so far."""
        tests = len(self.unanswered)
        passed = sum(not left and test not in self.failed for test, left in self.unanswered.items())
        return Verdict(passed == tests, passed / tests, *(self.failure or ("passed", "")), self.ended - self.started)


def _is_failure(failed: Any) -> bool:
    """True of `None`, or an outcome and a detail."""
    return failed is None or (
        isinstance(failed, list)
        and len(failed) == 2
        and failed[0] in _REPORTED
        and isinstance(failed[1], str)
        and len(failed[1]) < _LONGEST_DETAIL
    )
