"""`Sandbox`: takes programs and their tests, returns verdicts.

The host holds the tests. A program's process is told an input or the arguments of a call and answers with an output or
a result, which the host compares. So nothing that a program does to its own process can make a wrong answer right.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Self

from vibethinker.sandbox.cases import Test, read
from vibethinker.sandbox.exceptions import SandboxError
from vibethinker.sandbox.isolation import LAYERS, LEVELS, Layer, Level, level, missing
from vibethinker.sandbox.job import Job, Verdict
from vibethinker.sandbox.supervisor import Progress, Supervisor


class Sandbox:
    """Runs untrusted Python programs against tests, several at a time.

    The processes start on first use, or on entering a `with` block; a copied or unpickled sandbox starts its own.

    Args:
        workers: programs at a time.
        level: the least protection to accept: `full`, `strong`, `basic` or `none`. Every layer that the machine has is
            used in any case; docs/security.md has the promise of each level.
        memory: bytes of address space of each program's process, interpreter included.
        output: characters that a program may print.
        without: layers to leave out, which may lower the level; for measurements.

    Raises:
        ValueError: an option out of range, at once.
        SandboxError: at the start, when the machine does not reach `level`: one line names what is missing.
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
        self._server: Supervisor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        options = {name: getattr(self, name) for name in ("level", "memory", "output", "without")}
        return partial(Sandbox, self.workers, **options), ()

    @property
    def layers(self) -> dict[str, Layer]:
        """Result of each layer's trial on this machine; starts the server."""
        with self._lock:
            return dict(self._started().layers)

    @property
    def reached(self) -> Level:
        """The level that the layers reach."""
        return level(self.layers)

    def run(self, program: str, tests: Sequence[Test], timeout: float = 5.0, stop_early: bool = False) -> Verdict:
        """The verdict on one program.

        Args:
            program: Python source.
            tests: inputs and outputs, calls, or asserts, as in `vibethinker.sandbox.cases`.
            timeout: seconds of wall clock for each test.
            stop_early: ends at the first test that fails.

        Raises:
            ValueError: as in `run_many`.
            SandboxError: as in `run_many`.

        >>> with Sandbox(workers=1, level="basic") as box:
        ...     verdict = box.run("def f(x): return x * x", [{"assert": "assert f(3) == 10"}])
        >>> verdict.passed, verdict.outcome, verdict.detail
        (False, 'wrong', 'f(3) gave 9, not 10')
        """
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
                count as failed; so do those after a crash.
            stop_early: ends at the first test that fails; the score is then the fraction before it.
            progress: called with the number of finished programs.

        Raises:
            ValueError: a test of an unknown form, or a time-out that is not positive; before anything runs.
            SandboxError: the sandbox does not start, or not at the level asked for.
        """
        if not timeout > 0:
            raise ValueError(f"timeout must be positive seconds, got {timeout!r}")
        started = [Job(program, read(tests), timeout, stop_early, self.output) for program, tests in jobs]
        with self._lock:
            try:
                self._started().run(started, self.workers, self.memory, progress)
            except BaseException:  # programs that still run have no caller left
                self.close()
                raise
        return [job.verdict() for job in started]

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

    def __exit__(self, *_: object) -> None:
        self.close()

    def _started(self) -> Supervisor:
        if self._server is not None and self._server.owner != os.getpid():  # forked since: it is the parent's
            self._server = None
        if self._server is not None and not self._server.alive:
            self.close()
        if self._server is None:
            server = Supervisor(self.without)
            if LEVELS.index(level(server.layers)) < LEVELS.index(self.level):
                server.close()
                lacking = "; ".join(missing(server.layers, self.level))
                raise SandboxError(
                    f"level={self.level!r} is not available on this machine, which lacks {lacking}; "
                    f"level={level(server.layers)!r} would accept what there is"
                )
            self._server = server
        return self._server
