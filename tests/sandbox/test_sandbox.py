"""The sandbox as its user meets it: verdicts, levels, copies, deaths, and nothing left behind."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import RestrictedPython

import vibethinker
from vibethinker.sandbox import Sandbox, SandboxError
from vibethinker.sandbox import isolation as layers
from vibethinker.sandbox.isolation import LAYERS, Layer

SQUARE = "def f(x): return x * x"
RIGHT = [{"call": "f", "args": [3], "expected": 9}]
ECHO = [{"input": "4\n", "output": "16"}]


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(2, level="basic") as box:
        yield box


@pytest.mark.parametrize(
    ("program", "tests", "outcome", "score", "detail"),
    [
        ("print(int(input()) ** 2)", ECHO, "passed", 1, ""),
        ("print(15)", ECHO, "wrong", 0, r"printed '15\n', not '16'"),
        (SQUARE, RIGHT, "passed", 1, ""),
        (SQUARE, [{"call": "g", "args": [], "expected": 0}], "error", 0, "the program defines no 'g'"),
        ("class Solution:\n    def f(self, x): return x * x", RIGHT, "passed", 1, ""),
        (SQUARE, [*RIGHT, {"call": "f", "args": [3], "expected": 8}], "wrong", 0.5, "test 2: f(3) gave 9, not 8"),
        (SQUARE, [{"call": "f", "args": [], "kwargs": {"x": 2}, "expected": 4}], "passed", 1, ""),
        (SQUARE, [{"assert": "assert f(3) == 9"}], "passed", 1, ""),
        (SQUARE, [{"assert": "assert sum(map(f, [1, 2])) == 5"}], "passed", 1, ""),
        (SQUARE, [{"assert": "assert sum(map(f, [1, 2])) == 6"}], "wrong", 0, "assertion failed"),
        (SQUARE, [{"assert": "assert f('a') == 6"}], "error", 0, "TypeError"),
        ("x = 1\ny = x / 0", ECHO, "error", 0, "(line 2)"),
        ("def f(:", ECHO, "error", 0, "SyntaxError"),
        ("print(16)\nexit()", ECHO, "passed", 1, ""),
        ("import sys\nprint(16)\nsys.exit(3)", ECHO, "error", 0, "exit status 3"),
        ("while True: pass", ECHO, "timeout", 0, "more than 0.5 s"),
        ("x = bytearray(1 << 33)", ECHO, "memory", 0, "memory"),
        ("while True: print('x' * 100000)", ECHO, "error", 0, "Output"),
        ("input()\ninput()", ECHO, "error", 0, "EOFError"),
    ],
)
def test_verdicts(box: Sandbox, program: str, tests: Any, outcome: str, score: float, detail: str) -> None:
    verdict = box.run(program, tests, 0.5 if outcome == "timeout" else 10.0)
    assert (verdict.outcome, verdict.score, verdict.passed) == (outcome, score, outcome == "passed")
    assert detail in verdict.detail


def test_an_assert_may_use_what_the_program_defines(box: Sandbox) -> None:
    program = (
        "import math\nclass Full(ValueError): pass\n"
        "class Node:\n    def __init__(self, v): self.v, self.next = v, None\n    def twice(self): return self.v * 2\n"
        "def push(head, v):\n    if v < 0: raise Full('negative')\n"
        "    new = Node(v)\n    new.next = head\n    return new\n"
        "def walk(head):\n    while head:\n        yield head.v\n        head = head.next\n"
        "def sort(items): items.sort()\ndef fill(d): d['a'] = 1\nLIMIT = 7\n"
        "def unique(items):\n    items[:] = sorted(set(items))\n    return len(items)\n"
    )
    tests = [
        "head = push(Node(1), 2)\nassert head.v == 2 and head.next.v == 1 and head.next.next is None",
        "head = push(None, 5)\nassert list(walk(head)) == [5] and 5 in walk(head) and head.twice() == 10",
        "head = Node(1)\nhead.v = 9\nassert push(head, 2).next.v == 9",
        "items = [3, 1, 2]\nsort(items)\nassert items == [1, 2, 3]",
        "items = [2, 2, 1]\nassert unique(items) == 2 and items == [1, 2]",
        "items = [2, 2, 1]\nassert unique(items=items) == 2 and items == [1, 2]",
        "items = [2, 2, 1]\nassert unique(items[:]) == 2 and items == [2, 2, 1]",
        "steps = walk(Node(4))\nassert next(steps) == 4 and next(steps, None) is None",
        "d = {}\nfill(d)\nassert d == {'a': 1} and LIMIT == 7",
        "try:\n    push(None, -1)\nexcept Full as e:\n    assert str(e) == 'negative'\nelse:\n    assert False",
        "try:\n    push(None, -1)\nexcept ValueError:\n    pass\nelse:\n    assert False",
        "assert math.isclose(push(None, 3).v, 3.0)",
    ]
    for source in tests:
        verdict = box.run(program, [{"assert": source}], 10.0)
        assert verdict.passed, (source, verdict)


def test_a_program_cannot_lend_the_tests_its_own_tools(box: Sandbox) -> None:
    math = "class math:\n    isclose = lambda *a, **k: True\ndef f(x): return 0"
    assert not box.run(math, [{"assert": "assert math.isclose(f(3), 9)"}]).passed
    sets = "def set(x): return 1\ndef f(x): return 0"
    assert not box.run(sets, [{"assert": "assert set([f(3)]) == set([9])"}]).passed
    named = "def sum(a, b): return a + b"
    assert box.run(named, [{"assert": "assert sum(2, 3) == 5"}]).passed
    assert box.run(named, [{"assert": "for a in (1, 2):\n    assert sum(a, 3) == a + 3"}]).passed


def test_changed_arguments_are_seen_beside_a_result(box: Sandbox) -> None:
    program = "def smallest(items):\n    items.sort()\n    return items[0]"
    test = "items = [3, 1, 2]\nassert smallest(items) == 1\nassert items == [3, 1, 2], 'it may not change'"
    assert not box.run(program, [{"assert": test}], 10.0).passed


def test_a_program_cannot_end_the_loop_that_tests_it(box: Sandbox) -> None:
    program = "def f(x): raise StopIteration"
    test = "assert all(map(lambda case: f(case[0]) == case[1], [(3, 16), (10, 107)]))"
    assert not box.run(program, [{"assert": test}], 10.0).passed


def test_results_are_in_order_and_the_same_every_time(box: Sandbox) -> None:
    jobs = [(f"print({i})", [{"input": "", "output": str(i - i % 3)}]) for i in range(30)]
    counts: list[int] = []
    first = box.run_many(jobs, progress=counts.append)
    assert [verdict.passed for verdict in first] == [i % 3 == 0 for i in range(30)]
    assert counts == list(range(1, 31))
    assert [(v.outcome, v.detail) for v in box.run_many(jobs)] == [(v.outcome, v.detail) for v in first]
    assert box.run_many([]) == []


def test_runs_know_nothing_of_each_other(box: Sandbox) -> None:
    leave = "import random, math, decimal\nrandom.seed(1)\ndecimal.getcontext().prec = 3\nprint(1)"
    look = "import decimal\nprint(decimal.getcontext().prec)"
    tests = [{"input": "", "output": "1"}, {"input": "", "output": "1"}]
    assert box.run_many([(leave, tests), (look, [{"input": "", "output": "28"}])])[1].passed
    count = "try:\n    n += 1\nexcept NameError:\n    n = 1\nprint(n)"
    assert box.run(count, tests).passed


def test_large_inputs_and_outputs(box: Sandbox) -> None:
    text = "\n".join(map(str, range(120_000)))
    verdict = box.run("import sys\nsys.stdout.write(sys.stdin.read())", [{"input": text, "output": text}], 20.0)
    assert verdict.passed
    data = list(range(100_000))
    assert box.run("def f(x): return x[::-1]", [{"call": "f", "args": [data], "expected": data[::-1]}], 20.0).passed


def test_options_are_checked_at_once() -> None:
    for options in ({"workers": 0}, {"level": "perfect"}, {"memory": 1}, {"output": 0}, {"without": ("walls",)}):
        (name,) = options
        with pytest.raises(ValueError, match=name):
            Sandbox(**options)
    box = Sandbox()
    with pytest.raises(ValueError, match="timeout"):
        box.run(SQUARE, RIGHT, timeout=0)
    with pytest.raises(ValueError, match="test 1"):
        box.run(SQUARE, [{}])
    assert box._server is None  # nothing has been started


# Levels


def test_level_is_what_all_its_layers_hold() -> None:
    full = dict.fromkeys(LAYERS, Layer(True, ""))

    def without(*names: str) -> dict[str, Layer]:
        return full | dict.fromkeys(names, Layer(False, "no"))

    assert layers.level(full) == "full"
    assert layers.level(without("namespaces")) == "strong"
    assert layers.level(without("landlock", "namespaces", "undumpable", "language")) == "strong"
    assert layers.level(without("seccomp", "namespaces", "landlock")) == "basic"
    assert layers.level(without("seccomp", "language")) == "none"
    assert layers.level(without("limits")) == "none"
    assert layers.missing(without("seccomp"), "strong") == ["seccomp (no)"]


def test_too_low_a_level_is_refused_with_what_is_missing_and_how_to_allow_it() -> None:
    with pytest.raises(SandboxError, match=r"level='strong' .* lacks seccomp \(switched off\); level='basic' would"):
        Sandbox(without=("seccomp",)).run(SQUARE, RIGHT)
    with Sandbox(without=("seccomp", "namespaces", "landlock"), level="basic") as box:
        assert box.reached == "basic"
        assert box.run(SQUARE, RIGHT).passed
        assert box.run("while True: pass", ECHO, 0.3).outcome == "timeout"
    with Sandbox(without=LAYERS, level="none") as box:
        assert box.run(SQUARE, RIGHT).passed


AS_NOBODY = """
from vibethinker.sandbox import Sandbox
with Sandbox(1, level="none") as box:
    print(box.reached, box.run("def f(x): return x * x", [{"call": "f", "args": [3], "expected": 9}]).outcome)
