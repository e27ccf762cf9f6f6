"""Programs graded by the tests of their problem."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vibethinker.problems import Problem
from vibethinker.rewards.base import Outcome, Verifier
from vibethinker.rewards.code_blocks import program_of
from vibethinker.sandbox import Sandbox, Verdict
from vibethinker.sandbox.isolation import Level

_log = logging.getLogger(__name__)
NO_PROGRAM: Final = Outcome(0.0, "no answer", "no program in the completion")


class CodeReward(Verifier):
    """1 for a completion whose program passes every test of the problem, else 0.

    `vibethinker.rewards.code_blocks.program_of` finds the program. A completion without one gets 0, and so does a
    program that hangs, crashes or takes too much memory; other samples are not affected. The sandbox starts on first
    use; a copied or unpickled reward starts its own.

    Args:
        workers: programs at a time.
        timeout: seconds for each test.
        memory: bytes of address space of each program's process, interpreter included.
        partial: score the fraction of the tests that are passed, instead of all or nothing.
        level: the least protection to accept, as `vibethinker.sandbox.Sandbox` has it.

    Attributes:
        timeouts: programs that ran out of time so far.
        crashes: programs that brought their process down, or ran out of memory, so far.
    """

    timed = True

    def __init__(
        self,
        workers: int = 2,
        timeout: float = 5.0,
        memory: int = 512 << 20,
        partial: bool = False,
        level: Level = "strong",
    ) -> None:
        if not timeout > 0:
            raise ValueError(f"CodeReward: timeout must be positive seconds, got {timeout!r}")
        try:
            self._sandbox = Sandbox(workers, level=level, memory=memory)
        except ValueError as error:
            raise ValueError(f"CodeReward: {error}") from None
        self.timeout, self.partial = timeout, partial
        self.timeouts = self.crashes = 0
        self._logged = False

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        """The sandbox's verdict on each program; its first failing test ends it, unless scores are `partial`.

        Raises:
            ValueError: problems and completions differ in number, or a problem has no tests.
            SandboxError: the sandbox does not start, or not at the level asked for.
        """
        if len(problems) != len(completions):
            raise ValueError(f"CodeReward: {len(problems)} problems for {len(completions)} completions")
        for problem in problems:
            if not problem.tests:
                raise ValueError(f"CodeReward: problem {problem.id!r} ({problem.source}) has no tests to run")
        programs = map(program_of, completions)
        tests = _first_equal([problem.tests for problem in problems])
        keys = [None if program is None else (program, index) for program, index in zip(programs, tests, strict=True)]
        unique = list(dict.fromkeys(key for key in keys if key is not None))
        found = self._run([(program, problems[index].tests or ()) for program, index in unique])
        scores = [verdict.score if self.partial else float(verdict.passed) for verdict in found]
        graded = {
            key: Outcome(score, verdict.outcome, verdict.detail, verdict.seconds)
            for key, score, verdict in zip(unique, scores, found, strict=True)
        }
        return [NO_PROGRAM if key is None else graded[key] for key in keys]

    def close(self) -> None:
        """Ends the sandbox; it starts again when needed."""
        self._sandbox.close()

    def _run(self, jobs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[Verdict]:
        if not jobs:
            return []
        if not self._logged:
            self._logged = True
            layers = ", ".join(name for name, layer in self._sandbox.layers.items() if layer.ok)
            _log.info("programs run at sandbox level %s: %s", self._sandbox.reached, layers)
        verdicts = self._sandbox.run_many(jobs, timeout=self.timeout, stop_early=not self.partial)
        self.timeouts += sum(verdict.outcome == "timeout" for verdict in verdicts)
        self.crashes += sum(verdict.outcome in ("crashed", "memory") for verdict in verdicts)
        return verdicts


def _first_equal(values: Sequence[Any]) -> list[int]:
    """The index of the first equal value of each: tests cannot be hashed, and a group shares one object."""
    first: dict[str, int] = {}
    index_of: dict[int, int] = {}
    for index, value in enumerate(values):
        if id(value) not in index_of:
            index_of[id(value)] = first.setdefault(repr(value), index)
    return [index_of[id(value)] for value in values]
