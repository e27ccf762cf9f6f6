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
import time
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Final, Literal

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
        self._failed_starts = 0
        self._cache: dict[Pair, Verdict] = {}  # the most recently used last
        self._adopt_pool()

    def __reduce__(self) -> tuple[Any, ...]:
        return SymbolicWorkers, (self.workers, self.timeout)

    def verify(self, pairs: Sequence[Pair]) -> list[bool]:
        """Whether each (prediction, gold) agrees; a pair that hangs or crashes does not."""
        return [verdict is True for verdict in self.verdicts(pairs)]

    def verdicts(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """What became of each (prediction, gold), in order. Remembers recent ones.

        Raises:
            RuntimeError: the workers do not start, as when math-verify is not installed.
        """
        with self._lock:
            if self._owner != os.getpid():  # forked since: those processes belong to the parent
                self._adopt_pool()
            new = [pair for pair in dict.fromkeys(pairs) if pair not in self._cache]
            try:
                found = dict(zip(new, self._run(new), strict=True))
            except BaseException:  # an interrupted worker would answer the wrong question later
                _end(self._pool, self._owner)
                raise
            verdicts = {
                pair: self._cache.pop(pair) if pair in self._cache else found[pair] for pair in dict.fromkeys(pairs)
            }
            self._cache.update(verdicts)
            while len(self._cache) > CACHE_SIZE:
                del self._cache[next(iter(self._cache))]
            return [verdicts[pair] for pair in pairs]

    def close(self) -> None:
        """End the processes; a later `verify` starts new ones."""
        with self._lock:
            _end(self._pool, self._owner)

    def _adopt_pool(self) -> None:
        self._owner = os.getpid()
        self._pool: list[_Worker] = []
        weakref.finalize(self, _end, self._pool, self._owner)

    def _run(self, pairs: Sequence[Pair]) -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        queue = deque(range(len(pairs)))
        losses: Counter[int] = Counter()
        while len(verdicts) < len(pairs):
            self._dispatch(queue, pairs)
            for worker, reply in self._replies():
                job, worker.job = worker.job, None
                if job is None:
                    self._greet(worker, reply)
                elif isinstance(reply, bool):
                    verdicts[job] = reply
                else:
                    late = reply == "late"
                    if not late:
                        self._discard(worker)
                    losses[job] += 1
                    if not late and losses[job] < ATTEMPTS:
                        queue.appendleft(job)
                        continue
                    verdicts[job] = "timeout" if late else "crashed"
                    self.timeouts += late
                    self.crashes += not late
        return [verdicts[index] for index in range(len(pairs))]

    def _dispatch(self, queue: deque[int], pairs: Sequence[Pair]) -> None:
        """Give waiting pairs to idle workers, and start more workers while pairs are left."""
        for worker in [worker for worker in self._pool if worker.ready and worker.job is None]:
            if queue:
                try:
                    worker.send(queue[0], pairs[queue[0]], self.timeout)
                    queue.popleft()
                except OSError:  # it died between two pairs
                    self._discard(worker)
        starting = sum(not worker.ready for worker in self._pool)
        for _ in range(min(len(queue) - starting, self.workers - len(self._pool))):
            self._pool.append(_Worker(self.timeout))

    def _replies(self) -> list[tuple[_Worker, object]]:
        """(worker, what it says, or `None` when it is dead or past its deadline), of at least one worker."""
        active = [worker for worker in self._pool if worker.job is not None or not worker.ready]
        patience = max(0.0, min(worker.deadline for worker in active) - time.monotonic()) if active else 0.0
        readable = wait([worker.output.fileno() for worker in active], patience)
        now = time.monotonic()
        heard: list[tuple[_Worker, object]] = []
        for worker in active:
            if worker.output.fileno() in readable:
                heard.append((worker, worker.receive()))
            elif now >= worker.deadline:
                heard.append((worker, None))
        return heard

    def _greet(self, worker: _Worker, reply: object) -> None:
        """A starting worker's first word: `True`, an error, or nothing when it died or is late."""
        if reply is True:
            worker.ready, self._failed_starts = True, 0
            return
        self._discard(worker)
        self._failed_starts += 1
        if isinstance(reply, str) or self._failed_starts >= START_ATTEMPTS:
            raise RuntimeError(f"the workers of math verification do not start: {reply or 'killed or too slow'}")

    def _discard(self, worker: _Worker) -> None:
        self._pool.remove(worker)
        worker.kill()


def _end(pool: list[_Worker], owner: int) -> None:
    if owner == os.getpid():
        while pool:
            pool.pop().kill()


class _Worker:
    """One child interpreter: a line of JSON in, a line of JSON out, one pair at a time."""

    def __init__(self, timeout: float) -> None:
        root = str(Path(__file__).resolve().parents[3])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        code = f"from vibethinker.rewards.math.worker import serve; serve({timeout!r})"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # an interrupt at the terminal is the parent's to handle
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        self.ready = False
        self.job: int | None = None
        self.deadline = time.monotonic() + START_LIMIT

    def send(self, job: int, pair: Pair, timeout: float) -> None:
        if wait([self.output.fileno()], 0):
            raise BrokenPipeError("it says something that nobody asked: that its fork died")
        self.input.write(json.dumps(pair).encode() + b"\n")
        self.job, self.deadline = job, time.monotonic() + PATIENCE + 10 * timeout

    def receive(self) -> object:
        line = self.output.read(4096)  # a reply is one write, below the size that a pipe may split
        return json.loads(line.splitlines()[0]) if line else None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # with its fork
        self.process.wait()
        with contextlib.suppress(OSError):
            self.input.close()
        self.output.close()
