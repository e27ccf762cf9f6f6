"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from vibethinker.utils.atomic import atomic_file, write_atomic


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
