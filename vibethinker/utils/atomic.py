"""Atomic writes: a file or folder is replaced in one step, once all its bytes are on the disk. Locks of folders."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Yields a file that replaces `path` when the block succeeds and is removed when it fails.

    For one writer at a time: the next one overwrites what a killed one has left behind.

    Raises:
        OSError: one line naming `path` when the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with _full_disk_names(path), partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Replaces the content of a file."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """Yields an empty folder beside `out` that replaces it when the block succeeds and is removed when it fails.

    An older `out` is moved aside before the rename and deleted after it; a kill between the two renames leaves the old
    folder as `.NAME.old` and the finished new one as `.NAME.partial`, never a mixture. The next process clears what a
    killed one has left behind.

    Raises:
        FileExistsError: another process is writing `out` at this moment.
        OSError: one line naming `out` when the disk is full.
    """
    out = out.absolute()
    partial = out.with_name(f".{out.name}.partial")
    with locked(partial, f"{out}: another process is writing it"):
        for entry in partial.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        try:
            with _full_disk_names(out):
                yield partial
                sync_folder(partial)
                _replace_folder(partial, out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def locked(folder: Path, error: str | None = None) -> Iterator[None]:
    """Creates a folder and locks it for this process; the lock ends with the block or with the process.

    Waits while another process has the lock, unless there is an `error`.

    Raises:
        FileExistsError: `error`, if another process has the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if error else 0))
        except BlockingIOError:
            raise FileExistsError(error) from None
        yield
    finally:
        os.close(handle)


def sync_folder(folder: str | Path) -> None:
    """Flushes every file of a folder, then the folder itself, so that a rename after it survives a power cut."""
    for path in [*(p for p in Path(folder).rglob("*") if p.is_file()), Path(folder)]:
        _sync(path)


def _sync(path: Path) -> None:
    """Flushes one file, or the entries of one folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _full_disk_names(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save raises a RuntimeError over it
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(cause.errno, "no space left on the disk, nothing was written", str(path)) from error
        raise


def _replace_folder(new: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    _sync(out.parent)
