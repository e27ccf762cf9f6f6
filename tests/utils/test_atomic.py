"""Files and folders are replaced in one step, or not at all."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.support.checkpoints import listing
from vibethinker.utils.atomic import atomic_file, staged_folder, write_atomic


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_replaces_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomic(path, "one")
    with atomic_file(path) as file:
        file.write(b"two")
        file.flush()
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert names(path.parent) == ["file"]


def test_a_failure_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"one")
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.writelines([b"two", 3])  # type: ignore[list-item]
    assert path.read_bytes() == b"one"
    assert names(tmp_path) == ["file"]


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".file.partial").write_text("a much longer half of something")
    write_atomic(tmp_path / "file", "one")
    assert (tmp_path / "file").read_text() == "one"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".file.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"no space left on the disk, nothing was written: .*file"):
        write_atomic(tmp_path / "file", "one")
    assert names(tmp_path) == []


def test_folder_appears_at_the_end_and_replaces_the_older(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with staged_folder(tmp_path / "deep" / "out") as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / content).touch()
            assert not (tmp_path / "deep" / "out" / "inner" / content).exists()
        assert listing(tmp_path / "deep") == {"out"}
        assert listing(tmp_path / "deep" / "out" / "inner") == {content}


def test_failure_leaves_the_older_folder_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()

    def interrupted() -> None:
        with staged_folder(tmp_path / "out") as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert listing(tmp_path) == {"out"}
    assert listing(tmp_path / "out") == {"kept"}


def test_leftovers_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".out.partial" / "sub").mkdir(parents=True)
    (tmp_path / ".out.partial" / "half").touch()
    with staged_folder(tmp_path / "out") as folder:
        (folder / "whole").touch()
    assert listing(tmp_path / "out") == {"whole"}


def test_two_writers_of_one_folder(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "theirs").touch()
    lock = os.open(tmp_path / ".out.partial", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(FileExistsError, match=r"out: another process is writing it"), staged_folder(tmp_path / "out"):
        pass
    os.close(lock)
    assert listing(tmp_path / ".out.partial") == {"theirs"}
