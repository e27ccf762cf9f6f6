"""A folder appears whole or not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vibethinker.utils.atomic import held, sync, sync_folder


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out`; it becomes `out` when the block ends well and vanishes when it fails.

    Everything is on disk before the rename. An older `out` is moved aside first and deleted last; a kill between the
    two renames leaves it under `.NAME.old` and the finished new one under `.NAME.partial`, never a mixture. What a
    killed process left behind is cleared by the next one.

    Raises:
        FileExistsError: another process is writing `out` at this moment.
        OSError: one line naming `out` when the disk is full.
    """
    out = out.absolute()
    partial = out.with_name(f".{out.name}.partial")
    with held(partial, f"{out}: another process is writing it"):
        _clear(partial)
        try:
            yield partial
            sync_folder(partial)
            _publish(partial, out)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(error.errno, "no space left on the disk, nothing was written", str(out)) from error
            raise


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _publish(partial: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    sync(out.parent)
