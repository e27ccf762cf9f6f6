"""The operating system's layers around untrusted programs, the trial of each, and the level that they reach.

A layer is first tried in a throwaway process, because several cannot be undone halfway: the trial applies it and checks
that it holds. A layer that does not hold on a machine is left out and named; `level` grades the rest.
docs/security.md lists what each layer stops.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from vibethinker.sandbox import libc, seccomp

Level = Literal["full", "strong", "basic", "none"]
LEVELS: Final[tuple[Level, ...]] = ("none", "basic", "strong", "full")
LAYERS: Final = ("language", "limits", "kill", "split", "seccomp", "namespaces", "landlock", "undumpable")
_NEEDED: Final[dict[Level, tuple[str, ...]]] = {
    "basic": ("language", "limits", "kill"),
    "strong": ("limits", "kill", "split", "seccomp"),
    "full": LAYERS,
}

NOBODY: Final = 65534
_TRIAL_SECONDS: Final = 10
_STACK: Final = 100 << 20  # below the gap that the kernel keeps free under the stack

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_MS_PRIVATE_RECURSIVE: Final = 0x40000 | 0x4000
_MS_TMPFS: Final = 0x1 | 0x2 | 0x4 | 0x8  # read-only, no set-uid, no devices, no execution
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_LANDLOCK_FILES_BY_ABI: Final = (0, 0x1FFF, 0x3FFF, 0x7FFF, 0x7FFF, 0xFFFF)


@dataclass(frozen=True)
class Layer:
    """The result of a layer's trial on this machine, with the evidence or the reason."""

    ok: bool
    evidence: str


def level(layers: Mapping[str, Layer]) -> Level:
    """The highest level all of whose layers hold."""
    for name in reversed(LEVELS):
        if all(layer in layers and layers[layer].ok for layer in _NEEDED.get(name, ())):
            return name
    return "none"


def missing(layers: Mapping[str, Layer], wanted: Level) -> list[str]:
    """The layers that keep a machine from a level, each with its reason."""
    lacking = [name for name in _NEEDED.get(wanted, ()) if name not in layers or not layers[name].ok]
    return [f"{name} ({layers[name].evidence if name in layers else 'unknown'})" for name in lacking]


# Trials


def examine(without: Iterable[str] = ()) -> dict[str, Layer]:
    """Tries every layer in a process of its own, except those left out on purpose."""
    layers = {
        "language": Layer(True, "RestrictedPython"),
        "limits": _attempt(_try_limits),
        "kill": Layer(True, "SIGKILL to the program's session"),
        "split": Layer(True, "expected answers stay in other processes"),
    }
    if sys.platform == "linux":
        trials = (("seccomp", _try_seccomp), ("namespaces", _try_namespaces), ("landlock", _try_landlock))
        layers |= {name: _attempt(trial) for name, trial in trials}
        layers["undumpable"] = _attempt(_try_undumpable)
    else:
        layers |= {name: Layer(False, f"not on {sys.platform}") for name in LAYERS[4:]}
    for name in without:
        layers[name] = Layer(False, "switched off")
    return {name: layers[name] for name in LAYERS}


