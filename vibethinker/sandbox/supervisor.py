"""The host's end of the sandbox: starts the fork server, moves bytes, keeps deadlines, learns of exits."""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from vibethinker.sandbox.exceptions import LostError, SandboxError
from vibethinker.sandbox.framing import EXIT, FORK, KILL, LENGTH, Channel, frame
from vibethinker.sandbox.isolation import Layer
from vibethinker.sandbox.job import Job

Progress = Callable[[int], None]

_LARGEST_ANSWER: Final = 16 << 20  # bytes, beyond what printing may take
_MOST_PARTS: Final = 500_000  # lists and objects in it, which take 30 times their space; beyond what printing may take
_START_LIMIT: Final = 60.0  # seconds for the server to start on a busy machine
_CODE: Final = "import sys; sys.path.extend(sys.argv[3:]); from vibethinker.sandbox.fork_server import main; main()"


class Supervisor:
    """A fork server, started, and the processes that it has forked.

    Args:
        without: layers to leave out.

    Attributes:
        layers: result of each layer's trial on this machine.

    Raises:
        SandboxError: the server does not start.
    """

    def __init__(self, without: Sequence[str]) -> None:
        self.owner = os.getpid()
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-S", "-c", _CODE, str(theirs.fileno()), ",".join(without), *_folders()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},  # the same order of a program's sets every time
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # an interrupt at the terminal is the host's to handle
            )
        self._finalizer = weakref.finalize(self, _end, self.control, self.process, self.owner)
        self.layers = {name: Layer(**entry) for name, entry in self._report().items()}
        self.number = 0  # of the latest child
        self.children: dict[int, _Child] = {}
        self._exits = bytearray()

    def _report(self) -> dict[str, Any]:
        report: dict[str, Any] = {"error": "it is too slow"}
        if select.select([self.control], [], [], _START_LIMIT)[0]:
            try:
                report = Channel(self.control.fileno()).receive()
            except LostError:
                report = {"error": "its process died"}
        if "error" in report:
            self.close()
            raise SandboxError(f"the sandbox does not start: {report['error']}")
        return report

    @property
    def alive(self) -> bool:
        """True until the server ends."""
        return self.process.poll() is None

    def close(self) -> None:
        """Ends the server and its children."""
        self._finalizer()

    def run(self, jobs: Sequence[Job], workers: int, memory: int, progress: Progress | None = None) -> None:
        """Takes every job to its verdict, in processes of its own.

        Args:
            jobs: programs with their cases.
            workers: jobs at a time.
            memory: bytes of address space of each process.
            progress: called with the number of finished jobs.

        Raises:
            SandboxError: the server is gone.
        """
        waiting, running, done = deque(jobs), set[Job](), 0
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self.control, selectors.EVENT_READ)
                while waiting or running:
                    while waiting and len(running) < workers:
                        running.add(waiting[0])
                        self._start(waiting.popleft(), memory, selector)
                    self._step(selector, min(job.deadline for job in running))
                    for job in [job for job in running if job.stage_is_over]:
                        self._drop(job, selector)
                        if not self._start(job, memory, selector):
                            running.remove(job)
                            done += 1
                            if progress is not None:
                                progress(done)
        except OSError as error:
            raise SandboxError(f"the sandbox's server is gone: {error}") from error

    def _start(self, job: Job, memory: int, selector: selectors.BaseSelector) -> bool:
        """Starts the processes of a job's next stage; False when there is none."""
        tasks = job.next_stage()
        link = socket.socketpair() if len(tasks) == 2 else ()
        started: list[_Child] = []
        for i, task in enumerate(tasks):
            ours, theirs = socket.socketpair()
            self.number += 1
            request = FORK.pack(b"F", self.number, memory, job.cpu_seconds, job.cpu_seconds)
            with theirs:
                descriptors = [theirs.fileno(), *(end.fileno() for end in link[i : i + 1])]
                socket.send_fds(self.control, [request], descriptors)
            started.append(_Child(job, ours, frame(task), answering=i == len(tasks) - 1))
            self.children[self.number] = started[-1]
            selector.register(ours, started[-1].events(), started[-1])
        for end in link:
            end.close()
        if link:
            started[0].partner, started[1].partner = started[1], started[0]
        return bool(started)

    def _drop(self, job: Job, selector: selectors.BaseSelector) -> None:
        """Ends the processes of a job's stage."""
        for number, child in list(self.children.items()):
            if child.job is job:
                child.close(selector)
                child.socket.close()
                del self.children[number]
                if not child.exited:
                    self.control.sendall(KILL.pack(b"K", number))

    def _step(self, selector: selectors.BaseSelector, deadline: float) -> None:
        """Waits for messages, exits or the deadline, and passes them to their jobs."""
        for key, events in selector.select(max(0.0, deadline - time.monotonic())):
            if key.data is None:
                self._receive_exits(selector)
            elif not key.data.closed:
                key.data.attend(events, selector)
        now = time.monotonic()
        for child in self.children.values():
            if now >= child.job.deadline and not child.job.stage_is_over:
                child.job.expire()

    def _receive_exits(self, selector: selectors.BaseSelector) -> None:
        self._exits += self.control.recv(EXIT.size * 64)
        if not self._exits:
            raise ConnectionResetError("it has closed its socket")
        while len(self._exits) >= EXIT.size:
            number, status, cpu = EXIT.unpack_from(self._exits)
            del self._exits[: EXIT.size]
            if number in self.children:
                self.children[number].exit(status, cpu, selector)


