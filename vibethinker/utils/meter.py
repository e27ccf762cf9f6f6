"""Progress of long tasks: bars on a terminal, plain lines in a log. Free of Lightning, whose import takes seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)

T = TypeVar("T")


def tracked(items: Iterable[T], title: str, *, total: int | None = None, disable: bool = False) -> Iterable[T]:
    """Iterates over the items with a temporary progress bar on stderr; without one where stderr is no terminal.

    Args:
        items: what to iterate over.
        title: text beside the bar.
        total: number of items, if they have no length.
        disable: show no bar.
    """
    console = Console(stderr=True)
    return track(items, title, total=total, console=console, transient=True, disable=disable or not console.is_terminal)


class Meter:
    """Shows the progress of several tasks.

    Args:
        interval: seconds between plain lines.
    """

    def __init__(self, interval: float = 5.0):
        super().__init__()  # the next class in the MRO, such as ProgressBar for Progress
        self.interval = interval
        self._console = Console()
        self._enabled = True
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._start = self._shown = time.monotonic()

    def disable(self) -> None:
        """Stops all output."""
        self._enabled = False

    def enable(self) -> None:
        """Resumes output."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints like the built-in `print`, above the bars if there are any."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._console.print(*args, **kwargs, highlight=False, markup=False)
        else:
            print(*args, **kwargs, flush=True)

    def show(self, task: str, done: int, total: int, metrics: str = "") -> None:
        """Moves a task's bar, or prints a line for it if the last line is at least `interval` seconds old.

        Args:
            task: name of the task.
            done: finished units of the task.
            total: units of the task.
            metrics: text to show beside the bar.
        """
        if not self._enabled:
            return
        if self._console.is_terminal:
            self._move(task, done, total, metrics)
        elif time.monotonic() - self._shown >= self.interval:
            self._line(task, done, total, metrics)

    def _line(self, task: str, done: int, total: int, metrics: str) -> None:
        self._shown = time.monotonic()
        seconds = int(self._shown - self._start)
        self.print("  ".join(filter(None, [f"{task} {done}/{total}", metrics, f"{clock(seconds)} elapsed"])))

    def _move(self, task: str, done: int, total: int, metrics: str) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            metrics_column = TextColumn("{task.fields[metrics]}", style="italic")
            self._bar = Progress(*columns, TimeRemainingColumn(), metrics_column, console=self._console)
            self._bar.start()
        if task not in self._tasks:
            self._tasks[task] = self._bar.add_task(task, total=total, metrics=metrics)
        self._bar.update(self._tasks[task], completed=done, metrics=metrics)
        if task != "step" and done >= total:
            self._bar.remove_task(self._tasks.pop(task))

    def close(self) -> None:
        """Removes the bars."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._tasks = None, {}


def clock(seconds: int) -> str:
    """Formats seconds as `0:31` or `1:02:03`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
