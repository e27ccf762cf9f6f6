"""Messages between the three kinds of process: the host, the fork server, and the programs' processes.

Host and server exchange fixed records on one socket. Each program's process has a socket of its own to the host, for
JSON in frames of a length and that many bytes; another one joins the two processes of assert-style tests.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any, Final

from vibethinker.sandbox.exceptions import LostError

FORK: Final = struct.Struct("<cQQId")  # b"F", child, bytes of memory, CPU seconds, wall seconds; with two sockets
KILL: Final = struct.Struct("<cQ20x")  # b"K", child; as long as the other
EXIT: Final = struct.Struct("<Qid")  # child, wait status, CPU seconds
LENGTH: Final = struct.Struct("<I")


def frame(message: Any) -> bytes:
    """The bytes of a message."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return LENGTH.pack(len(body)) + body


class Channel:
    """Blocking frames on a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def send(self, message: Any) -> None:
        """Sends a message; raises LostError when the other end is gone."""
        data = memoryview(frame(message))
        try:
            while data:
                data = data[os.write(self.descriptor, data) :]
        except (BrokenPipeError, ConnectionResetError):
            raise LostError("the other end has closed") from None

    def receive(self) -> Any:
        """The next message; raises LostError when the other end is gone."""
        return json.loads(self._exactly(LENGTH.unpack(self._exactly(LENGTH.size))[0]))

    def _exactly(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            try:
                part = os.read(self.descriptor, min(count, 1 << 20))
            except ConnectionResetError:
                part = b""
            if not part:
                raise LostError("the other end has closed")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
