"""Plain Python instead of the language layer: to show what the other layers stop by themselves, and to compare."""

from __future__ import annotations

import importlib
import io
import sys
from types import CodeType
from typing import Any, Final

from vibethinker.sandbox.exceptions import OutputLimitError

# Modules of programs and of attacks, which shall fail because of a layer, not for want of a module.
_MODULES: Final = """
    abc array ast base64 bisect builtins calendar cmath codecs collections contextlib copy csv ctypes dataclasses
    datetime decimal difflib enum fractions functools gc glob hashlib heapq importlib inspect io itertools json
    linecache logging marshal math mmap multiprocessing numbers operator os pathlib pickle platform pprint queue
    random re resource runpy sched secrets select shutil signal socket statistics string struct subprocess sys
    tempfile textwrap threading time timeit traceback types typing unicodedata unittest.mock urllib.request uuid
    warnings weakref zlib _strptime _posixsubprocess
""".split()  # noqa: SIM905  # it reads better than eighty quotes


def preload() -> None:
    """Loads what may be imported; later there are no files to import from."""
    for name in _MODULES:
        importlib.import_module(name)


def open_to_writes(kind: type) -> None:
    """Without effect: any class's instances may be written to."""


class Console:
    """Standard streams of one run, instead of the real ones."""

    def __init__(self, stdin: str = "", limit: int = 1 << 20) -> None:
        self.exceeded = False  # never without the error here
        self.stream = io.TextIOWrapper(_Bounded(limit), "utf-8", errors="surrogatepass", newline="")
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8", "surrogatepass")), "utf-8")
        sys.stdout = sys.stderr = self.stream

    def text(self) -> str:
        """Everything written so far."""
        self.stream.flush()
        data: bytes = self.stream.buffer.getvalue()
        return data.decode("utf-8", "surrogateescape")


class _Bounded(io.BytesIO):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.limit:
            raise OutputLimitError("more output than allowed")
        return super().write(data)


def compile_program(source: str) -> CodeType:
    """Code of a whole program."""
    return compile(source, "<program>", "exec", dont_inherit=True)


def namespace(console: Console, name: str = "__main__") -> dict[str, Any]:
    """Fresh globals in which to `exec` it."""
    return {"__name__": name, "__builtins__": __builtins__, "exit": sys.exit, "quit": sys.exit}
