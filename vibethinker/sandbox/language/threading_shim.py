"""`threading` with a single thread: one that starts runs to its end, and waiting for another one is an error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from vibethinker.sandbox.language.attribute_guards import table


class _Thread:
    """A thread that runs to its end when it starts."""

    def __init__(
        self,
        group: Any = None,
        target: Any = None,
        name: str | None = None,
        args: Any = (),
        kwargs: Any = None,
        *,
        daemon: Any = None,
    ) -> None:
        if _Thread not in type(self).__mro__:  # a program can call it on anything
            raise TypeError("'Thread' object needed")
        self._target, self._args, self._kwargs, self._started = target, args, kwargs or {}, False
        self.name, self.daemon, self.ident = name or "Thread-1", bool(daemon), None

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def start(self) -> None:
        """Runs to the end; an error but for lack of memory ends only the thread."""
        if self._started:
            raise RuntimeError("threads can only be started once")
        self._started, self.ident = True, 2  # type: ignore[assignment]
        try:
            self.run()
        except MemoryError:
            raise
        except (Exception, SystemExit):
            pass

    def join(self, timeout: Any = None) -> None:
        if not self._started:
            raise RuntimeError("cannot join thread before it is started")

    def is_alive(self) -> bool:
        return False

    def setDaemon(self, daemon: Any) -> None:  # noqa: N802
        self.daemon = daemon

    def getName(self) -> str:  # noqa: N802
        return self.name


class _Timer(_Thread):
    """A timer that runs at once."""

    def __init__(self, interval: float, function: Any, args: Any = (), kwargs: Any = None) -> None:
        _Thread.__init__(self, None, function, None, args or (), kwargs)

    def cancel(self) -> None:
        """Without effect."""


def _wait(done: bool, forever: bool) -> bool:
    if not done and forever:
        raise RuntimeError("deadlock: there is only one thread")
    return done


class _Lock:
    """A lock that one thread takes."""

    _free = 1

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        acquired = _wait(self._free > 0, blocking and timeout < 0)
        self._free -= acquired
        return acquired

    def release(self, n: int = 1) -> None:
        self._free += n

    def locked(self) -> bool:
        return self._free <= 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: Any) -> None:
        self.release()


class _RLock(_Lock):
    """A lock that its owner takes again; there is one thread, so always."""

    _free = 1 << 60


class _Semaphore(_Lock):
    """A counter."""

    def __init__(self, value: int = 1) -> None:
        self._free = value


class _Event:
    """A flag."""

    _flag = False

    def is_set(self) -> bool:
        return self._flag

    def set(self) -> None:
        self._flag = True

    def clear(self) -> None:
        self._flag = False

    def wait(self, timeout: float | None = None) -> bool:
        return _wait(self._flag, timeout is None)


class _Condition(_RLock):
    """A condition that no other thread can make true."""

    def __init__(self, lock: Any = None) -> None:
        pass

    def wait(self, timeout: float | None = None) -> bool:
        return _wait(False, timeout is None)

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        return predicate() or self.wait(timeout)

    def notify(self, n: int = 1) -> None:
        """Without effect."""

    notify_all = notify


class _Local:
    """`threading.local` of the one thread."""


_MAIN_THREAD = table("main thread", {"name": "MainThread", "ident": 1, "is_alive": lambda: True, "daemon": False})
THREADING: dict[str, Any] = {
    **{"Thread": _Thread, "Timer": _Timer, "Lock": _Lock, "RLock": _RLock, "Event": _Event, "Condition": _Condition},
    **{"Semaphore": _Semaphore, "BoundedSemaphore": _Semaphore, "local": _Local},
    **dict.fromkeys(("current_thread", "main_thread"), lambda: _MAIN_THREAD),
    "active_count": lambda: 1,
    "get_ident": threading.get_ident,
    "stack_size": lambda size=0: 0,
}
