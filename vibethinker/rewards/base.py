"""What a reward is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from vibethinker.problems import Problem


@runtime_checkable
class Reward(Protocol):
    """Judges completions: any callable of this shape will do, a plain function too.

    One outcome in [0, 1] per completion, in their order; the same for the same pair; never an exception because of what
    a completion says. A reward that holds processes also has `close()`, and starts them on first use, so that it can be
    copied and configured freely before.
    """

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        """Outcome of `completions[i]` as an answer to `problems[i]`."""
        ...