"""


def test_an_ordinary_user_gets_the_same(box: Sandbox) -> None:
    if os.getuid() != 0:
        pytest.skip("this is an ordinary user already")
    assert RestrictedPython.__file__
    path = os.pathsep.join(
        str(Path(file).resolve().parents[1]) for file in (vibethinker.__file__, RestrictedPython.__file__)
    )
    for python in (sys.executable, "/usr/bin/python3"):
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, "-c", AS_NOBODY],
            env={"PYTHONPATH": path, "PATH": os.environ["PATH"]},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            assert done.stdout.split() == [box.reached, "passed"]
            return
    pytest.skip("an ordinary user may read no interpreter here")


# Lives and deaths


def test_copies_and_forks_start_their_own() -> None:
    with Sandbox(1, level="basic") as box:
        assert box.run(SQUARE, RIGHT).passed
        for twin in (copy.deepcopy(box), pickle.loads(pickle.dumps(box))):
            assert twin._server is None
            assert twin.level == "basic"
        forked = os.fork()
        if forked == 0:
            passed = box.run(SQUARE, RIGHT).passed
            box.close()
            os._exit(0 if passed else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
        assert box.run(SQUARE, RIGHT).passed


def test_a_dead_server_is_replaced() -> None:
    with Sandbox(1, level="basic") as box:
        assert box._server is not None
        box._server.process.kill()
        box._server.process.wait()
        assert box.run(SQUARE, RIGHT).passed


def test_a_server_that_dies_under_way_is_an_error_and_not_a_hang() -> None:
    with Sandbox(1, level="basic") as box:
        assert box._server is not None
        process = box._server.process
        threading.Timer(0.3, lambda: os.kill(process.pid, signal.SIGKILL)).start()
        with pytest.raises(SandboxError, match="server"):
            box.run("while True: pass", ECHO, 30.0)
        assert box.run(SQUARE, RIGHT).passed


def test_threads_take_turns() -> None:
    with Sandbox(2, level="basic") as box:
        verdicts: list[bool] = []
        threads = [threading.Thread(target=lambda: verdicts.append(box.run(SQUARE, RIGHT).passed)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert verdicts == [True] * 6


def test_nothing_is_left_behind() -> None:
    hostile = ["while True: pass", "import os\nos._exit(0)", "x = bytearray(1 << 40)", "def f(", "raise SystemExit"]
    jobs = [(program, RIGHT) for program in hostile] + [(SQUARE, RIGHT)] * 25

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with Sandbox(2, level="basic") as box:
        box.run_many(jobs, 0.3)
        assert box._server is not None
        server = box._server.process.pid
        before, memory = open_files(), resident(server)
        for _ in range(5):
            assert sum(verdict.passed for verdict in box.run_many(jobs, 0.3)) == 25
        assert open_files() == before
        end = time.monotonic() + 10
        while resident(server) > memory + 2_000_000 and time.monotonic() < end:
            time.sleep(0.05)  # until the last one that was killed is gone
        assert resident(server) <= memory + 2_000_000
    assert not Path(f"/proc/{server}").exists()
    assert open_files() <= before - 1


def resident(pid: int) -> int:
    """Bytes, of the process and those below it."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident(int(child)) for child in below)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts what it runs in the background deaf to interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_what_is_under_way() -> None:
    with Sandbox(1, level="basic") as box:
        box.run(SQUARE, RIGHT)
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            box.run("while True: pass", ECHO, 30.0)
        assert time.monotonic() - start < 10
        assert box._server is None
        assert box.run(SQUARE, RIGHT).passed
