"""The fork server: a small interpreter, isolated before any program comes, that forks a process for each.

It is started by `exec`, so it costs the same beside a trainer of any size. It tries the layers, imports whatever a
program may need, gives up its rights, and then only forks and kills on request. It never reads a task: a child reads
its own from the socket that it was given, so no child inherits anything about another's, or an expected answer.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import select
import signal
import socket
import sys
import time
from dataclasses import asdict
from typing import Final, NoReturn

from vibethinker.sandbox import isolation, libc, program_process, seccomp
from vibethinker.sandbox.framing import EXIT, FORK, KILL, Channel
from vibethinker.utils.process import die_with_parent

_TASK, _LINK = 3, 4  # descriptors of a child
_BACKSTOP: Final = 5.0  # seconds after which the server kills by itself what the host should have ended


def main() -> None:
    """Entry point of the interpreter that the host starts: control socket and layers to leave out in its arguments."""
    control = socket.socket(fileno=int(sys.argv[1]))
    channel = Channel(control.fileno())
    without = [name for name in sys.argv[2].split(",") if name]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        found = isolation.examine(without)
        if found["language"].ok:
            found["language"] = _load_language()
        program_process.dialect(found["language"].ok).preload()
        _isolate(found)
        system_calls = seccomp.build() if found["seccomp"].ok else None
    except Exception as error:
        channel.send({"error": f"{type(error).__name__}: {error}"})
        return
    gc.collect()
    gc.freeze()  # pages that nobody writes to are shared by all children
    channel.send({name: asdict(layer) for name, layer in found.items()})
    _Server(control, system_calls, found["language"].ok).serve()


def _load_language() -> isolation.Layer:
    try:
        from importlib.metadata import version

        import vibethinker.sandbox.language  # noqa: F401

        return isolation.Layer(True, f"RestrictedPython {version('RestrictedPython')}")
    except ImportError as error:
        return isolation.Layer(False, str(error))


def _isolate(found: dict[str, isolation.Layer]) -> None:
    """Puts the server itself behind the layers that hold and are not left for its children."""
    os.chdir("/")
    isolation.become_nobody()
    if found["namespaces"].ok:
        isolation.enter_namespaces()
        if inner := os.fork():  # this outer process waits: the host can see it and kill it
            os.closerange(3, 256)
            os.waitpid(inner, 0)
            os._exit(0)
        die_with_parent()
        isolation.empty_root()
        libc.drop_capabilities()
    if found["undumpable"].ok:
        libc.dumpable(False)
    if found["landlock"].ok:
        isolation.restrict_files()


class _Server:
    """Forks and kills.

    Attributes:
        system_calls: filter of its children's system calls, if there is one.
        language: True if the language layer is on.
    """

    def __init__(self, control: socket.socket, system_calls: bytes | None, language: bool) -> None:
        self.control, self.system_calls, self.language, self.process = control, system_calls, language, os.getpid()
        self.children: dict[int, tuple[int, float]] = {}  # process → child, when it is killed at the latest
        self.processes: dict[int, int] = {}  # child → process
        self.wakeup, self._alarm = socket.socketpair()
        self.wakeup.setblocking(False)
        self._alarm.setblocking(False)

    def serve(self) -> None:
        """Serves until the host closes its end; then no child is left running."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._alarm.fileno(), warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.wakeup, select.POLLIN)
        try:
            while True:
                patience = min((end for _, end in self.children.values()), default=math.inf) - time.monotonic()
                ready = [fd for fd, _ in poll.poll(max(0.0, patience) * 1000 + 1 if self.children else None)]
                if self.wakeup.fileno() in ready:
                    with contextlib.suppress(BlockingIOError):
                        self.wakeup.recv(4096)
                    self.reap()
                if self.control.fileno() in ready and not self.obey():
                    return
                for process, (_, end) in self.children.items():
                    if time.monotonic() >= end:
                        _kill(process)
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
            _, child = KILL.unpack(data)
            if child in self.processes:
                _kill(self.processes[child])
            return True
        _, child, memory, seconds, wall = FORK.unpack(data)
        process = os.fork()
        if process == 0:
            self.become_child(descriptors, memory, seconds)
        for descriptor in descriptors:
            os.close(descriptor)
        self.children[process] = child, time.monotonic() + wall + _BACKSTOP
        self.processes[child] = process
        return True

    def become_child(self, descriptors: list[int], memory: int, seconds: int) -> NoReturn:
        """Makes a fork a child: nothing of the server's, then the layers, then its task."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            die_with_parent(self.process)
            isolation.limit(memory, seconds)  # each layer forbids more of what the next ones need
            saved = [os.dup(descriptor) for descriptor in descriptors]  # out of the way of their targets
            for target, descriptor in zip((_TASK, _LINK), saved, strict=False):
                os.dup2(descriptor, target)
            os.closerange(_TASK + len(descriptors), 256)
            if self.system_calls is not None:
                seccomp.install(self.system_calls)
            code = program_process.work(_TASK, _LINK, self.language)
        except BaseException:
            code = program_process.BROKEN
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
                child, _ = self.children.pop(process)
                del self.processes[child]
                self.control.sendall(EXIT.pack(child, status, usage.ru_utime + usage.ru_stime))


def _kill(process: int) -> None:
    """Kills a process and its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)
