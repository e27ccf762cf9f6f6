"""The fork server: a small interpreter, locked in before any program comes, that makes a process for each.

It is started by `exec`, so it costs the same beside a trainer of any size. It tries the layers, imports whatever a
program may need, gives up its rights, and then only forks and kills on request. It never reads a job: a child reads its
own from the socket it was given, so no child inherits anything about another's, or an expected answer.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import Final, NoReturn

from vibethinker.sandbox import child, libc, seccomp
from vibethinker.sandbox import isolation as layers
from vibethinker.sandbox.wire import EXIT, FORK, KILL, LENGTH
from vibethinker.utils.process import die_with_parent

_JOB, _LINK = 3, 4  # descriptors of a child
_BACKSTOP: Final = 5.0  # seconds after which the server kills by itself what the host should have ended


@dataclass(frozen=True)
class Cage:
    """What is prepared once and put on by every child."""

    system_calls: bytes | None
    language: bool

    def put_on(self, memory: int, seconds: int, descriptors: list[int]) -> None:
        """Binds the calling process; order matters, since each layer forbids more of what the next ones need.

        Args:
            memory: bytes of address space.
            seconds: of processor time.
            descriptors: the only ones it keeps, as `_JOB` and `_LINK`.
        """
        layers.limit(memory, seconds)
        saved = [os.dup(descriptor) for descriptor in descriptors]  # out of the way of the places they go to
        for place, descriptor in zip((_JOB, _LINK), saved, strict=False):
            os.dup2(descriptor, place)
        os.closerange(_JOB + len(descriptors), 256)
        if self.system_calls is not None:
            seccomp.install(self.system_calls)


def main() -> None:
    """Entry point of the interpreter that the host starts: control socket and layers to leave out in its arguments."""
    control = socket.socket(fileno=int(sys.argv[1]))
    without = [name for name in sys.argv[2].split(",") if name]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        found = layers.examine(without)
        if found["language"].ok:
            found["language"] = _load_language()
        child.preload(found["language"].ok)
        cage = _lock_in(found)
    except Exception as error:
        _report(control, {"error": f"{type(error).__name__}: {error}"})
        return
    gc.collect()
    gc.freeze()  # pages that nobody writes to are shared by all children
    _report(control, {name: asdict(layer) for name, layer in found.items()})
    _Server(control, cage).serve()


def _load_language() -> layers.Layer:
    try:
        from importlib.metadata import version

        import vibethinker.sandbox.language  # noqa: F401

        return layers.Layer(True, f"RestrictedPython {version('RestrictedPython')}")
    except ImportError as error:
        return layers.Layer(False, str(error))


def _lock_in(found: dict[str, layers.Layer]) -> Cage:
    """Puts the server itself behind the layers that hold; returns what is left for its children."""
    os.chdir("/")
    layers.become_nobody()
    if found["namespaces"].ok:
        layers.enter_namespaces()
        if first := os.fork():
            _wait_for(first)
        die_with_parent()
        layers.empty_root()
        libc.drop_capabilities()
    if found["undumpable"].ok:
        libc.dumpable(False)
    if found["landlock"].ok:
        layers.restrict_files()
    return Cage(seccomp.build() if found["seccomp"].ok else None, found["language"].ok)


def _wait_for(server: int) -> NoReturn:
    """The outer process's remaining life: it is what the host can see and kill."""
    os.closerange(3, 256)
    os.waitpid(server, 0)
    os._exit(0)


def _report(control: socket.socket, message: object) -> None:
    body = json.dumps(message).encode()
    control.sendall(LENGTH.pack(len(body)) + body)


class _Server:
    def __init__(self, control: socket.socket, cage: Cage) -> None:
        self.control, self.cage = control, cage
        self.children: dict[int, tuple[int, float]] = {}  # process → job, when it is killed at the latest
        self.processes: dict[int, int] = {}  # job → process
        self.wakeup, self._alarm = socket.socketpair()
        self.wakeup.setblocking(False)
        self._alarm.setblocking(False)

    def serve(self) -> None:
        """Until the host closes its end; then nothing is left running."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._alarm.fileno(), warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.wakeup, select.POLLIN)
        try:
            while True:
                ready = [fd for fd, _ in poll.poll(self._patience())]
                if self.wakeup.fileno() in ready:
                    with contextlib.suppress(BlockingIOError):
                        self.wakeup.recv(4096)
                    self.reap()
                if self.control.fileno() in ready and not self.obey():
                    return
                self._kill_late()
        finally:
            for process in self.children:
                _kill(process)

    def obey(self) -> bool:
        """Carries out one request; `False` when the host is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.control, FORK.size, 2)
            while data and len(data) < FORK.size:
                data += self.control.recv(FORK.size - len(data))
        except ConnectionResetError:
            return False
        if not data:
            return False
        if data[:1] == b"K":
            _, job = KILL.unpack(data)
            if job in self.processes:
                _kill(self.processes[job])
            return True
        _, job, memory, seconds, wall = FORK.unpack(data)
        process = os.fork()
        if process == 0:
            self.become_child(descriptors, memory, seconds)
        for descriptor in descriptors:
            os.close(descriptor)
        self.children[process] = job, time.monotonic() + wall + _BACKSTOP
        self.processes[job] = process
        return True

    def become_child(self, descriptors: list[int], memory: int, seconds: int) -> NoReturn:
        """The first moments of a child: nothing of the server's, then the cage, then its job."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            die_with_parent()
            self.cage.put_on(memory, seconds, descriptors)
            code = child.work(_JOB, _LINK, self.cage.language)
        except BaseException:
            code = child.BROKEN
        finally:
            os._exit(code)

    def reap(self) -> None:
        """Tells the host of every child that has ended."""
        while True:
            try:
                process, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process == 0:
                return
            if process in self.children:
                job, _ = self.children.pop(process)
                del self.processes[job]
                self.control.sendall(EXIT.pack(job, status, usage.ru_utime + usage.ru_stime))

    def _patience(self) -> float | None:
        if not self.children:
            return None
        return max(0.0, min(end for _, end in self.children.values()) - time.monotonic()) * 1000 + 1

    def _kill_late(self) -> None:
        now = time.monotonic()
        for process, (_, end) in self.children.items():
            if now >= end:
                _kill(process)


def _kill(process: int) -> None:
    """The process and whatever is in its session's first group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)
