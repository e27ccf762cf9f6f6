from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.support.checkpoints import listing
from vibethinker.utils.staging import staged_folder


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
