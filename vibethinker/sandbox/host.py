"""`Sandbox`: programs and their tests in, verdicts out.

The host knows the tests; a program's process learns an input or a call's arguments and answers with an output or a
result, which the host compares. So nothing that a program does to its own process, however thoroughly, can make a wrong
answer right.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from vibethinker.sandbox.cases import Test, read
from vibethinker.sandbox.exceptions import SandboxError
from vibethinker.sandbox.isolation import LAYERS, LEVELS, Layer, Level, level, missing
from vibethinker.sandbox.job import Run
from vibethinker.sandbox.supervisor import Progress, Server

Outcome = Literal["passed", "wrong", "error", "timeout", "memory", "rejected", "crashed"]


@dataclass(frozen=True)
class Verdict:
    """What became of one program.

    Attributes:
        passed: whether it passed every test.
        score: share of the tests that it passed.
        outcome: `passed`, or what happened at the first test that it did not pass.
        detail: one line about that.
        seconds: from its start to its verdict.
    """

    passed: bool
    score: float
    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0


class Sandbox:
    """Runs untrusted Python programs against tests, several at a time.

    The processes start on first use, or on entering a `with` block; a copied or unpickled sandbox starts its own.

    Args:
        workers: programs at a time.
        level: the least protection to accept, of `full`, `strong`, `basic`, `none`; every layer that the machine has is
            used, whatever is asked for. docs/security.md says what each promises.
        memory: bytes of address space of each program's process, interpreter included.
        output: characters that a program may print.
        without: layers to leave out, which may lower the level; for measurements.

    Raises:
        ValueError: an option out of range, at once.
        SandboxError: at the start, when the machine does not reach `level`: one line says what is missing.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        level: Level = "strong",
        memory: int = 512 << 20,
        output: int = 1 << 20,
        without: Iterable[str] = (),
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        if level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
        if memory < 64 << 20:
            raise ValueError(f"memory must be at least 64 MiB, got {memory} bytes")
        if output < 1:
            raise ValueError(f"output must be at least 1 character, got {output}")
        self.workers, self.level, self.memory, self.output = workers, level, memory, output
        self.without = tuple(without)
        if unknown := [name for name in self.without if name not in LAYERS]:
            raise ValueError(f"without: {unknown[0]!r} is none of {', '.join(LAYERS)}")
        self._lock = threading.RLock()
        self._server: Server | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.workers, self.level, self.memory, self.output, self.without)

    @property
    def layers(self) -> dict[str, Layer]:
        """What protects on this machine and how it showed; starts the server."""
        with self._lock:
            return dict(self._started().layers)

    @property
    def reached(self) -> Level:
        """The level that those layers amount to."""
        return level(self.layers)

    def run(self, program: str, tests: Sequence[Test], timeout: float = 5.0, stop_early: bool = False) -> Verdict:
        """The verdict on one program; see `run_many`."""
        return self.run_many([(program, tests)], timeout, stop_early)[0]

    def run_many(
        self,
        jobs: Sequence[tuple[str, Sequence[Test]]],
        timeout: float = 5.0,
        stop_early: bool = False,
        progress: Progress | None = None,
    ) -> list[Verdict]:
        """The verdicts on (program, tests) pairs, in order.

        Args:
            jobs: programs with their tests, in the three forms of `vibethinker.sandbox.cases`.
            timeout: seconds of wall clock for each test. A program that exceeds it is killed, and its remaining tests
                count as not passed; so do those after a crash.
            stop_early: end at the first test that is not passed; the score is then the share before it.
            progress: called with the number of finished programs.

        Raises:
            ValueError: a test of an unknown form, or a time-out that is not positive; before anything runs.
            SandboxError: the sandbox does not start, or not at the level asked for.
        """
        if not timeout > 0:
            raise ValueError(f"timeout must be positive seconds, got {timeout!r}")
        runs = [Run(program, read(tests), timeout, stop_early, self.output) for program, tests in jobs]
        with self._lock:
            try:
                self._started().carry_out(runs, self.workers, self.memory, progress)
            except BaseException:  # what is under way belongs to nobody any more
                self.close()
                raise
        return [Verdict(**run.verdict()) for run in runs]

    def close(self) -> None:
        """Ends every process; they come back if they are needed again."""
        with self._lock:
            if self._server is not None:
                self._server.close()
                self._server = None

    def __enter__(self) -> Self:
        with self._lock:
            self._started()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _started(self) -> Server:
        if self._server is not None and self._server.owner != os.getpid():  # forked since: it is the parent's
            self._server = None
        if self._server is not None and not self._server.alive:
            self.close()
        if self._server is None:
            server = Server(self.without)
            if LEVELS.index(level(server.layers)) < LEVELS.index(self.level):
                server.close()
                lacking = "; ".join(missing(server.layers, self.level))
                raise SandboxError(
                    f"level={self.level!r} is not to be had on this machine, which lacks {lacking}; "
                    f"level={level(server.layers)!r} would accept what there is"
                )
            self._server = server
        return self._server


def _again(workers: int, level: Level, memory: int, output: int, without: tuple[str, ...]) -> Sandbox:
    return Sandbox(workers, level=level, memory=memory, output=output, without=without)
