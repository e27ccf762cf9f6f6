"""What can go wrong with the sandbox itself."""


class SandboxError(RuntimeError):
    """The sandbox cannot be had as asked: too low a level, or a server that does not start or has died."""


class OutputLimitError(BaseException):
    """A program prints more than allowed. No `Exception`, so that it does not swallow this by accident."""


class LostError(BaseException):
    """The other end of a channel is gone: there is nobody left to answer. No `Exception`, for the same reason."""
