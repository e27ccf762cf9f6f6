"""Stand-ins for modules whose real selves reach the process: `sys`, `os`, `time`, `io`, `traceback` and others.

They serve the console of the program that runs now, of which there is one at a time in a process.
"""

from __future__ import annotations

import calendar
import contextlib
import gc
import io
import os
import posixpath
import pprint
import sys
import time
import timeit
from collections.abc import Callable
from typing import Any, NoReturn

from vibethinker.sandbox.language.attribute_guards import table
from vibethinker.sandbox.language.name_policy import exact, words
from vibethinker.sandbox.language.standard_streams import SYS, Console

RECURSION_LIMIT = 500_000  # Python frames live on the heap; recursion in C ends in a crash, as it does without guards
_console = Console()
_depth = 0  # frames below the program, which do not count against its recursion limit


def some(module: Any, names: str) -> dict[str, Any]:
    """Attributes of a module by their names."""
    return {name: getattr(module, name) for name in words(names)}


# sys

_SAME_SYS = some(
    sys,
    "maxsize maxunicode byteorder platform version version_info hexversion float_info int_info hash_info getsizeof "
    "getrefcount getdefaultencoding exception set_int_max_str_digits get_int_max_str_digits getfilesystemencoding",
)


def leave(status: Any = None, /) -> NoReturn:
    """`sys.exit`."""
    raise SystemExit(status)


def _set_recursion_limit(limit: int, /) -> None:
    if limit < 1:
        raise ValueError("recursion limit must be greater or equal than 1")
    sys.setrecursionlimit(min(limit, RECURSION_LIMIT) + _depth)


def begin(console: Console, name: str) -> None:
    """Serves the console of the program that comes next, and fills a fresh `sys`."""
    global _console, _depth
    _console, _depth = console, _frames()
    sys.setrecursionlimit(1000 + _depth)
    SYS.__dict__.clear()
    SYS.__dict__.update(
        _SAME_SYS,
        **some(console, "stdin stdout stderr"),
        **{f"__{stream}__": getattr(console, stream) for stream in ("stdin", "stdout", "stderr")},
        exit=leave,
        exc_info=lambda: (*sys.exc_info()[:2], None),
        argv=[f"{name.strip('_')}.py"],
        path=[""],
        setrecursionlimit=_set_recursion_limit,
        getrecursionlimit=lambda: sys.getrecursionlimit() - _depth,
        intern=lambda text, /: sys.intern(exact(text)),
        setswitchinterval=lambda interval, /: None,
        executable="",
    )
    SYS.__dict__["__all__"] = tuple(n for n in SYS.__dict__ if n[0] != "_")


def _frames() -> int:
    frame, count = sys._getframe(), 8
    while frame.f_back is not None:
        frame, count = frame.f_back, count + 1
    return count


# Files: those of a machine that has the standard streams alone


def read_line(prompt: object = "", /) -> str:
    """`input`."""
    if prompt != "":
        SYS.stdout.write(str(prompt))
    line: str = SYS.stdin.readline()
    if not line:
        raise EOFError("EOF when reading a line")
    return line[:-1] if line[-1] == "\n" else line


