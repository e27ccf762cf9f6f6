"""Speed and steadiness of the sandbox.

    python benchmarks/sandbox.py [FILE.jsonl …]       # throughput against an interpreter started for each program
    python benchmarks/sandbox.py --soak 10000         # many programs, a third of them hostile
    python benchmarks/sandbox.py --resident 4         # beside a process of that many GiB

A few programs written here are always run, then the solutions of each file of programming problems, in any layout
that `CodeDataModule` reads (MBPP and HumanEval, say). Both sides run two programs at a time, in rounds that take turns,
and each figure is a median over the rounds. The other side is `python -I -S -`, the fastest start there is, with
program and asserts on standard input and no protection; the time of plain `python -`, with whatever the environment's
site-packages add, is shown beside it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vibethinker.datamodules.reading.problem_files import load_problems, readers
from vibethinker.rewards.code_blocks import program_of
from vibethinker.sandbox import Sandbox

Job = tuple[str, list[dict[str, Any]]]

ORDINARY = (
    ("def f(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n", "f", (10, 55)),
    ("def f(s):\n    return ' '.join(w[::-1] for w in s.split())\n", "f", ("ab cd", "ba dc")),
    ("def f(a):\n    return sorted(set(a), reverse=True)[:2]\n", "f", ([3, 1, 4, 1, 5], [5, 4])),
    ("from collections import Counter\ndef f(s):\n    return Counter(s).most_common(1)[0][0]\n", "f", ("banana", "a")),
    ("def f(n):\n    return n > 1 and all(n % d for d in range(2, int(n ** 0.5) + 1))\n", "f", (97, True)),
    ("class Stack:\n    def __init__(self): self._items = []\n    def push(self, x): self._items.append(x)\n"
     "    def pop(self): return self._items.pop()\ndef f(s):\n    stack = Stack()\n    for c in s: stack.push(c)\n"
     "    return ''.join(stack.pop() for _ in s)\n", "f", ("abc", "cba")),
    ("import math\ndef f(a, b):\n    return a * b // math.gcd(a, b)\n", "f", (4, 6, 12)),
    ("def f(grid):\n    return [list(row) for row in zip(*grid)]\n", "f", ([[1, 2], [3, 4]], [[1, 3], [2, 4]])),
)  # fmt: skip
HOSTILE = (
    "import os\nos._exit(0)",
    "x = []\nwhile True: x.append(bytearray(1 << 26))",
    "import os\nwhile True: os.fork()",
    "print(open('/etc/passwd').read())",
    "class E:\n    def __eq__(self, o): return True\ndef f(*a): return E()",
    "raise SystemExit(0)",
    "while True: print('x' * 1000)",
    "import socket\nsocket.create_connection(('127.0.0.1', 22))",
    "def f(*a): return f(*a)",
    "().__class__.__base__.__subclasses__()",
)


def ordinary(split: bool) -> list[Job]:
    """The programs above with a test each: calls on plain data, or asserts that need a process of their own."""
    jobs: list[Job] = []
    for program, name, (*args, expected) in ORDINARY:
        call = f"{name}({', '.join(map(repr, args))})"
        source = f"for _ in range(1):\n    assert {call} == {expected!r}" if split else f"assert {call} == {expected!r}"
        jobs.append((program, [{"assert": source}]))
    return jobs


def read(path: Path) -> list[Job]:
    """The first solution of each problem, with all of its tests."""
    splits = load_problems(readers(str(path), ["code"], {}, tests_needed=True))
    problems = [p for split in splits.values() for p in split]
    return [
        (program, [dict(test) for test in problem.tests])
        for problem in problems
        if problem.tests and problem.solutions and (program := program_of(problem.solutions[0]))
    ]


def in_subprocesses(jobs: Sequence[Job], *flags: str) -> int:
    """How many pass in an interpreter each."""

    def passes(job: Job) -> bool:
        program, tests = job
        source = "\n".join([program, *(test["assert"] for test in tests)])
        return subprocess.run([sys.executable, *flags, "-"], input=source.encode(), capture_output=True).returncode == 0

    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(passes, jobs))


def throughput(jobs: Sequence[Job], rounds: int, name: str) -> None:
    with Sandbox(2) as box:
        sides: dict[str, Callable[[], int]] = {
            "sandbox": lambda: sum(verdict.passed for verdict in box.run_many(jobs, 20.0, stop_early=True)),
            "python -I -S": lambda: in_subprocesses(jobs, "-I", "-S"),
            "python": lambda: in_subprocesses(jobs),
        }
        rates: dict[str, list[float]] = {side: [] for side in sides}
        passed: dict[str, int] = {}
        for _ in range(rounds):
            for side, run in sides.items():
                start = time.perf_counter()
                passed[side] = run()
                rates[side].append(len(jobs) / (time.perf_counter() - start))
        level = box.reached
    rate = [f"{statistics.median(values):.0f}" for values in rates.values()]
    ratios = [a / b for a, b in zip(rates["sandbox"], rates["python -I -S"], strict=True)]
    ratio = f"{statistics.median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})"
    print(f"| {' | '.join((name, str(len(jobs)), str(passed['sandbox']), *rate, ratio, level))} |", flush=True)


def soak(count: int) -> None:
    """Many programs in a row, and what they leave behind."""
    good, bad = itertools.cycle(ordinary(False)), itertools.cycle(HOSTILE)
    with Sandbox(2) as box:
        box.run_many([next(good) for _ in range(10)])
        time.sleep(0.5)  # until the last of them have ended
        assert box._server is not None
        server = box._server.process.pid
        before = counts(server)
        outcomes: Counter[tuple[bool, str]] = Counter()
        start = time.perf_counter()
        for _ in range(0, count, 300):
            hostile = [i % 3 == 0 for i in range(min(300, count))]
            jobs = [(next(bad), next(good)[1]) if h else next(good) for h in hostile]
            for h, verdict in zip(hostile, box.run_many(jobs, 2.0, stop_early=True), strict=True):
                outcomes[h, verdict.outcome] += 1
        seconds = time.perf_counter() - start
        time.sleep(0.5)
        after = counts(server)
    print(f"{outcomes.total()} programs in {seconds:.0f} s")
    for h, name in ((False, "ordinary"), (True, "hostile")):
        print(f"  {name}: {', '.join(f'{n} {o}' for (x, o), n in sorted(outcomes.items()) if x == h)}")
    for name, value in before.items():
        print(f"  {name}: {value} before, {after[name]} after")


def counts(server: int) -> dict[str, int]:
    family = [server]
    for pid in family:
        family += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in family)
    return {
        "processes of the sandbox": len(family),
        "files open in the host": len(list(Path("/proc/self/fd").iterdir())),
        "files open in the server": len(list(Path(f"/proc/{family[-1]}/fd").iterdir())),
        "resident MB of the sandbox": pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000,
        "resident MB of the host": int(Path("/proc/self/statm").read_text().split()[1])
        * os.sysconf("SC_PAGE_SIZE")
        // 1_000_000,
    }


def resident(gibibytes: float, rounds: int) -> None:
    """The same work beside a small and a large host, in turns."""
    jobs = ordinary(False) * 25
    rates: dict[bool, list[float]] = {False: [], True: []}
    with Sandbox(2) as box:
        for _ in range(rounds):
            for large in (False, True):
                block = bytearray(b"x") * int(gibibytes * 2**30) if large else None
                start = time.perf_counter()
                box.run_many(jobs)
                rates[large].append(len(jobs) / (time.perf_counter() - start))
                del block
    small, big = (statistics.median(rates[large]) for large in (False, True))
    print(
        f"{small:.0f} programs/s in a small process, {big:.0f} in one with {gibibytes:g} GiB touched: {big / small:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--soak", type=int, metavar="N", help="programs in a row")
    parser.add_argument("--resident", type=float, metavar="GiB")
    options = parser.parse_args()
    if options.soak:
        soak(options.soak)
    elif options.resident:
        resident(options.resident, options.rounds)
    else:
        print("| programs | number | passed | sandbox, programs/s | `python -I -S -` | `python -` | ratio | level |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        throughput(ordinary(False) * 12, options.rounds, "plain data")
        throughput(ordinary(True) * 12, options.rounds, "split processes")
        for file in options.files:
            throughput(read(file), options.rounds, file.stem)


if __name__ == "__main__":
    main()
