"""The inside of a worker: a process that has loaded everything, and its fork, which answers.

The fork runs under a limit of CPU time that the kernel enforces, so that the verdict on a pair does not depend on what
else the machine is doing, and C code cannot ignore it. When it dies the loaded process reports how and forks again,
within milliseconds, where a new interpreter would take a second to load.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Final

from vibethinker.utils.process import die_with_parent

MEMORY_LIMIT: Final = 2 * 1024**3  # bytes of address space


def serve(cpu_seconds: float) -> None:
    """Answers pairs from standard input, a line of JSON each, until it closes.

    Messages are `true` when loaded (an error's text when that fails), then a verdict each; `"timeout"` or `"crashed"`
    when the fork died.
    """
    replies = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    with contextlib.suppress(ValueError, OSError):  # macOS refuses
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, resource.getrlimit(resource.RLIMIT_AS)[1]))
    try:
        from vibethinker.rewards.math.symbolic import is_equal, warm_up

        warm_up()
    except Exception as error:
        _reply(replies, f"{type(error).__name__}: {error}"[:1000])
        return
    _reply(replies, True)
    loaded = os.getpid()
    while True:
        fork = os.fork()
        if not fork:
            die_with_parent(loaded)  # a busy fork; elsewhere than on Linux its CPU limit ends it
            _answer(is_equal, replies, cpu_seconds)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
        if status == 0:
            return
        _reply(replies, "timeout" if status == -signal.SIGPROF else "crashed")


def _answer(is_equal: Callable[[str, str], bool], replies: int, cpu_seconds: float) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # kills, whatever runs
    while line := sys.stdin.readline():  # never reads ahead: the next pair comes after the reply
        prediction, gold = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        verdict = is_equal(prediction, gold)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _reply(replies, verdict)


def _reply(replies: int, message: bool | str) -> None:
    os.write(replies, json.dumps(message).encode() + b"\n")
