"""Runs tasks as processes, several at a time, each as soon as the tasks before it are done.

A child process ends with this one, in whatever way: its work is resumable, and two of it on one folder would not be.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Final

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from vibethinker.cli.recipe.tasks import LOG, Task
from vibethinker.utils.process import available_cores, child_environment, die_with_parent
from vibethinker.utils.provenance import Provenance

_TICK, _LINE_EVERY = 0.2, 15.0  # seconds
_LAST_LINES: Final = 12


@dataclass
class Running:
    """The process of a task."""

    task: Task
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    threads: int
    provenance: Provenance
    start: float = field(default_factory=time.monotonic)
    shown: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.start

    def last_lines(self, count: int) -> list[str]:
        """The end of its log; a line that was overwritten by a carriage return counts as its last state."""
        with Path(self.log.name).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - 4096, 0))
            text = file.read().decode(errors="replace")
        lines = [line.rpartition("\r")[2].rstrip() for line in text.rstrip().splitlines()]
        return [line for line in lines if any(map(str.isalnum, line))][-count:]


class Scheduler:
    """Runs the tasks that are not done.

    The number of cores of a process depends on the recipe alone: another number of threads adds in another order, so a
    run that was killed in between would end with other weights. A fit without siblings has all cores, and other tasks
    wait for it: two threads on one core are several times slower than one.

    Args:
        tasks: all of them, each after those it needs.
        done: names of those that are done.
        jobs: processes at a time.
        console: where progress is shown.
    """

    def __init__(self, tasks: Sequence[Task], done: set[str], jobs: int, console: Console):
        self.tasks, self.done, self.jobs, self.console = tasks, done, jobs, console
        self.skipped = frozenset(done)
        self.siblings = Counter(task.stage for task in tasks if task.kind == "fit")
        self.running: list[Running] = []
        self.seconds: dict[str, float] = {}

    def run(self, watch: Callable[[], None]) -> None:
        """Returns when all tasks are done; calls `watch` every tick, which may raise to stop them all.

        Raises:
            RuntimeError: a task failed; the others are stopped.
        """
        live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None
        try:
            with live or nullcontext():
                while len(self.done) < len(self.tasks):
                    while (task := self._next()) and self._has_room(task):
                        self._start(task)
                    watch()
                    time.sleep(_TICK)
                    for running in list(self.running):
                        self._poll(running)
                    if live:
                        live.update(self._table(), refresh=True)
                    else:
                        self._print_lines()
        finally:
            for running in self.running:
                stop(running.process)
                running.log.close()

    def _next(self) -> Task | None:
        """The first that can start; tasks that make models go before evaluations."""
        busy = {running.task.name for running in self.running}
        ready = (t for t in self.tasks if t.name not in busy | self.done and all(n.name in self.done for n in t.before))
        return min(ready, key=lambda task: task.kind == "evaluate", default=None)

    def _threads(self, task: Task) -> int:
        parallel = min(self.jobs, self.siblings[task.stage]) if task.kind == "fit" else self.jobs
        return max(available_cores() // parallel, 1)

    def _has_room(self, task: Task) -> bool:
        """The next task waits for its cores: no smaller one overtakes it, or it might wait for ever."""
        used = sum(running.threads for running in self.running)
        return len(self.running) < self.jobs and used + self._threads(task) <= max(available_cores(), self.jobs)

    def _start(self, task: Task) -> None:
        command = task.command(task.models())
        task.folder.mkdir(parents=True, exist_ok=True)
        self.console.print(f"[bold]{task.name}[/]  {escape(shlex.join(command))}")
        log = (task.folder / LOG).open("ab")
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        threads, provenance = self._threads(task), task.provenance()
        self.running.append(Running(task, spawn(command, log, threads), log, threads, provenance))

    def _poll(self, running: Running) -> None:
        pid, status, usage = os.wait4(running.process.pid, os.WNOHANG)
        if pid == 0:
            return
        code = running.process.returncode = os.waitstatus_to_exitcode(status)
        self.running.remove(running)
        running.log.close()
        name = running.task.name
        if code:
            for line in running.last_lines(_LAST_LINES):
                self.console.print(f"  {line}", markup=False)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
            raise RuntimeError(f"stage {name} {how}; its log is {running.log.name}")
        memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        seconds = round(running.seconds, 2)
        running.task.sign(running.provenance, seconds=seconds, peak_memory_bytes=memory, threads=running.threads)
        self.done.add(name)
        self.seconds[name] = running.seconds
        self.console.print(f"[bold green]{name}[/]  done in {running.seconds:.0f} s")

    def _print_lines(self) -> None:
        for running in self.running:
            if time.monotonic() - running.shown >= _LINE_EVERY:
                running.shown = time.monotonic()
                line = f"{running.task.name}  {running.seconds:.0f} s  {''.join(running.last_lines(1))}"
                self.console.print(line, markup=False)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        active = {running.task.name: running for running in self.running}
        for task in self.tasks:
            if running := active.get(task.name):
                last = escape("".join(running.last_lines(1))[: self.console.width // 2])
                table.add_row("[yellow]running[/]", task.name, f"{running.seconds:.0f} s", last)
            elif task.name in self.done:
                took = f"{self.seconds[task.name]:.0f} s" if task.name in self.seconds else ""
                table.add_row("[green]done[/]", task.name, took, "before" if task.name in self.skipped else "")
            else:
                table.add_row("[dim]waiting[/]", f"[dim]{task.name}[/]", "", "")
        return table


def spawn(command: Sequence[str], log: IO[bytes], threads: int) -> subprocess.Popen[bytes]:
    """Starts `vibethinker …` in a process group of its own, with its output in a log."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "vibethinker.cli.main", *command[1:]],  # -P: nothing from the current folder
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=child_environment(threads, PYTHONUNBUFFERED="1", COLUMNS="120"),
        start_new_session=True,
        preexec_fn=partial(die_with_parent, os.getpid()),  # this process has no threads that could hold a lock
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and its children: all of them can resume from any moment."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
