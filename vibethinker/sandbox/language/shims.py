"""Small stand-ins for modules whose real selves reach the process: `sys`, `os`, `threading`, `time` and others."""

from __future__ import annotations

import gc
import io
import os
import posixpath
import sys
import threading
import time
import timeit
from collections.abc import Callable
from typing import Any

from vibethinker.sandbox.language.console import Console
from vibethinker.sandbox.language.guards import Names, table
from vibethinker.sandbox.language.names import exact

RECURSION_LIMIT = 500_000  # Python frames live on the heap; what recurses in C ends in a crash, as it does without us


class System(Names):
    """`sys`: a table whose streams and hooks can be replaced."""

    __slots__ = ()
    _assignable = frozenset({"stdin", "stdout", "stderr", "tracebacklimit", "excepthook"})
    stdin: Any
    stdout: Any
    stderr: Any


System.__name__ = System.__qualname__ = "module"


def system(console: Console, name: str) -> System:
    """A fresh `sys` bound to the console."""

    def leave(status: Any = None, /) -> None:
        raise SystemExit(status)

    def exc_info() -> tuple[Any, Any, None]:
        kind, value, _ = sys.exc_info()
        return kind, value, None

    base = _depth()

    def set_limit(limit: int, /) -> None:
        if limit < 1:
            raise ValueError("recursion limit must be greater or equal than 1")
        sys.setrecursionlimit(min(limit, RECURSION_LIMIT) + base)

    content: dict[str, Any] = {
        "stdin": console.stdin,
        "stdout": console.stdout,
        "stderr": console.stderr,
        "__stdin__": console.stdin,
        "__stdout__": console.stdout,
        "__stderr__": console.stderr,
        "exit": leave,
        "exc_info": exc_info,
        "argv": [f"{name.strip('_')}.py"],
        "path": [""],
        "setrecursionlimit": set_limit,
        "getrecursionlimit": lambda: sys.getrecursionlimit() - base,
        "intern": lambda text, /: sys.intern(exact(text)),
        "setswitchinterval": lambda interval, /: None,
        "executable": "",
    }
    for same in (
        *("maxsize", "maxunicode", "byteorder", "platform", "version", "version_info", "hexversion", "float_info"),
        *("int_info", "hash_info", "getsizeof", "getrefcount", "getdefaultencoding", "exception"),
        *("set_int_max_str_digits", "get_int_max_str_digits", "getfilesystemencoding"),
    ):
        content[same] = getattr(sys, same)
    made: System = table("sys", content, System)
    return made


def _depth() -> int:
    """Frames of the host below the program: they do not count against its recursion limit."""
    frame, depth = sys._getframe(), 8
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


