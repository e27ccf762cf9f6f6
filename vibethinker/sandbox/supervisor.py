"""The host's ends of the sandbox's processes: starts the fork server, moves bytes, keeps time, hears of deaths."""

from __future__ import annotations

import contextlib
import json
import os
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

from vibethinker.sandbox.exceptions import SandboxError
from vibethinker.sandbox.isolation import Layer
from vibethinker.sandbox.job import Run
from vibethinker.sandbox.wire import EXIT, FORK, KILL, LENGTH, frame

Progress = Callable[[int], None]

_LARGEST_ANSWER: Final = 16 << 20  # bytes, beyond what printing may take
_MOST_PARTS: Final = 500_000  # lists and objects in it, which take 30 times their space; beyond what printing may take
_START_LIMIT: Final = 60.0  # seconds for the server to come up on a busy machine
_CODE: Final = "import sys; sys.path.extend(sys.argv[3:]); from vibethinker.sandbox.server import main; main()"


class Server:
    """The host's end of a fork server."""

    def __init__(self, without: Sequence[str]) -> None:
        self.owner = os.getpid()
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-S", "-c", _CODE, str(theirs.fileno()), ",".join(without), *_places()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},  # the same order of a program's sets every time
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # an interrupt at the terminal is the host's to handle
            )
        self._finalizer = weakref.finalize(self, _end, self.control, self.process, self.owner)
        self.layers = {name: Layer(**entry) for name, entry in self._report().items()}
        self.jobs = 0
        self._exits = bytearray()

    def _report(self) -> dict[str, Any]:
        self.control.settimeout(_START_LIMIT)
        try:
            with self.control.makefile("rb") as stream:
                size = stream.read(LENGTH.size)
                report: dict[str, Any] = json.loads(stream.read(LENGTH.unpack(size)[0])) if size else {}
        except TimeoutError:
            report = {"error": "it is too slow"}
        if not report or "error" in report:
            self.close()
            raise SandboxError(f"the sandbox does not start: {report.get('error', 'its process died')}")
        self.control.settimeout(None)
        return report

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        self._finalizer()

    def carry_out(self, runs: Sequence[Run], workers: int, memory: int, progress: Progress | None) -> None:
        """Puts every run to processes of its own, `workers` runs at a time, until all have a verdict.

        Raises:
            SandboxError: the server is gone.
        """
        try:
            self._carry_out(runs, workers, memory, progress)
        except OSError as error:
            raise SandboxError(f"the sandbox's server is gone: {error}") from error

    def _carry_out(self, runs: Sequence[Run], workers: int, memory: int, progress: Progress | None) -> None:
        waiting, done = deque(runs), 0
        active: dict[int, Process] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(self.control, selectors.EVENT_READ, self)
            while waiting or active:
                for _ in range(workers - len({id(process.run) for process in active.values()})):
                    if waiting:
                        active |= self._put(waiting.popleft(), memory, selector)
                self._step(selector, active)
                for run in {id(process.run): process.run for process in active.values()}.values():
                    if run.stage_is_over:
                        for job in [job for job, process in active.items() if process.run is run]:
                            self._drop(active.pop(job), selector)
                        following = self._put(run, memory, selector)
                        active |= following
                        done += not following
                        if progress is not None and not following:
                            progress(done)

    def _put(self, run: Run, memory: int, selector: selectors.BaseSelector) -> dict[int, Process]:
        """Starts the processes of a run's next stage; none when it has no more."""
        jobs = run.next_stage()
        link = socket.socketpair() if len(jobs) == 2 else ()
        started: dict[int, Process] = {}
        for place, job in enumerate(jobs):
            ours, theirs = socket.socketpair()
            self.jobs += 1
            request = FORK.pack(b"F", self.jobs, memory, run.seconds, run.seconds)
            descriptors = [theirs.fileno(), *(end.fileno() for end in link[place : place + 1])]
            with theirs:
                socket.send_fds(self.control, [request], descriptors)
            started[self.jobs] = process = Process(self.jobs, run, ours, frame(job), answering=place == len(jobs) - 1)
            selector.register(ours, process.events(), process)
        for end in link:
            end.close()
        if link:
            one, other = started.values()
            one.partner, other.partner = other, one
        return started

    def _drop(self, process: Process, selector: selectors.BaseSelector) -> None:
        """Ends a process that has nothing more to say."""
        if not process.closed:
            selector.unregister(process.socket)
        process.socket.close()
        if not process.exited:
            self.control.sendall(KILL.pack(b"K", process.job))

    def _step(self, selector: selectors.BaseSelector, active: dict[int, Process]) -> None:
        """Waits for something to happen, and lets every run know what happened to it."""
        deadline = min(process.run.deadline for process in active.values())
        for key, events in selector.select(max(0.0, deadline - time.monotonic())):
            if key.data is self:
                self._hear_of_exits(selector, active)
            elif key.data.closed is False:
                key.data.attend(events, selector)
        now = time.monotonic()
        for process in active.values():
            if now >= process.run.deadline and not process.run.stage_is_over:
                process.run.late()

    def _hear_of_exits(self, selector: selectors.BaseSelector, active: dict[int, Process]) -> None:
        self._exits += self.control.recv(EXIT.size * 64)
        if not self._exits:
            raise ConnectionResetError("it has closed its socket")
        while len(self._exits) >= EXIT.size:
            job, status, cpu = EXIT.unpack_from(self._exits)
            del self._exits[: EXIT.size]
            if job in active:
                active[job].exit(status, cpu, selector)


