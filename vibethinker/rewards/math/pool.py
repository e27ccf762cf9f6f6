"""Symbolic equivalence in processes that can be killed.

Symbolic algebra on a model's answer may take for ever, in C code that no signal interrupts, or all memory. So it runs
in interpreters of its own: started by exec, never forked from the trainer; without torch; with limited memory and CPU
time (`vibethinker.rewards.math.worker`); ended by the closing of their pipe when the parent is gone. A deadline by the
wall clock stands behind the limit of CPU time, for a process that sleeps or is stopped; it is generous, because a
verdict that depends on it would depend on how busy the machine is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from typing import Any, Final, Literal

from vibethinker.utils.process import child_environment

START_LIMIT: Final = 60.0  # seconds for an interpreter to import sympy on a busy machine
START_ATTEMPTS: Final = 3
ATTEMPTS: Final = 2  # for a pair whose worker died or slept, as opposed to ran out of CPU time
PATIENCE: Final = 30.0  # seconds of wall clock for a pair, beside ten times its CPU time
CACHE_SIZE: Final = 16_384  # verdicts kept

Pair = tuple[str, str]
Verdict = bool | Literal["timeout", "crashed"]


class SymbolicWorkers:
    """A pool that starts on first use; a copied or unpickled one starts its own processes.

    Args:
        workers: processes, at least 1.
        timeout: seconds of CPU time for one pair.

    Attributes:
        timeouts: pairs that ran out of time.
        crashes: pairs whose worker died each time.
    """

    def __init__(self, workers: int, timeout: float) -> None:
        self.workers, self.timeout = workers, timeout
        self.timeouts = self.crashes = 0
        self._lock = threading.Lock()
        self._cache: dict[Pair, Verdict] = {}  # the most recently used last
        self._adopt_pool()

    def __reduce__(self) -> tuple[Any, ...]:
        return SymbolicWorkers, (self.workers, self.timeout)

    def verdicts(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """Verdict on each (prediction, gold), in order. Recent ones are cached.

        Raises:
            RuntimeError: the workers do not start, as when math-verify is not installed.
        """
        with self._lock:
            if self._owner != os.getpid():  # forked since: those processes belong to the parent
                self._adopt_pool()
            new = [pair for pair in dict.fromkeys(pairs) if pair not in self._cache]
            found = dict(zip(new, self._run(new), strict=True))
            self.timeouts += sum(verdict == "timeout" for verdict in found.values())
            self.crashes += sum(verdict == "crashed" for verdict in found.values())
            for pair in dict.fromkeys(pairs):
                self._cache[pair] = found[pair] if pair in found else self._cache.pop(pair)
            verdicts = [self._cache[pair] for pair in pairs]
            while len(self._cache) > CACHE_SIZE:
                del self._cache[next(iter(self._cache))]
            return verdicts

    def close(self) -> None:
        """Ends the processes; a later call starts new ones."""
        with self._lock:
            _end(self._pool, self._owner)

    def _adopt_pool(self) -> None:
        self._owner = os.getpid()
        self._pool: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._stopped = False
        weakref.finalize(self, _end, self._pool, self._owner)

    def _run(self, pairs: Sequence[Pair]) -> list[Verdict]:
        with ThreadPoolExecutor(self.workers) as threads:  # each waits for the worker that it holds
            self._stopped, self._idle = False, [worker for worker in self._idle if worker in self._pool]
            try:
                return list(threads.map(self._verdict, pairs))
            except BaseException:  # an interrupted worker would answer the wrong question later
                self._stopped = True
                _end(self._pool, self._owner)
                raise

    def _verdict(self, pair: Pair) -> Verdict:
        for _ in range(ATTEMPTS):
            worker = self._idle_worker() or self._new_worker()
            reply = worker.ask(pair, PATIENCE + 10 * self.timeout)
            if isinstance(reply, bool) or reply == "timeout":
                self._idle.append(worker)
                return reply
            self._discard(worker)
        return "crashed"

    def _idle_worker(self) -> _Worker | None:
        with contextlib.suppress(IndexError):
            while True:
                worker = self._idle.pop()
                if worker.is_quiet():
                    return worker
                self._discard(worker)
        return None

    def _new_worker(self) -> _Worker:
        reply: object = None
        for _ in range(START_ATTEMPTS):
            if self._stopped:
                break
            worker = _Worker(self.timeout)
            self._pool.append(worker)
            reply = worker.receive(START_LIMIT)
            if reply is True:
                return worker
            self._discard(worker)
            if reply:
                break
        raise RuntimeError(f"the workers of math verification do not start: {reply or 'killed or too slow'}")

    def _discard(self, worker: _Worker) -> None:
        with contextlib.suppress(ValueError):
            self._pool.remove(worker)
        worker.kill()


def _end(pool: list[_Worker], owner: int) -> None:
    if owner == os.getpid():
        while pool:
            pool.pop().kill()


class _Worker:
    """One child interpreter: a line of JSON in, a line of JSON out, one pair at a time."""

    def __init__(self, timeout: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from vibethinker.rewards.math.worker import serve; serve({timeout!r})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(1, PYTHONHASHSEED="0"),
            start_new_session=True,  # an interrupt at the terminal is the parent's to handle
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout

    def is_quiet(self) -> bool:
        """True unless it ended, or reported unasked that its fork died."""
        return not wait([self.output.fileno()], 0)

    def ask(self, pair: Pair, seconds: float) -> object:
        """Reply to a pair, or `None` when it is dead or takes longer than this."""
        with contextlib.suppress(OSError):
            self.input.write(json.dumps(pair).encode() + b"\n")
            return self.receive(seconds)
        return None

    def receive(self, seconds: float) -> object:
        """Next message, or `None` when it is dead or silent for longer than this."""
        if not wait([self.output.fileno()], seconds):
            return None
        line = self.output.read(4096)  # a message is one write, below the size that a pipe may split
        return json.loads(line.splitlines()[0]) if line else None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # with its fork
        self.process.wait()
        with contextlib.suppress(OSError):
            self.input.close()
        self.output.close()
