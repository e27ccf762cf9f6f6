"""A bar on a terminal, plain lines in a log; without Lightning, whose import takes seconds."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Meter:
    """Shows how far each of several tasks is.

    Args:
        interval: seconds between plain lines.
    """

    def __init__(self, interval: float = 5.0):
        super().__init__()  # of what is next in line, as ProgressBar for Progress
        self.interval = interval
        self._console = Console()
        self._enabled = True
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._start = self._shown = time.monotonic()

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        if not self._enabled:
            return
        if self._bar is not None:
            self._console.print(*args, **kwargs, highlight=False, markup=False)
        else:
            print(*args, **kwargs, flush=True)

    def show(self, task: str, done: int, total: int, figures: str = "") -> None:
        """Moves a task's bar, or prints a line for it if the last line is `interval` seconds old."""
        if not self._enabled:
            return
        if self._console.is_terminal:
            self._move(task, done, total, figures)
        elif time.monotonic() - self._shown >= self.interval:
            self._line(task, done, total, figures)

    def _line(self, task: str, done: int, total: int, figures: str) -> None:
        self._shown = time.monotonic()
        seconds = int(self._shown - self._start)
        self.print("  ".join(filter(None, [f"{task} {done}/{total}", figures, f"{clock(seconds)} elapsed"])))

    def _move(self, task: str, done: int, total: int, figures: str) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            figure_column = TextColumn("{task.fields[figures]}", style="italic")
            self._bar = Progress(*columns, TimeRemainingColumn(), figure_column, console=self._console)
            self._bar.start()
        if task not in self._tasks:
            self._tasks[task] = self._bar.add_task(task, total=total, figures=figures)
        self._bar.update(self._tasks[task], completed=done, figures=figures)
        if task != "step" and done >= total:
            self._bar.remove_task(self._tasks.pop(task))

    def close(self) -> None:
        """Takes the bars away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._tasks = None, {}


def clock(seconds: int) -> str:
    """`0:31`, `1:02:03`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
