"""Standard streams of one run, in memory: no file, no descriptor."""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from vibethinker.sandbox.exceptions import OutputLimitError


class _Sink:
    """Text that streams of one kind share, with its limit."""

    __slots__ = ("exceeded", "keep", "left", "parts")

    def __init__(self, limit: int, keep: bool) -> None:
        self.parts: list[str] = []
        self.left, self.keep, self.exceeded = limit, keep, False

    def write(self, text: str) -> int:
        self.left -= len(text)
        if self.left < 0:
            self.overflow()
        if self.keep and text:
            self.parts.append(text)
        return len(text)

    def overflow(self) -> NoReturn:
        self.exceeded = True
        raise OutputLimitError("too much output")


class Writer(io.TextIOBase):
    """`sys.stdout` or `sys.stderr`. Made by `writer`: programs can call `__init__`."""

    _sink: _Sink
    _fd: int
    name: str
    buffer: Any
    encoding, errors, mode, newlines, line_buffering = "utf-8", "strict", "w", None, False

    def write(self, text: str, /) -> int:
        if type(text) is not str:
            if not isinstance(text, str):
                raise TypeError(f"write() argument must be str, not {type(text).__name__}")
            text = str.__str__(text)
        sink, size = self._sink, len(text)
        sink.left -= size
        if sink.left < 0:
            sink.overflow()
        if sink.keep and size:
            sink.parts.append(text)
        return size

    def writelines(self, lines: Iterable[str], /) -> None:  # type: ignore[override]
        self.write("".join(lines))

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def reconfigure(self, **options: Any) -> None:
        pass

    def close(self) -> None:
        pass


class ByteWriter(io.RawIOBase):
    """The `buffer` of a writer; also what `os.write` reaches."""

    _sink: _Sink
    _fd: int
    name: str
    _decoder: Any
    mode = "wb"

    def write(self, data: Any, /) -> int:
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        raw = bytes(memoryview(data))
        self._sink.write(self._decoder.decode(raw))
        return len(raw)

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def close(self) -> None:
        pass


def _writer(sink: _Sink, fd: int, name: str) -> Writer:
    data = ByteWriter()
    data._sink, data._fd, data._decoder, data.name = sink, fd, codecs.getincrementaldecoder("utf-8")("replace"), name
    text = Writer()
    text._sink, text._fd, text.buffer, text.name = sink, fd, data, name
    return text


class ByteReader(io.BytesIO):
    """Standard input as bytes; what `sys.stdin.buffer`, `open(0)` and `os.read` share."""

    mode, name = "rb", "<stdin>"

    def fileno(self) -> int:
        return 0

    def isatty(self) -> bool:
        return False

    def close(self) -> None:
        """A collected text layer closes its buffer; the next one still wants to read."""


class Reader(io.TextIOWrapper):
    """`sys.stdin`."""

    mode = "r"

    def close(self) -> None:
        pass


class Console:
    """Standard streams of one run.

    Args:
        stdin: what the program may read.
        limit: characters of stdout; as many of stderr, which nobody keeps. Beyond it `OutputLimitError` is raised, by
            every further write as well, and `exceeded` stays set, whatever the program catches.
    """

    def __init__(self, stdin: str = "", limit: int = 1 << 20) -> None:
        self._out, self._err = _Sink(limit, keep=True), _Sink(limit, keep=False)
        self.source = ByteReader(stdin.encode("utf-8", "surrogateescape"))
        self.stdin = self.open_input()
        self.stdout, self.stderr = _writer(self._out, 1, "<stdout>"), _writer(self._err, 2, "<stderr>")
        self.current: Callable[[], Any] = lambda: self.stdout

    def open_input(self) -> Reader:
        return Reader(self.source, encoding="utf-8", errors="surrogateescape")

    @property
    def exceeded(self) -> bool:
        """Whether the program wrote more than it may."""
        return self._out.exceeded or self._err.exceeded

    def printer(self) -> Callable[..., None]:
        """`print`, one write a call."""
        sink, current, stdout = self._out, self.current, self.stdout
        append, join, native = sink.parts.append, " ".join, print

        def print_(*values: Any, sep: Any = " ", end: Any = "\n", file: Any = None, flush: Any = False) -> None:
            if file is None:
                file = current()
                if file is None:
                    return
            if file is stdout and sep == " " and end == "\n":
                text = join(map(str, values)) + "\n"
                sink.left -= len(text)
                if sink.left < 0:
                    sink.overflow()
                append(text)
                return
            native(*values, sep=sep, end=end, file=file)
            if flush and hasattr(file, "flush"):
                file.flush()

        print_.__name__ = print_.__qualname__ = "print"
        return print_

    def finish(self) -> None:
        """What happens when a program ends: its own writer is flushed. Nothing else runs then; there is no `atexit`."""
        last = self.current()
        if last is not self.stdout and last is not None:
            with contextlib.suppress(BaseException):
                last.flush()

    def text(self) -> str:
        """Everything written to stdout so far, after what ends a run (`finish`)."""
        self.finish()
        return "".join(self._out.parts)
