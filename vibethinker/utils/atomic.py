"""Files appear whole or not at all: written under a temporary name, flushed to disk, renamed. Folders can be held."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write; it takes the place of `path` when the block ends well and vanishes when it fails.

    For one writer at a time: what a killed one left behind is overwritten by the next.

    Raises:
        OSError: one line naming `path` when the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        sync(path.parent)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save hides it behind its own
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(cause.errno, "no space left on the disk, nothing was written", str(path)) from error
        raise
    finally:
        scratch.unlink(missing_ok=True)


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Replaces a file's content in one step."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def held(folder: Path, refusal: str | None = None) -> Iterator[None]:
    """Makes a folder and holds it for this process alone; a kill lets go of it.

    Args:
        folder: what nobody else is to hold meanwhile.
        refusal: what to say where another process does; by default it is waited for.

    Raises:
        FileExistsError: the refusal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
    except BlockingIOError:
        os.close(lock)
        raise FileExistsError(refusal) from None
    try:
        yield
    finally:
        os.close(lock)


def sync_folder(folder: str | Path) -> None:
    """Flushes every file of a folder, then the folder itself, so that a rename after it survives a power cut."""
    for path in [*(p for p in Path(folder).rglob("*") if p.is_file()), Path(folder)]:
        sync(path)


def sync(path: Path) -> None:
    """Flushes one file, or the entries of one folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
