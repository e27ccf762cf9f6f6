"""Errors of the sandbox, and of a program beyond its own exceptions."""


class SandboxError(RuntimeError):
    """The sandbox is not available as asked: too low a level, or a server that does not start or has died."""


class RejectedError(Exception):
    """The language layer rejects a source: one line that names the construct and its line."""


class OutputLimitError(BaseException):
    """A program prints more than allowed. No `Exception`, so that an ordinary handler does not swallow it."""


class LostError(BaseException):
    """The other end of a channel is gone. No `Exception`, for the same reason."""
