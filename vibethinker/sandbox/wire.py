"""How the three kinds of process talk: the host, the fork server, and the programs' processes.

Host and server exchange fixed records on one socket. Each program has a socket of its own to the host, on which JSON
travels in frames of a length and that many bytes; a second one joins the two processes of an assert-style test.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any, Final

from vibethinker.sandbox.exceptions import LostError

FORK: Final = struct.Struct("<cQQId")  # b"F", job, bytes of memory, seconds of processor, seconds of wall; two sockets
KILL: Final = struct.Struct("<cQ20x")  # b"K", job; as long as the other
EXIT: Final = struct.Struct("<Qid")  # job, wait status, seconds of processor
LENGTH: Final = struct.Struct("<I")


def frame(message: Any) -> bytes:
    """A message as it travels."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return LENGTH.pack(len(body)) + body


class Channel:
    """Blocking frames on a file descriptor: the side of a program's process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def send(self, message: Any) -> None:
        data = memoryview(frame(message))
        try:
            while data:
                data = data[os.write(self.descriptor, data) :]
        except (BrokenPipeError, ConnectionResetError):
            raise LostError("the other side has closed") from None

    def receive(self) -> Any:
        """The next message.

        Raises:
            LostError: the other side is gone.
        """
        return json.loads(self._exactly(LENGTH.unpack(self._exactly(LENGTH.size))[0]))

    def _exactly(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            try:
                part = os.read(self.descriptor, min(count, 1 << 20))
            except ConnectionResetError:
                part = b""
            if not part:
                raise LostError("the other side has closed")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
