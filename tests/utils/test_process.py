"""Child processes: what they may use, what they are given, and that they end with their parent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vibethinker.utils.process import available_cores, child_environment

ROOT = Path(__file__).resolve().parents[2]
PARENT = """
import os, sys, time
from vibethinker.utils.process import die_with_parent
parent = os.getpid()
if os.fork() == 0:
    die_with_parent(parent)
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""
ORPHAN = """
import os
from vibethinker.utils.process import die_with_parent
die_with_parent(os.getppid() + 1)
print("still here")
"""


def test_there_is_a_core_and_no_more_than_the_machine_has() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_an_environment_finds_this_package_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    environment = child_environment(2, COLUMNS="120")
    assert environment["PYTHONPATH"] == f"{ROOT}{os.pathsep}elsewhere"
    assert (environment["OMP_NUM_THREADS"], environment["COLUMNS"]) == ("2", "120")
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_a_child_dies_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=child_environment(1))
    assert parent.stdout is not None
    with parent.stdout as output:
        child = int(output.readline())
        parent.kill()
        parent.wait()
        end = time.monotonic() + 10
        while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_child_whose_parent_has_ended_already_ends_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, env=child_environment(1), check=False)
    assert (done.returncode, done.stdout) == (1, b"")