def open_(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
    """`open`."""
    mode = exact(mode)
    binary = "b" in mode
    if (type(file) is int and file == 0) or file == "/dev/stdin":
        return _console.source if binary else _console.open_input()
    if (type(file) is int and file in (1, 2)) or file in ("/dev/stdout", "/dev/stderr"):
        stream = _console.stdout if file in (1, "/dev/stdout") else _console.stderr
        return stream.buffer if binary else stream
    if type(file) is int:
        raise OSError(9, "Bad file descriptor")
    if not isinstance(file, str | bytes):
        raise TypeError(f"expected str, bytes or os.PathLike object, not {type(file).__name__}")
    if set(mode) & set("wax+"):
        raise PermissionError(13, "Permission denied", file)
    return _missing(file)


def _missing(path: Any, *args: Any) -> NoReturn:
    raise FileNotFoundError(2, "No such file or directory", path)


def _descriptor(fd: int, *those: int) -> None:
    if fd not in those:
        raise OSError(9, "Bad file descriptor")


def _read(fd: int, size: int, /) -> bytes:
    _descriptor(fd, 0)
    return _console.source.read(size)


def _write(fd: int, data: Any, /) -> int:
    _descriptor(fd, 1, 2)
    written: int = (_console.stdout if fd == 1 else _console.stderr).buffer.write(data)
    return written


def _fstat(fd: int) -> Any:
    _descriptor(fd, 0, 1, 2)
    return table("stat", {"st_size": len(_console.source.getvalue()) if fd == 0 else 0, "st_mode": 0o10600})


def _lines(files: Any = (), **options: Any) -> Any:
    """`fileinput.input`, whose lines can only be those of standard input."""
    for file in (files,) if isinstance(files, str) else files or ():
        if file != "-":
            _missing(file)
    return SYS.stdin


PATHS = table(
    "posixpath",
    {
        **some(posixpath, "join basename dirname split splitext normpath isabs"),
        **dict.fromkeys(("exists", "isfile", "isdir", "islink", "lexists"), lambda path: path in (0, 1, 2)),
        **dict.fromkeys(("abspath", "realpath"), lambda path: posixpath.normpath(posixpath.join("/", path))),
        "sep": "/",
    },
)


def operating_system() -> dict[str, Any]:
    """`os`: the three descriptors, an empty environment, and path arithmetic."""
    environment: dict[str, str] = {}
    return {
        "read": _read,
        "write": _write,
        "fstat": _fstat,
        "_exit": leave,
        "environ": environment,
        "getenv": environment.get,
        "getpid": lambda: 1,
        "getcwd": lambda: "/",
        "cpu_count": lambda: 1,
        **dict.fromkeys(("listdir", "stat", "remove"), _missing),
        "urandom": os.urandom,
        "path": PATHS,
        "error": OSError,
        **some(os, "name sep linesep pathsep curdir devnull O_RDONLY"),
    }


# What writes to the streams


def _format_error(*args: Any, **kwargs: Any) -> str:
    if (error := sys.exception()) is None:
        return "NoneType: None\n"
    text = str(error)
    return f"Traceback (most recent call last):\n{type(error).__name__}{': ' if text else ''}{text}\n"


def _tell(text: str, file: Any = None) -> None:
    (file or _console.stderr).write(text)


def _show(value: Any, stream: Any = None, **options: Any) -> None:
    pprint.pprint(value, SYS.stdout if stream is None else stream, **options)


def _ignored(*args: Any, **kwargs: Any) -> None:
    return None


PRINTERS: dict[str, Callable[..., Any]] = {
    "pprint": _show,
    "pp": lambda value, *args, **options: _show(value, *args, sort_dicts=False, **options),
}
CALENDARS: dict[str, Any] = {
    **{n: tuple(getattr(calendar, n)) for n in ("month_name", "month_abbr", "day_name", "day_abbr")},
    "prmonth": lambda year, month, *sizes: SYS.stdout.write(calendar.month(year, month, *sizes)) and None,
    "prcal": lambda year, *sizes: SYS.stdout.write(calendar.calendar(year, *sizes)) and None,
}
_USAGE = {"ru_maxrss": 10_000, "ru_utime": 0.0, "ru_stime": 0.0}
SHIMS: dict[str, dict[str, Any]] = {
    "time": some(
        time,
        "time time_ns perf_counter perf_counter_ns monotonic monotonic_ns process_time process_time_ns sleep strftime "
        "strptime localtime gmtime mktime ctime asctime struct_time timezone tzname",
    ),
    "io": {
        # no buffered readers: they lend their memory to a raw stream, beyond its life
        **some(io, "StringIO BytesIO IOBase RawIOBase BufferedIOBase TextIOBase TextIOWrapper UnsupportedOperation"),
        **some(io, "SEEK_SET SEEK_CUR SEEK_END DEFAULT_BUFFER_SIZE"),
        "open": open_,
    },
    "fileinput": {"input": _lines},
    "traceback": {
        "print_exc": lambda *args, **kwargs: _tell(_format_error(), kwargs.get("file")),
        "format_exc": _format_error,
        "print_exception": lambda *args, **kwargs: _tell(_format_error()),
        "print_stack": _ignored,
    },
    "warnings": {
        "warn": lambda message, *args, **kwargs: _tell(f"{message}\n"),
        **dict.fromkeys(("filterwarnings", "simplefilter", "resetwarnings"), _ignored),
        "catch_warnings": lambda **options: contextlib.nullcontext([]),
    },
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
        **dict.fromkeys(("signal", "setitimer"), _ignored),
        "alarm": lambda seconds: 0,
    },
    "doctest": {"testmod": lambda *args, **kwargs: (0, 0)},
    "timeit": {"default_timer": timeit.default_timer},
}