def opener(console: Console) -> Callable[..., Any]:
    """`open` of a machine whose only files are the standard streams."""

    def open_(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        binary, mode = "b" in exact(mode), exact(mode)
        if (type(file) is int and file == 0) or file == "/dev/stdin":
            return console.source if binary else console.open_input()
        if (type(file) is int and file in (1, 2)) or file in ("/dev/stdout", "/dev/stderr"):
            stream = console.stdout if file in (1, "/dev/stdout") else console.stderr
            return stream.buffer if binary else stream
        if type(file) is int:
            raise OSError(9, "Bad file descriptor")
        if not isinstance(file, str | bytes):
            raise TypeError(f"expected str, bytes or os.PathLike object, not {type(file).__name__}")
        if set(mode) & set("wax+"):
            raise PermissionError(13, "Permission denied", file)
        raise FileNotFoundError(2, "No such file or directory", file)

    return open_


def operating_system(console: Console) -> Any:
    """`os`: the three descriptors, an empty environment, and path arithmetic."""

    def read(fd: int, size: int, /) -> bytes:
        if fd != 0:
            raise OSError(9, "Bad file descriptor")
        return console.source.read(size)

    def write(fd: int, data: Any, /) -> int:
        if fd not in (1, 2):
            raise OSError(9, "Bad file descriptor")
        written: int = (console.stdout if fd == 1 else console.stderr).buffer.write(data)
        return written

    def fstat(fd: int) -> Any:
        if fd not in (0, 1, 2):
            raise OSError(9, "Bad file descriptor")
        return table("stat", {"st_size": len(console.source.getvalue()) if fd == 0 else 0, "st_mode": 0o10600})

    def leave(status: int) -> None:
        raise SystemExit(status)

    def missing(path: Any, *args: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory", path)

    environment: dict[str, str] = {}
    content: dict[str, Any] = {
        "read": read,
        "write": write,
        "fstat": fstat,
        "_exit": leave,
        "environ": environment,
        "getenv": environment.get,
        "getpid": lambda: 1,
        "getcwd": lambda: "/",
        "cpu_count": lambda: 1,
        "listdir": missing,
        "stat": missing,
        "remove": missing,
        "urandom": os.urandom,
        "path": PATHS,
        "error": OSError,
        **{name: getattr(os, name) for name in ("name", "sep", "linesep", "pathsep", "curdir", "devnull", "O_RDONLY")},
    }
    return table("os", content)


def _absent(path: Any) -> bool:
    return path in (0, 1, 2)


PATHS = table(
    "posixpath",
    {
        **{n: getattr(posixpath, n) for n in ("join", "basename", "dirname", "split", "splitext", "normpath", "isabs")},
        **dict.fromkeys(("exists", "isfile", "isdir", "islink", "lexists"), _absent),
        **{n: (lambda path: posixpath.normpath(posixpath.join("/", path))) for n in ("abspath", "realpath")},
        "sep": "/",
    },
)


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

TIME: dict[str, Any] = {
    name: getattr(time, name)
    for name in (
        *("time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time"),
        *("process_time_ns", "sleep", "strftime", "strptime", "localtime", "gmtime", "mktime", "ctime", "asctime"),
        *("struct_time", "timezone", "tzname"),
    )
}


def _format_error(error: BaseException | None) -> str:
    if error is None:
        return "NoneType: None\n"
    text = str(error)
    return f"Traceback (most recent call last):\n{type(error).__name__}{': ' if text else ''}{text}\n"


def reporters(console: Console) -> dict[str, Any]:
    """`traceback` and `warnings`: they speak to stderr."""

    def print_exc(*args: Any, **kwargs: Any) -> None:
        (kwargs.get("file") or console.stderr).write(_format_error(sys.exception()))

    traceback = {
        "print_exc": print_exc,
        "format_exc": lambda *args, **kwargs: _format_error(sys.exception()),
        "print_exception": lambda error=None, *args, **kwargs: console.stderr.write(_format_error(sys.exception())),
        "print_stack": lambda *args, **kwargs: None,
    }
    warnings = {
        "warn": lambda message, *args, **kwargs: console.stderr.write(f"{message}\n") and None,
        "filterwarnings": lambda *args, **kwargs: None,
        "simplefilter": lambda *args, **kwargs: None,
        "resetwarnings": lambda: None,
    }

    def register(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        console.hooks.append(lambda: function(*args, **kwargs))
        return function

    exits = {"register": register, "unregister": lambda function: None}
    return {
        "traceback": table("traceback", traceback),
        "warnings": table("warnings", warnings),
        "atexit": table("atexit", exits),
    }


def _ignored(*args: Any, **kwargs: Any) -> None:
    return None


_USAGE = {"ru_maxrss": 10_000, "ru_utime": 0.0, "ru_stime": 0.0}
QUIET: dict[str, dict[str, Any]] = {
    "gc": {
        **dict.fromkeys(("enable", "disable", "freeze", "set_threshold", "unfreeze"), _ignored),
        "collect": lambda generation=2: 0,
        "isenabled": gc.isenabled,
    },
    "resource": {
        **{f"RLIMIT_{n}": i for i, n in enumerate(["CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS"])},
        "RLIM_INFINITY": -1,
        "RUSAGE_SELF": 0,
        "setrlimit": _ignored,
        "getrlimit": lambda resource: (-1, -1),
        "getrusage": lambda who: table("usage", _USAGE),
    },
    "signal": {
        **{"SIGINT": 2, "SIGTERM": 15, "SIGALRM": 14, "SIGPIPE": 13, "SIG_DFL": 0, "SIG_IGN": 1},
        "signal": _ignored,
        "alarm": lambda seconds: 0,
        "setitimer": _ignored,
    },
    "doctest": {"testmod": lambda *args, **kwargs: (0, 0)},
    "timeit": {"default_timer": timeit.default_timer},
}
STREAM_CLASSES = {
    name: getattr(io, name)
    for name in (
        *("StringIO", "BytesIO", "IOBase", "RawIOBase", "BufferedIOBase", "TextIOBase", "TextIOWrapper"),
        *("BufferedReader", "BufferedWriter", "BufferedRandom", "UnsupportedOperation"),
        *("SEEK_SET", "SEEK_CUR", "SEEK_END", "DEFAULT_BUFFER_SIZE"),
    )
}
