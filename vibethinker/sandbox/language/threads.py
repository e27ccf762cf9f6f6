"""`threading` with one thread: what is started runs to its end, what would wait for another is an error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from vibethinker.sandbox.language.guards import table


class Thread:
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
        if Thread not in type(self).__mro__:  # a program can call it on anything
            raise TypeError("'Thread' object needed")
        self._target, self._args, self._kwargs, self._started = target, args, kwargs or {}, False
        self.name, self.daemon, self.ident = name or "Thread-1", bool(daemon), None

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def start(self) -> None:
        if self._started:
            raise RuntimeError("threads can only be started once")
        self._started, self.ident = True, 2  # type: ignore[assignment]
        try:
            self.run()
        except MemoryError:
            raise
        except (Exception, SystemExit):  # a thread's error is told on stderr and ends only the thread
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


class Timer(Thread):
    """Runs at once."""

    def __init__(self, interval: float, function: Any, args: Any = (), kwargs: Any = None) -> None:
        Thread.__init__(self, None, function, None, args or (), kwargs)

    def cancel(self) -> None:
        pass


class Lock:
    """A lock that one thread takes; what would wait for ever is an error."""

    _free = 1

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._free > 0:
            self._free -= 1
            return True
        if blocking and timeout < 0:
            raise RuntimeError("deadlock: there is only one thread")
        return False

    def release(self, n: int = 1) -> None:
        self._free += n

    def locked(self) -> bool:
        return self._free <= 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: Any) -> None:
        self.release()


class RLock(Lock):
    """A lock that its owner takes again; there is one thread, so always."""

    _free = 1 << 60


class Semaphore(Lock):
    """A counter."""

    def __init__(self, value: int = 1) -> None:
        self._free = value


class Event:
    """A flag."""

    _flag = False

    def is_set(self) -> bool:
        return self._flag

    def set(self) -> None:
        self._flag = True

    def clear(self) -> None:
        self._flag = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._flag and timeout is None:
            raise RuntimeError("deadlock: there is only one thread")
        return self._flag


class Condition(RLock):
    """A condition that nobody else can make true."""

    def __init__(self, lock: Any = None) -> None:
        pass

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is None:
            raise RuntimeError("deadlock: there is only one thread")
        return False

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        return predicate() or self.wait(timeout)

    def notify(self, n: int = 1) -> None:
        pass

    def notify_all(self) -> None:
        pass


class Local:
    """`threading.local` of the one thread."""


_MAIN_THREAD = table("main thread", {"name": "MainThread", "ident": 1, "is_alive": lambda: True, "daemon": False})
THREADING: dict[str, Any] = {
    "Thread": Thread,
    "Timer": Timer,
    "Lock": Lock,
    "RLock": RLock,
    "Semaphore": Semaphore,
    "BoundedSemaphore": Semaphore,
    "Event": Event,
    "Condition": Condition,
    "local": Local,
    "current_thread": lambda: _MAIN_THREAD,
    "main_thread": lambda: _MAIN_THREAD,
    "active_count": lambda: 1,
    "get_ident": threading.get_ident,
    "stack_size": lambda size=0: 0,
}