class _Child:
    """The host's end of a program's process: the bytes still to be sent, the bytes received."""

    def __init__(self, job: Job, channel: socket.socket, task: bytes, answering: bool) -> None:
        self.job, self.socket, self.answering = job, channel, answering
        channel.setblocking(False)
        self.outgoing, self.incoming = memoryview(task), bytearray()
        self.closed = self.exited = False
        self.partner: _Child | None = None
        self._write()

    def events(self) -> int:
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outgoing else 0)

    def close(self, selector: selectors.BaseSelector) -> None:
        if not self.closed:
            self.closed = True
            selector.unregister(self.socket)

    def attend(self, events: int, selector: selectors.BaseSelector) -> None:
        if events & selectors.EVENT_WRITE:
            self._write()
        if events & selectors.EVENT_READ and not self._read():
            self.close(selector)
        elif events & selectors.EVENT_WRITE:
            selector.modify(self.socket, self.events(), self)

    def exit(self, status: int, cpu: float, selector: selectors.BaseSelector) -> None:
        """Takes the end of the process: its last messages still count, then what is missing is its loss."""
        self.exited = True
        while not self.closed and not self.job.stage_is_over:
            if not self._read(last=True):
                self.close(selector)
        # Of a pair, the one that merely lost the other reports nothing: the other's end is the reason.
        if not self.job.stage_is_over and (status != 0 or self.partner is None or self.partner.exited):
            self.job.died(status, cpu)

    def _write(self) -> None:
        try:
            self.outgoing = self.outgoing[self.socket.send(self.outgoing) :]
        except BlockingIOError:
            return
        except OSError:  # it died before it had read its task; its exit will be reported
            self.outgoing = memoryview(b"")

    def _read(self, last: bool = False) -> bool:
        """Takes what has arrived; False at the end of it."""
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return not last
        except OSError:
            return False
        self.incoming += data
        while not self.job.stage_is_over and len(self.incoming) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self.incoming)
            end = LENGTH.size + size
            complete = len(self.incoming) >= end  # counted once, when all of it is here
            body = self.incoming[LENGTH.size : end] if complete else b""
            parts = body.count(b"[") + body.count(b"{")
            if size > 6 * self.job.output + _LARGEST_ANSWER or parts > self.job.output + _MOST_PARTS:
                self.job.end("error", "an answer larger than allowed")
                break
            if not complete:
                break
            try:
                message = json.loads(body)
            except (ValueError, RecursionError):
                message = None
            self.job.receive(message, self.answering)
            del self.incoming[:end]
        return bool(data)


def _end(control: socket.socket, process: subprocess.Popen[bytes], owner: int) -> None:
    control.close()
    if owner != os.getpid():
        return
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _folders() -> list[str]:
    """Where the server finds this package and RestrictedPython, which it imports without `site`."""
    folders = [str(Path(__file__).resolve().parents[2])]
    with contextlib.suppress(ImportError):
        import RestrictedPython  # optional here: without it the language layer is missing

        folders.append(str(Path(RestrictedPython.__file__).resolve().parents[1]))
    return list(dict.fromkeys(folders))
