"""Child processes: the cores there are for them, their environment, and their end with their parent's.

Standard library only: the sandbox's server and the verifiers' workers load it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def child_environment(threads: int, **variables: str) -> dict[str, str]:
    """Environment of an interpreter that imports this package from where this one does, with so many OpenMP threads."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), **variables}


def die_with_parent(parent: int | None = None) -> None:
    """Has the kernel kill this process when its parent ends; only Linux can.

    When the process number `parent` has ended already, this process ends here, on any system. Safe as `preexec_fn` of a
    process with a single thread: it loads nothing.

    Raises:
        OSError: the kernel refuses.
    """
    if sys.platform == "linux" and _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "a process cannot be tied to its parent")
    if parent is not None and os.getppid() != parent:
        os._exit(1)