class Process:
    """The host's end of one program's process: what is still to be sent, what has been heard."""

    def __init__(self, job: int, run: Run, channel: socket.socket, task: bytes, answering: bool) -> None:
        self.job, self.run, self.socket, self.answering = job, run, channel, answering
        channel.setblocking(False)
        self.outgoing, self.incoming = memoryview(task), bytearray()
        self.closed = self.exited = False
        self.partner: Process | None = None
        self.longest = 6 * run.output + _LARGEST_ANSWER
        self._write()

    def events(self) -> int:
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outgoing else 0)

    def attend(self, events: int, selector: selectors.BaseSelector) -> None:
        if events & selectors.EVENT_WRITE:
            self._write()
        if events & selectors.EVENT_READ and not self._read():
            self.closed = True
            selector.unregister(self.socket)
        elif events & selectors.EVENT_WRITE:
            selector.modify(self.socket, self.events(), self)

    def exit(self, status: int, cpu: float, selector: selectors.BaseSelector) -> None:
        """The process is no more: what it has said still counts, then what is missing is its loss."""
        self.exited = True
        while not self.closed and not self.run.stage_is_over:
            if not self._read(last=True):
                self.closed = True
                selector.unregister(self.socket)
        # Of a pair, the one that merely lost the other says nothing: the other's end tells why.
        if not self.run.stage_is_over and (status != 0 or self.partner is None or self.partner.exited):
            self.run.died(status, cpu)

    def _write(self) -> None:
        try:
            self.outgoing = self.outgoing[self.socket.send(self.outgoing) :]
        except BlockingIOError:
            return
        except OSError:  # it died before it had read its job; its exit will be heard of
            self.outgoing = memoryview(b"")

    def _read(self, last: bool = False) -> bool:
        """Takes what has come; `False` at the end of it."""
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return not last
        except OSError:
            return False
        self.incoming += data
        while not self.run.stage_is_over and len(self.incoming) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self.incoming)
            if size > self.longest:
                self.run.end("error", "an answer larger than allowed")
            if len(self.incoming) < LENGTH.size + size:
                break
            body = self.incoming[LENGTH.size : LENGTH.size + size]
            if body.count(b"[") + body.count(b"{") > self.run.output + _MOST_PARTS:
                self.run.end("error", "an answer larger than allowed")
                break
            self.run.hear(_parsed(body), self.answering)
            del self.incoming[: LENGTH.size + size]
        return bool(data)


def _parsed(data: bytearray) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _end(control: socket.socket, process: subprocess.Popen[bytes], owner: int) -> None:
    control.close()
    if owner != os.getpid():
        return
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _places() -> list[str]:
    """Where the server finds this package and RestrictedPython, which it imports without `site`."""
    root = Path(__file__).resolve().parents[2]
    places = [str(root)]
    with contextlib.suppress(ImportError):
        import RestrictedPython

        places.append(str(Path(RestrictedPython.__file__).resolve().parents[1]))
    return list(dict.fromkeys(places))
