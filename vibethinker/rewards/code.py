"""Does the program in a completion pass the problem's tests?"""

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
NO_ANSWER: Final = Verdict(passed=False, score=0.0, outcome="wrong", detail="no program in the completion")


class CodeReward(Verifier):
    """1 for a completion whose program passes every test of the problem, else 0.

    The program is what `vibethinker.rewards.code_blocks.program_of` finds; a completion without one earns nothing, and
    so does a program that hangs, crashes or takes too much memory, each of which costs its own sample alone. The
    sandbox starts on first use; a copied or unpickled reward starts its own.

    Args:
        workers: programs at a time.
        timeout: seconds for each test.
        memory: bytes of address space of each program's process, interpreter included.
        partial: the share of the tests that are passed, instead of all or nothing.
        level: the least protection to accept, as `vibethinker.sandbox.Sandbox` has it.

    Attributes:
        timeouts: programs that ran out of time so far.
        crashes: programs that brought their process down, or ran out of memory, so far.
    """

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
        self._told = False

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        """Outcomes of `completions[i]` as an answer to `problems[i]`.

        Raises:
            ValueError: the two differ in length, or a problem has no tests.
            SandboxError: the sandbox does not start, or not at the level asked for.
        """
        return [outcome.score for outcome in self.grade(problems, completions)]

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        """The sandbox's verdicts; a program's first failing test ends it, unless its share of the tests is asked."""
        return self._outcomes(self._verdicts(problems, completions, stop_early=not self.partial))

    def examine(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        """The sandbox's verdicts with their reasons, over all tests."""
        return self._outcomes(self._verdicts(problems, completions, stop_early=False))

    def _outcomes(self, verdicts: Sequence[Verdict]) -> list[Outcome]:
        return [
            Outcome(
                verdict.score if self.partial else float(verdict.passed),
                "no answer" if verdict is NO_ANSWER else verdict.outcome,
                verdict.detail,
                verdict.seconds,
            )
            for verdict in verdicts
        ]

    def close(self) -> None:
        """End the sandbox; it comes back if it is needed again."""
        self._sandbox.close()

    def _verdicts(self, problems: Sequence[Problem], completions: Sequence[str], stop_early: bool) -> list[Verdict]:
        if len(problems) != len(completions):
            raise ValueError(f"CodeReward: {len(problems)} problems for {len(completions)} completions")
        for problem in problems:
            if not problem.tests:
                raise ValueError(f"CodeReward: problem {problem.id!r} ({problem.source}) has no tests to run")
        programs = [program_of(completion) for completion in completions]
        tests = _places([problem.tests for problem in problems])
        keys = [None if program is None else (program, place) for program, place in zip(programs, tests, strict=True)]
        unique = list(dict.fromkeys(key for key in keys if key is not None))
        found = self._run([(program, problems[place].tests or ()) for program, place in unique], stop_early)
        verdicts = dict(zip(unique, found, strict=True))
        return [NO_ANSWER if key is None else verdicts[key] for key in keys]

    def _run(self, jobs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], stop_early: bool) -> list[Verdict]:
        if not jobs:
            return []
        if not self._told:
            self._told = True
            held = ", ".join(name for name, layer in self._sandbox.layers.items() if layer.ok)
            _log.info("programs are judged at sandbox level %s: %s", self._sandbox.reached, held)
        verdicts = self._sandbox.run_many(jobs, timeout=self.timeout, stop_early=stop_early)
        self.timeouts += sum(verdict.outcome == "timeout" for verdict in verdicts)
        self.crashes += sum(verdict.outcome in ("crashed", "memory") for verdict in verdicts)
        return verdicts


def _places(values: Sequence[Any]) -> list[int]:
    """For each value the place of the first equal one: tests cannot be hashed, and a group shares one object."""
    first_of: dict[str, int] = {}
    place_of: dict[int, int] = {}
    for place, value in enumerate(values):
        if id(value) not in place_of:
            place_of[id(value)] = first_of.setdefault(repr(value), place)
    return [place_of[id(value)] for value in values]
