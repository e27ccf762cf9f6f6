"""Runs tasks as processes, several at a time, each as soon as what it needs is there.

A child dies with this process, whatever ends it: its work is resumable, and two of it on one folder would not be.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

import vibethinker
from vibethinker.cli.recipe.tasks import LOG, Task
from vibethinker.utils.provenance import Provenance

_TICK, _LINE_EVERY = 0.2, 15.0  # seconds
_LAST_LINES: Final = 12
_PR_SET_PDEATHSIG: Final = 1


@dataclass
class Running:
    """A task's process."""

    task: Task
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    threads: int
    provenance: Provenance
    start: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
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

    How many cores a process gets is a figure of the recipe, not of the moment: another number of threads adds in
    another order, so a run that was killed in between would end with other weights. A fit without siblings has them
    all, and whatever could run beside it waits: two threads a core are several times slower than one.

    Args:
        tasks: all of them, each after those it needs.
        done: names of those that are.
        jobs: processes at a time.
        console: where to show what goes on.
    """

    def __init__(self, tasks: Sequence[Task], done: set[str], jobs: int, console: Console):
        self.tasks, self.done, self.jobs, self.console = tasks, done, jobs, console
        self.skipped = frozenset(done)
        self.siblings = Counter(task.stage for task in tasks if task.kind == "fit")
        self.running: list[Running] = []
        self.seconds: dict[str, float] = {}
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def run(self, watch: Callable[[], None]) -> None:
        """Returns when all is done.

        Args:
            watch: called every tick; may raise to stop it all.

        Raises:
            RuntimeError: a task failed; the others are stopped.
        """
        with self:
            while len(self.done) < len(self.tasks):
                while (task := self._next()) and self._has_room(task):
                    self._start(task)
                watch()
                time.sleep(_TICK)
                for running in list(self.running):
                    self._look(running)
                self._show()

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()
        for running in self.running:
            stop(running.process)
            running.log.close()

    def _next(self) -> Task | None:
        """The first that can start; what makes models goes before what only measures them."""
        busy = {running.task.name for running in self.running}
        ready = (t for t in self.tasks if t.name not in busy | self.done and all(n.name in self.done for n in t.before))
        return min(ready, key=lambda task: task.kind == "evaluate", default=None)

    def _threads(self, task: Task) -> int:
        beside = min(self.jobs, self.siblings[task.stage]) if task.kind == "fit" else self.jobs
        return max(cores() // beside, 1)

    def _has_room(self, task: Task) -> bool:
        """What comes next waits for its cores: nothing smaller overtakes it, or it might wait for ever."""
        used = sum(running.threads for running in self.running)
        return len(self.running) < self.jobs and used + self._threads(task) <= max(cores(), self.jobs)

    def _start(self, task: Task) -> None:
        models = task.inputs()
        task.folder.mkdir(parents=True, exist_ok=True)
        line = shlex.join(task.command(models))
        self.console.print(f"[bold]{task.name}[/]  {escape(line)}")
        log = (task.folder / LOG).open("ab")
        log.write(f"$ {line}\n".encode())
        log.flush()
        threads = self._threads(task)
        provenance = task.provenance()
        self.running.append(Running(task, spawn(task.command(models), log, threads), log, threads, provenance))

    def _look(self, running: Running) -> None:
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
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise RuntimeError(f"stage {name} {how}; its log is {running.log.name}")
        memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        figures = {"seconds": round(running.seconds, 2), "peak_memory_bytes": memory, "threads": running.threads}
        running.task.sign(running.provenance, **figures)
        self.done.add(name)
        self.seconds[name] = running.seconds
        self.console.print(f"[bold green]{name}[/]  done in {running.seconds:.0f} s")

    # What is shown

    def _show(self) -> None:
        if self.live:
            self.live.update(self._table(), refresh=True)
            return
        for running in self.running:
            if time.monotonic() - running.said >= _LINE_EVERY:
                running.said = time.monotonic()
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
                table.add_row("[green]done[/]", task.name, took, "from before" if task.name in self.skipped else "")
            else:
                table.add_row("[dim]waiting[/]", f"[dim]{task.name}[/]", "", "")
        return table


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spawn(command: Sequence[str], log: IO[bytes], threads: int) -> subprocess.Popen[bytes]:
    """Starts `vibethinker …` in a process group of its own, output to a log."""
    root = str(Path(vibethinker.__file__).parents[1])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "120",
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "vibethinker.cli.main", *command[1:]],  # -P: nothing from the current folder
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        preexec_fn=_die_with_parent(),
    )


def _die_with_parent() -> Callable[[], None] | None:
    """What a child does first; this process has no other threads that could hold a lock meanwhile."""
    if not sys.platform.startswith("linux"):
        return None
    library, parent = ctypes.CDLL(None), os.getpid()

    def die_with_parent() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be asked
            os._exit(1)

    return die_with_parent


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and its children at once: what they do is made to be killed at any moment."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
