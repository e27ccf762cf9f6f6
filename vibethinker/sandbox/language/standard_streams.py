"""Standard streams of a program and its `sys`, in memory: no file, no descriptor."""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Callable, Iterable
from typing import Any

from vibethinker.sandbox.exceptions import OutputLimitError
from vibethinker.sandbox.language.attribute_guards import Names, table


class System(Names):
    """`sys`: a table whose streams and hooks can be replaced."""

    __slots__ = ()
    _assignable = frozenset({"stdin", "stdout", "stderr", "tracebacklimit", "excepthook"})
    stdin: Any
    stdout: Any
    stderr: Any


System.__name__ = System.__qualname__ = "module"
SYS: System = table("sys", {}, System)  # of the program that this process runs, filled anew for each


class _Standard:
    """A stream that is never closed: a collected text layer closes its buffer, which the next one still needs."""

    _fd: int
    name: str

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        pass


class Writer(_Standard, io.TextIOBase):
    """`sys.stdout` or `sys.stderr`, up to a limit of characters."""

    _parts: list[str]
    _left: int
    buffer: Any
    encoding, errors, mode, newlines, line_buffering = "utf-8", "strict", "w", None, False

    def write(self, text: str, /) -> int:
        """Appends a text; raises OutputLimitError beyond the limit."""
        if type(text) is not str:
            if not isinstance(text, str):
                raise TypeError(f"write() argument must be str, not {type(text).__name__}")
            text = str.__str__(text)
        size = len(text)
        self._left -= size
        if self._left < 0:
            raise OutputLimitError("too much output")
        if size:
            self._parts.append(text)
        return size

    def writelines(self, lines: Iterable[str], /) -> None:  # type: ignore[override]
        """Appends several texts."""
        self.write("".join(lines))

    def writable(self) -> bool:
        """True."""
        return True

    def reconfigure(self, **options: Any) -> None:
        """Without effect."""


class ByteWriter(_Standard, io.RawIOBase):
    """The `buffer` of a writer, which `os.write` reaches too."""

    _text: Writer
    _decoder: Any
    mode = "wb"

    def write(self, data: Any, /) -> int:
        """Decodes bytes and appends them."""
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        raw = bytes(memoryview(data))
        self._text.write(self._decoder.decode(raw))
        return len(raw)

    def writable(self) -> bool:
        """True."""
        return True


class ByteReader(_Standard, io.BytesIO):
    """Standard input as bytes, shared by `sys.stdin.buffer`, `open(0)` and `os.read`."""

    mode, name, _fd = "rb", "<stdin>", 0


class Reader(io.TextIOWrapper):
    """`sys.stdin`."""

    mode = "r"

    def close(self) -> None:
        """Without effect."""


def _writer(fd: int, name: str, limit: int) -> Writer:
    text, data = Writer(), ByteWriter()
    text._fd, text.name, text.buffer, text._parts, text._left = fd, name, data, [], limit
    data._fd, data.name, data._text, data._decoder = fd, name, text, codecs.getincrementaldecoder("utf-8")("replace")
    return text


class Console:
    """Standard streams of one run of a program. Nothing of them is set in `__init__` methods: programs can call those.

    Args:
        stdin: text that the program may read.
        limit: characters of stdout, and as many of stderr. Beyond it `OutputLimitError` is raised, by every further
            write as well, and `exceeded` stays set, whatever the program catches.
    """

    def __init__(self, stdin: str = "", limit: int = 1 << 20) -> None:
        self.source = ByteReader(stdin.encode("utf-8", "surrogateescape"))
        self.stdin = self.open_input()
        self.stdout, self.stderr = _writer(1, "<stdout>", limit), _writer(2, "<stderr>", limit)

    def open_input(self) -> Reader:
        """A new text layer over standard input."""
        return Reader(self.source, encoding="utf-8", errors="surrogateescape")

    @property
    def exceeded(self) -> bool:
        """True once the program has written more than it may."""
        return self.stdout._left < 0 or self.stderr._left < 0

    def printer(self) -> Callable[..., None]:
        """`print`, with one write for each call."""
        stdout, append, join, native = self.stdout, self.stdout._parts.append, " ".join, print

        def print_(*values: Any, sep: Any = " ", end: Any = "\n", file: Any = None, flush: Any = False) -> None:
            if file is None:
                file = SYS.stdout
                if file is None:
                    return
            if file is stdout and sep == " " and end == "\n":
                text = join(map(str, values)) + "\n"
                stdout._left -= len(text)
                if stdout._left < 0:
                    raise OutputLimitError("too much output")
                append(text)
                return
            native(*values, sep=sep, end=end, file=file)
            if flush and hasattr(file, "flush"):
                file.flush()

        print_.__name__ = print_.__qualname__ = "print"
        return print_

    def text(self) -> str:
        """Everything written to stdout so far, a writer of the program's own flushed before."""
        last = SYS.__dict__.get("stdout")
        if last is not self.stdout and last is not None:
            with contextlib.suppress(BaseException):
                last.flush()
        return "".join(self.stdout._parts)
