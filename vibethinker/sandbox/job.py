"""One program on its way through its tests: what its processes are told, what their answers mean, the verdict.

No input or output happens here; `host` moves the bytes.
"""

from __future__ import annotations

import math
import os
import reprlib
import signal
import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from vibethinker.sandbox.cases import Call, Case, same_output

_CPU_RESERVE: Final = 2  # seconds of processor beyond the wall limits, so that the wall decides
_LONGEST_DETAIL: Final = 1000
_OUTCOMES: Final = ("error", "memory", "rejected", "wrong")  # what a process may say of itself

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 120


class Run:
    """A program, its cases, and how far it has come.

    The cases of one form that follow each other are a *stage*, put to one process, or for asserts to a pair. Most
    programs have a single stage.

    Args:
        program: source.
        cases: at least one.
        timeout: seconds of wall clock for each.
        stop_early: end at the first that is not passed.
        output: characters it may print.
    """

    def __init__(self, program: str, cases: Sequence[Case], timeout: float, stop_early: bool, output: int) -> None:
        self.program, self.timeout, self.stop_early, self.output = program, timeout, stop_early, output
        self.cases = cases
        self.stages = [list(group) for _, group in groupby(range(len(cases)), lambda i: cases[i].form)]
        self.unanswered = [len(case.question) if case.form == "calls" else 1 for case in cases]
        self.wrong: set[int] = set()
        self.failure: tuple[str, str] | None = None
        self.started = self.ended = time.monotonic()
        self.deadline = math.inf
        self._questions: list[tuple[int, Call | None]] = []
        self._at = 0

    # What its processes are told

    def next_stage(self) -> list[dict[str, Any]]:
        """The jobs of the next stage's processes, the answering one last; empty when there is none."""
        if not self.stages or (self.stop_early and self.failure):
            self.ended = time.monotonic()
            return []
        if self.deadline == math.inf:
            self.started = time.monotonic()
        places = self.stages.pop(0)
        self.deadline, self._at = time.monotonic() + self.timeout, 0
        common = {"program": self.program, "limit": self.output}
        cases = [(place, self.cases[place]) for place in places]
        form = cases[0][1].form
        if form == "calls":
            self._questions = [(place, call) for place, case in cases for call in case.question]
            calls = [(call.name, call.args, call.kwargs) for _, call in self._questions if call]
            return [{"kind": "calls", "calls": calls, **common}]
        self._questions = [(place, None) for place in places]
        texts = [case.question for _, case in cases]
        if form == "inputs":
            return [{"kind": "inputs", "inputs": texts, **common}]
        return [{"kind": "serve", **common}, {"kind": "judge", "tests": texts}]

    @property
    def seconds(self) -> int:
        """Of processor time for a process of the stage."""
        return math.ceil(self.timeout * len(self._questions)) + _CPU_RESERVE

    # What they answer

    @property
    def stage_is_over(self) -> bool:
        return self._at >= len(self._questions) or (self.stop_early and self.failure is not None)

    def hear(self, message: Any, answering: bool) -> None:
        """Takes what a process says; whatever it is, from a process that nobody trusts.

        Args:
            message: of JSON.
            answering: whether it comes from the process that is asked. The one that serves a judge may only say that it
                failed: it runs the program, and a verdict of its own is a forgery.
        """
        if not isinstance(message, dict) or not _is_failure(failed := message.get("failed")):
            return self.end("crashed", "its process did not keep to the protocol")
        if failed and "at" not in message:
            return self.end(str(failed[0]), str(failed[1]))
        if not answering or type(message.get("at")) is not int or message["at"] != self._at:
            return self.end("crashed", "its process answered what it was not asked")
        place, call = self._questions[self._at]
        self._at += 1
        self.deadline = time.monotonic() + self.timeout
        self.unanswered[place] -= 1
        if failed:
            self._fail(place, failed[0], failed[1])
        elif (objection := _objection(self.cases[place], call, message.get("value"))) is not None:
            self._fail(place, "wrong", objection)

    def late(self) -> None:
        self.end("timeout", f"more than {self.timeout:g} s")

    def died(self, status: int, cpu: float) -> None:
        """A process has ended before it had answered everything.

        Args:
            status: as `os.wait` gives it.
            cpu: seconds of processor that it used.
        """
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number == signal.SIGXCPU or (number == signal.SIGKILL and cpu >= self.seconds):
                self.end("timeout", f"more than {self.seconds} s of processor time")
            else:
                self.end("crashed", f"its process was ended by {signal.Signals(number).name}")
        else:
            self.end("crashed", f"its process left with status {os.WEXITSTATUS(status)} before it had answered")

    def end(self, outcome: str, detail: str) -> None:
        """The rest is lost."""
        if self._at < len(self._questions):
            self._fail(self._questions[self._at][0], outcome, detail)
        self._at = len(self._questions)
        self.stages.clear()

    def _fail(self, place: int, outcome: str, detail: str) -> None:
        self.wrong.add(place)
        if self.failure is None:
            detail = "".join(c if c.isprintable() else " " for c in detail)  # it may hold a program's own words
            self.failure = outcome, f"test {place + 1}: {detail}" if len(self.cases) > 1 else detail

    def verdict(self) -> dict[str, Any]:
        """The fields of a `Verdict`."""
        right = sum(not left and place not in self.wrong for place, left in enumerate(self.unanswered))
        failure = self.failure or ("passed", "")
        return {
            "passed": right == len(self.cases),
            "score": right / len(self.cases),
            "outcome": failure[0],
            "detail": failure[1],
            "seconds": self.ended - self.started,
        }


def _is_failure(failed: Any) -> bool:
    """`None`, or an outcome and a detail."""
    return failed is None or (
        isinstance(failed, list)
        and len(failed) == 2
        and failed[0] in _OUTCOMES
        and isinstance(failed[1], str)
        and len(failed[1]) < _LONGEST_DETAIL
    )


def _objection(case: Case, call: Call | None, value: Any) -> str | None:
    """What is wrong with an answer, in one line; `None` when it is right."""
    if call is not None:
        if call.accepts(value):
            return None
        wanted = {"true": "something true", "false": "something false"}.get(call.check) or _show(call.expected)
        return f"{call.name}({', '.join(map(_show, call.args[1:]))}) gave {_show(value)}, not {wanted}"
    if case.answer is None:  # the judge's word
        return None if value is True else "the judge did not pass it"
    if not isinstance(value, str):
        return "its process gave no text"
    if same_output(case.answer, value):
        return None
    return f"printed {_shown.repr(value)}, not {_shown.repr(case.answer)}"


def _show(wire: Any) -> str:
    """Data as Python writes it, shortened; not built, since it may come from a program."""
    if isinstance(wire, dict):  # no wire form, and `repr` would sort it
        return "an object"
    if not isinstance(wire, list):
        return _shown.repr(wire)
    marks = {"l": "[]", "t": "()", "d": "{}", "s": "{}", "o": "an object"}.get(str(wire[0]) if wire else "", "<>")
    if marks == "an object":
        return marks
    items = ["…" if isinstance(item, list) and len(item) > 4 else _show(item) for item in wire[1:6]]
    return f"{marks[0]}{', '.join(items)}{', …' if len(wire) > 6 else ''}{marks[1]}"
