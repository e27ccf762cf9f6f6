"""Errors that a user can correct, in one line."""

from __future__ import annotations

import argparse
import re
from typing import Final

# Bugs of the program keep their traceback.
BUGS: Final = (AssertionError, AttributeError, LookupError, NameError, NotImplementedError, SyntaxError, TypeError)
_PADDING: Final = re.compile(
    r"Does not validate against any|Subtypes: |Errors:|Given value|Expected a <class 'NoneType'>|Expected a path but"
    r"|Type collections\.abc\.Callable"
)


def one_line(error: BaseException) -> str:
    """The message of an error, without what jsonargparse and the operating system add to it."""
    while error.__cause__ is not None and _PADDING.search(str(error)) and not isinstance(error, argparse.ArgumentError):
        error = error.__cause__  # the constructor's own message
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    if isinstance(error, argparse.ArgumentError) or _PADDING.search(text):
        for depth in set(re.findall(r"(?m)^( *)- Problem with given class_path", text)):
            # Of the alternatives that a value may be, the one that knows its class has the best message.
            text = re.sub(rf"(?m)^{depth}- (?!Problem with).*\n(?:{depth} +.*\n)*", "", text)
        lines = [line.strip().removeprefix("- ") for line in text.splitlines()]
        text = " ".join(dict.fromkeys(line for line in lines if not _PADDING.match(line)))
        text = re.sub(r'Parser key "([\w.]+)":', r"\1:", text)
        text = re.sub(r"Expected a dot import path string: (\S+)", r"there is no class \1", text)
        text = re.sub(r"Problem with given class_path '(?:\w+\.)*(\w+)':", r"\1:", text)
    return " ".join(text.split()) or type(error).__name__
