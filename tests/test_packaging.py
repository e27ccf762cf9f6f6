"""The wheel holds every room and nothing else, and works from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
ROOMS = {"callbacks", "datamodules", "cli"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        place = source / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, place, follow_symlinks=False)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def expected_files() -> set[str]:
    files = {f"vibethinker/{path.relative_to(ROOT / 'vibethinker')}" for path in real_files(ROOT / "vibethinker")}
    for room in ROOMS:
        files |= {f"vibethinker/{room}/{path.relative_to(ROOT / room)}" for path in real_files(ROOT / room)}
    return files


def real_files(folder: Path) -> list[Path]:
    links = {p for p in folder.iterdir() if p.is_symlink()}
    return [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts and not links & set(p.parents)]


def test_the_wheel_holds_the_rooms_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected_files()


def test_the_installed_console_script_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    script = [sys.executable, str(site / "bin" / "vibethinker")]
    run = subprocess.run([*script, "doctor"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "torch" in run.stdout
    where = (
        "import vibethinker.callbacks; from vibethinker.models.source import ModelSource; "
        "print(vibethinker.__file__, ModelSource.of('nano').path)"
    )
    run = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.stdout.count(str(site)) == 2, run.stderr
