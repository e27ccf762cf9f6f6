"""The inside of a worker: a process that has loaded everything, and its fork, which answers.

The fork runs under a limit of CPU time that the kernel enforces, so that the verdict on a pair does not depend on what
else the machine is doing, and C code cannot ignore it. When it dies the loaded process reports how and forks again,
within milliseconds, where a new interpreter would take a second to load.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
from collections.abc import Callable
from typing import Final

MEMORY_LIMIT: Final = 2 * 1024**3  # bytes of address space

Answer = Callable[[str, str], bool]


def serve(cpu_seconds: float) -> None:
    """Answer pairs from standard input, a line of JSON each, until it closes."""
    replies = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    _limit_memory()
    try:
        from vibethinker.rewards.math.symbolic import judge, warm_up

        warm_up()
    except Exception as error:
        _reply(replies, f"{type(error).__name__}: {error}"[:1000])
        return
    _reply(replies, True)
    loaded = os.getpid()
    while True:
        fork = os.fork()
        if not fork:
            _end_with(loaded)
            _answer(judge, replies, cpu_seconds)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
        if status == 0:
            return
        _reply(replies, "late" if status == -signal.SIGPROF else "died")


def _answer(judge: Answer, replies: int, cpu_seconds: float) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # kills, whatever runs
    while line := _read_line():
        prediction, gold = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        verdict = judge(prediction, gold)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _reply(replies, verdict)


def _read_line() -> bytes:
    """Unbuffered, because the next line may be the next fork's; empty at the end."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 65536)
        if not part:
            return b""
        line += part
    return line


def _reply(replies: int, message: bool | str) -> None:
    os.write(replies, json.dumps(message).encode() + b"\n")


def _end_with(parent: int) -> None:
    """A busy fork must not outlive the process it came from; elsewhere than on Linux its CPU limit ends it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def _limit_memory() -> None:
    with contextlib.suppress(ValueError, OSError):  # macOS refuses
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, resource.getrlimit(resource.RLIMIT_AS)[1]))
