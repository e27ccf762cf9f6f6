"""What can go wrong with the sandbox, or with a program beyond its own exceptions."""


class SandboxError(RuntimeError):
    """The sandbox cannot be had as asked: too low a level, or a server that does not start or has died."""


class RejectedError(Exception):
    """The language layer refuses a source: one line that names the construct and where it stands."""


class OutputLimitError(BaseException):
    """A program prints more than allowed. No `Exception`, so that an ordinary handler does not swallow it."""


class LostError(BaseException):
    """The other end of a channel is gone: there is nobody left to answer. No `Exception`, for the same reason."""
