"""Small stand-ins for modules whose real selves reach the process: `sys`, `os`, `threading`, `time` and others."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import posixpath
import sys
import time
import timeit
from collections.abc import Callable
from typing import Any

from vibethinker.sandbox.language.console import Console
from vibethinker.sandbox.language.guards import Names, table
from vibethinker.sandbox.language.names import exact, words

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

    base = depth()
    sys.setrecursionlimit(1000 + base)

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


def depth() -> int:
    """Frames of the host below the program: they do not count against its recursion limit."""
    frame, count = sys._getframe(), 8
    while frame.f_back is not None:
        frame, count = frame.f_back, count + 1
    return count


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
        "catch_warnings": lambda **options: contextlib.nullcontext([]),
    }

    return {
        "traceback": table("traceback", traceback),
        "warnings": table("warnings", warnings),
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
        **{f"RLIMIT_{n}": i for i, n in enumerate(words("CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS"))},
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
        "UnsupportedOperation",  # no buffered readers: they lend their memory to a raw stream, beyond its life
        *("SEEK_SET", "SEEK_CUR", "SEEK_END", "DEFAULT_BUFFER_SIZE"),
    )
}
