"""System calls for which Python has no function."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Final

_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_SYS_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_SYS_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_CAPABILITY_VERSION_3: Final = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """The result of a call, or the error it set."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: Any, what: str) -> int:
    """A system call by its number; `what` names it in an error."""
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return checked(_libc.syscall(ctypes.c_long(number), *wide), what)


def prctl(option: int, *arguments: int) -> None:
    """Changes a property of this process."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    checked(_libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, padded)), f"prctl({option})")


def no_new_privileges() -> None:
    """No program that this process could execute gains rights by being set-uid."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def dumpable(flag: bool) -> None:
    """Allows or forbids that processes of the same user trace this one and read its memory; its /proc files follow."""
    prctl(_PR_SET_DUMPABLE, int(flag))


def unshare(flags: int) -> None:
    """Enters new namespaces."""
    checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mounts a file system; the arguments are those of the system call."""
    texts = (source.encode(), target.encode(), kind.encode())
    checked(_libc.mount(*texts, ctypes.c_ulong(flags), data.encode()), f"mount {target}")


def detach(target: str) -> None:
    """Unmounts lazily."""
    checked(_libc.umount2(target.encode(), 2), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Makes the folder `new` the root, and `old` the one where the former root is."""
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    syscall(number, ctypes.c_char_p(new.encode()), ctypes.c_char_p(old.encode()), what="pivot_root")


def drop_capabilities() -> None:
    """Gives up every right that root, or a new user namespace, has brought."""
    for capability in range(64):
        try:
            prctl(_PR_CAPBSET_DROP, capability)
        except OSError:  # beyond the last one, or no right to drop it
            break
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    syscall(_SYS_CAPSET[os.uname().machine], ctypes.byref(header), ctypes.byref(nothing), what="capset")
