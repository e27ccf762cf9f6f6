"""Programs that try to do harm, at every level; the tests check observable effects."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox import attacks
from vibethinker.sandbox import Sandbox

pytestmark = pytest.mark.slow

LIMIT = 1.0  # seconds for a program
GRACE = 1.5  # more, on a busy machine, until it must be over

# What holds at each level; the last shows that the operating system and the protocol do not lean on the language.
LAYERS_LEFT_OUT = {
    "full": (),
    "strong": ("namespaces", "landlock", "undumpable"),
    "unrestricted": ("language", "namespaces", "landlock", "undumpable"),
}


@pytest.fixture(scope="module", params=LAYERS_LEFT_OUT)
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(2, without=LAYERS_LEFT_OUT[request.param], level="basic") as box:
        if box.reached not in ("strong", "full"):
            pytest.skip(f"this machine has level {box.reached}: {box.layers}")
        yield box


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder in which everybody may read and write, so that nothing but the sandbox is in the way."""
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.owner() != "root" or os.getuid() == 0:
            folder.chmod(folder.stat().st_mode | 0o777)
    return tmp_path


@pytest.mark.parametrize("name", attacks.READ)
def test_no_file_is_read(name: str, box: Sandbox, open_folder: Path) -> None:
    token = secrets.token_hex(8)
    file = open_folder / "secret"
    file.write_text(token)
    file.chmod(0o644)
    program = attacks.READ[name].replace("<SECRET>", str(file))
    verdict = box.run(program, [{"input": "", "output": token}], LIMIT)
    assert not verdict.passed
    assert token not in verdict.detail.partition(", not ")[0]


@pytest.mark.parametrize("name", attacks.SEE)
def test_no_file_is_seen(name: str, box: Sandbox, open_folder: Path) -> None:
    file = open_folder / "secret"
    file.touch(0o644)
    program = attacks.SEE[name].replace("<SECRET>", str(file))
    assert not box.run(program, [{"input": "", "output": "seen"}], LIMIT).passed


@pytest.mark.parametrize("name", attacks.WRITE)
def test_nothing_is_left_behind(name: str, box: Sandbox, open_folder: Path) -> None:
    mark = open_folder / "mark"
    box.run(attacks.WRITE[name].replace("<MARK>", str(mark)), [{"input": "", "output": ""}], LIMIT)
    assert not mark.exists()
    assert not mark.is_symlink()


@pytest.mark.parametrize("name", attacks.CONNECT)
def test_no_connection_is_made(name: str, box: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        port = stream.getsockname()[1]
        datagram.bind(("127.0.0.1", port))
        box.run(attacks.CONNECT[name].replace("<PORT>", str(port)), [{"input": "", "output": ""}], LIMIT)
        for listener, listen in ((stream, stream.accept), (datagram, lambda: datagram.recv(1))):
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listen()


@pytest.mark.parametrize("name", attacks.KILL)
def test_nobody_else_is_ended(name: str, box: Sandbox) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"]) as victim:
        before = box.layers
        box.run(attacks.KILL[name].replace("<PID>", str(victim.pid)), [{"input": "", "output": ""}], LIMIT)
        assert victim.poll() is None
        victim.kill()
    server = box._server
    assert box.run("print(1)", [{"input": "", "output": "1"}]).passed
    assert box._server is server  # the server survived
    assert box.layers == before


@pytest.mark.parametrize("name", attacks.LINGER)
def test_nothing_outlives_its_run(name: str, box: Sandbox) -> None:
    box.run(attacks.LINGER[name], [{"input": "", "output": ""}], LIMIT)
    assert wait_until(lambda: descendants(box) == 0)


@pytest.mark.parametrize("name", attacks.EXHAUST)
def test_time_memory_and_output_are_bounded(name: str, box: Sandbox) -> None:
    start = time.monotonic()
    verdict = box.run(attacks.EXHAUST[name], [{"input": "", "output": "raised"}], LIMIT)
    assert time.monotonic() - start < LIMIT + GRACE
    assert not verdict.passed
    assert verdict.outcome in ("timeout", "memory", "error", "rejected", "crashed", "wrong")
    assert wait_until(lambda: descendants(box) == 0)


FORMS: dict[str, list[dict[str, Any]]] = {
    "calls": [{"call": "f", "args": [x], "expected": x * x + 7} for x in (3, 10, -2)],
    "asserts": [{"assert": f"assert f({x}) == {x * x + 7}"} for x in (3, 10, -2)],
    "asserts process": [{"assert": f"for x in [{x}]:\n    assert f(x) == {x * x + 7}"} for x in (3, 10, -2)],
    "close": [{"assert": f"assert abs(f({x}) - {x * x + 7}) < 1e-6"} for x in (3, 10, -2)],
    "set": [{"assert": f"assert set([f({x})]) == set([{x * x + 7}])"} for x in (3, 10, -2)],
    "check": [
        {"assert": "def check(c):\n    for x, y in [(3, 16), (10, 107), (-2, 11)]:\n        assert c(x) == y\ncheck(f)"}
    ],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", attacks.HACK)
def test_no_wrong_answer_passes(name: str, form: str, box: Sandbox) -> None:
    verdict = box.run(attacks.HACK[name].replace("<ANSWER>", "16"), FORMS[form], LIMIT)
    assert not verdict.passed
    assert verdict.score <= 1 / 3  # the one answer that some of them know


@pytest.mark.parametrize("form", FORMS)
def test_the_right_answer_passes(form: str, box: Sandbox) -> None:
    assert box.run("def f(x): return x * x + 7", FORMS[form], 10.0).passed


def descendants(box: Sandbox) -> int:
    """Processes below the sandbox's server, which is itself below an outer one where there are namespaces."""
    assert box._server is not None
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(folder.name)] = int(parent)
    family = {box._server.process.pid}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return len(family) - (2 if box.layers["namespaces"].ok else 1)


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()
