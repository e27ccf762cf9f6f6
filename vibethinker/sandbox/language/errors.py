"""What stops a program before, or while, it runs."""

from __future__ import annotations


class RejectedError(Exception):
    """The policy refuses the source: one line that names the construct and where it stands."""


class OutputLimitError(BaseException):
    """A program wrote more than its run may; not an `Exception`, so that an ordinary handler does not swallow it."""