def _attempt(trial: Callable[[], str]) -> Layer:
    """Runs a trial in a forked process: it returns its evidence, or raises."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            signal.alarm(_TRIAL_SECONDS)
            try:
                text = f"+{trial()}"
            except BaseException as error:
                text = f"-{error.strerror if isinstance(error, OSError) and error.strerror else error}"
            os.write(writing, text.encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read().decode()
    os.waitpid(child, 0)
    return Layer(text.startswith("+"), text[1:] or "the trial died")


def _holds(condition: bool, what: str) -> None:
    if not condition:
        raise RuntimeError(what)


def _refused(action: Callable[[], object]) -> bool:
    try:
        action()
    except OSError as error:
        return error.errno in (errno.EPERM, errno.EACCES, errno.ENETUNREACH, errno.EAGAIN, errno.ENOENT)
    return False


def _try_limits() -> str:
    limit(memory=512 << 20, seconds=5)
    try:
        bytearray(600 << 20)
    except MemoryError:
        return "600 MiB refused at a limit of 512"
    raise RuntimeError("the memory limit does not hold")


def _try_seccomp() -> str:
    seccomp.install(seccomp.build())
    _holds(_refused(socket.socket) and _refused(os.fork) and _refused(os.pipe), "the filter lets calls through")
    _holds(_refused(lambda: os.open("/", os.O_RDONLY)), "the filter lets files be opened")
    _holds(_refused(lambda: os.kill(os.getpid(), 0)), "the filter lets signals be sent")
    return "socket, open, kill, fork, pipe refused"


def _try_namespaces() -> str:
    become_nobody()
    enter_namespaces()
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            empty_root()
            libc.drop_capabilities()
            connect = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            alone = os.getpid() == 1 and not list(os.scandir("/"))
            code = 0 if alone and _refused(lambda: connect.connect(("192.0.2.1", 9))) else 2
        os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    _holds(status == 0, "no empty root" if status == 1 else "no isolation inside")
    return "process 1 of its own, empty root, no network"


def _try_landlock() -> str:
    restrict_files()
    _holds(_refused(lambda: os.scandir("/")), "folders can be read")
    _holds(_refused(lambda: os.open("/dev/null", os.O_RDWR)), "files can be opened")
    return "files refused"


def _try_undumpable() -> str:
    libc.dumpable(False)
    if os.getuid() != 0:
        _holds(_refused(lambda: os.open("/proc/self/mem", os.O_RDONLY)), "memory can be read through /proc")
    return "memory closed to processes of the same user"


# Layers


def limit(memory: int, seconds: int) -> None:
    """Limits of this process: address space in bytes, processor time, no files, no cores, no children."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 16,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_STACK: _STACK,
        **({resource.RLIMIT_NPROC: 0} if sys.platform == "linux" else {}),
    }
    for which, value in limits.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        if which == resource.RLIMIT_CPU:
            value_hard = value + 1 if hard == resource.RLIM_INFINITY else min(value + 1, hard)
        else:
            value_hard = value
        try:
            resource.setrlimit(which, (value, value_hard))
        except (ValueError, OSError):
            if sys.platform == "linux":  # macOS refuses some
                raise


def become_nobody() -> None:
    """Gives up root, if this is root: limits on processes and on tracing do not bind root."""
    if os.getuid() != 0:
        return
    with contextlib.suppress(OSError):  # where groups cannot be changed there is nothing to gain by them
        os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def enter_namespaces() -> None:
    """A user, network, mount, IPC, host name and cgroup namespace; the next child is process 1 of its own numbers."""
    uid, gid = os.getuid(), os.getgid()
    libc.dumpable(True)  # a change of user has made /proc/self root's, where the maps are written
    libc.unshare(_NEWUSER | _NEWPID | _NEWNET | _NEWNS | _NEWIPC | _NEWUTS | _NEWCGROUP)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123  # pathlib is not loaded here
            file.write(text)


def empty_root() -> None:
    """Turns the root folder into an empty, read-only one; nothing of the machine's files remains to be named."""
    libc.mount("none", "/", "", _MS_PRIVATE_RECURSIVE)
    libc.mount("tmpfs", "/tmp", "tmpfs", _MS_TMPFS, "size=4k")
    os.chdir("/tmp")
    libc.pivot_root(".", ".")
    libc.detach(".")
    os.chdir("/")


def restrict_files() -> None:
    """Binds this process and its children to a Landlock ruleset that allows no file, no TCP port, no signal outside.

    Raises:
        OSError: a kernel without Landlock.
    """
    abi = libc.syscall(_LANDLOCK_CREATE, None, 0, 1, what="landlock")
    files = _LANDLOCK_FILES_BY_ABI[min(abi, len(_LANDLOCK_FILES_BY_ABI) - 1)]
    network, scopes = 3 if abi >= 4 else 0, 3 if abi >= 6 else 0
    attributes = (ctypes.c_uint64 * 3)(files, network, scopes)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = libc.syscall(_LANDLOCK_CREATE, ctypes.byref(attributes), size, 0, what="landlock")
    libc.no_new_privileges()
    libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0, what="landlock")
    os.close(ruleset)
