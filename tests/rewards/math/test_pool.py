"""Processes that hang, die, are copied, or outlive their parent."""

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vibethinker.rewards.math import MathReward
from vibethinker.rewards.math.pool import SymbolicWorkers, Verdict
from vibethinker.rewards.math.worker import MEMORY_LIMIT

pytestmark = pytest.mark.slow

HANGS = ("f(x)+(x+y+2)^{3000}", "f(x)+(x+y+1)^{3000}")  # f is unknown: Math-Verify expands both
SAME = (r"\sqrt{12}", r"2\sqrt{3}")
OTHER = (r"\sqrt{13}", r"2\sqrt{3}")


@pytest.fixture(scope="module")
def workers() -> Iterator[SymbolicWorkers]:
    workers = SymbolicWorkers(workers=1, timeout=1.0)
    yield workers
    workers.close()


@pytest.fixture(autouse=True)
def fresh(workers: SymbolicWorkers) -> None:
    workers.timeouts, workers.crashes, workers.timeout = 0, 0, 1.0
    workers._cache.clear()


def pids(workers: SymbolicWorkers) -> list[int]:
    return [worker.process.pid for worker in workers._pool]


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_a_pair_that_hangs_costs_only_itself(workers: SymbolicWorkers) -> None:
    assert workers.verdicts([SAME, HANGS, OTHER, SAME]) == [True, "timeout", False, True]
    assert (workers.timeouts, workers.crashes) == (1, 0)
    assert workers.verdicts([]) == []


def test_killed_from_outside(workers: SymbolicWorkers) -> None:
    assert workers.verdicts([SAME]) == [True]
    (idle,) = pids(workers)
    (fork,) = children(idle)
    os.kill(idle, signal.SIGKILL)  # between two batches: nothing is lost
    assert wait_until(lambda: not is_alive(fork))  # until then it answers, and dies in the next batch
    assert workers.verdicts([SAME, OTHER]) == [True, False]
    assert (workers.timeouts, workers.crashes) == (0, 0)

    def kill_twice() -> None:
        victims: list[object] = []
        while len(victims) < 2:
            for worker in [*workers._pool]:
                if worker not in [*victims, *workers._idle] and children(worker.process.pid):  # loaded and busy
                    victims.append(worker)
                    worker.process.kill()
            time.sleep(0.01)

    workers.timeout = 20.0
    killer = threading.Thread(target=kill_twice, daemon=True)
    killer.start()
    assert workers.verdicts([HANGS, SAME]) == ["crashed", True]  # tried twice, then given up
    killer.join(20.0)
    assert not killer.is_alive()
    assert (workers.timeouts, workers.crashes) == (0, 1)


def test_a_pause_changes_no_verdict(workers: SymbolicWorkers) -> None:
    """A busy machine is one where a process stands still: only its own CPU time counts."""
    assert workers.verdicts([SAME]) == [True]
    (group,) = pids(workers)
    os.killpg(group, signal.SIGSTOP)
    waker = threading.Timer(2 * workers.timeout, os.killpg, (group, signal.SIGCONT))
    waker.start()
    assert workers.verdicts([(r"\sqrt{20}", r"2\sqrt{5}")]) == [True]
    assert (workers.timeouts, workers.crashes) == (0, 0)
    assert pids(workers) == [group]


def test_the_loaded_process_survives_what_its_fork_does_not(workers: SymbolicWorkers) -> None:
    assert workers.verdicts([SAME]) == [True]
    before = pids(workers)
    assert workers.verdicts([HANGS, OTHER]) == ["timeout", False]
    assert pids(workers) == before
    (fork,) = children(before[0])
    os.kill(fork, signal.SIGKILL)  # not by its limit: what state is left nobody knows
    assert workers.verdicts([(r"\sqrt{20}", r"2\sqrt{5}")]) == [True]
    assert (workers.timeouts, workers.crashes) == (1, 0)


def test_works_outside_the_main_thread(workers: SymbolicWorkers) -> None:
    verdicts: list[Verdict] = []
    thread = threading.Thread(target=lambda: verdicts.extend(workers.verdicts([SAME, OTHER])))
    thread.start()
    thread.join()
    assert verdicts == [True, False]


def test_copies_and_forks_start_their_own() -> None:
    with MathReward(timeout=20.0) as reward:
        assert reward.compare([SAME]) == [True]
        mine = pids(reward._symbolic)
        for twin in (copy.deepcopy(reward), pickle.loads(pickle.dumps(reward))):
            assert not twin._symbolic._pool
            assert twin._symbolic.timeout == 20.0
        forked = os.fork()
        if forked == 0:
            right = reward.compare([OTHER]) == [False] and not set(pids(reward._symbolic)) & set(mine)
            reward.close()
            os._exit(0 if right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
        assert pids(reward._symbolic) == mine
        assert all(map(is_alive, mine))
        assert reward.compare([OTHER, SAME]) == [False, True]


def test_a_repeated_pair_is_looked_up() -> None:
    with MathReward() as reward:
        assert reward.compare([SAME, OTHER, SAME]) == [True, False, True]
        processes = pids(reward._symbolic)
        reward.close()
        assert not any(map(is_alive, processes))
        assert reward.compare([OTHER, SAME]) == [False, True]
        assert not reward._symbolic._pool


PARENT = r"""
import os, signal, threading, time
from vibethinker.rewards.math.pool import SymbolicWorkers

busy, idle = SymbolicWorkers(1, timeout=1.0), SymbolicWorkers(1, timeout=1.0)
for workers in (busy, idle):
    workers.verdicts([(r"\sqrt{8}", r"2\sqrt{2}")])
print(busy._pool[0].process.pid, idle._pool[0].process.pid, flush=True)
threading.Thread(target=busy.verdicts, args=([("f(x)+(x+y+2)^{3000}", "f(x)+(x+y+1)^{3000}")],)).start()
while busy._idle:
    time.sleep(0.01)
time.sleep(0.2)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_worker_outlives_its_parent() -> None:
    parent = subprocess.run([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL
    orphans = [int(pid) for pid in parent.stdout.split()]
    assert len(orphans) == 2
    assert wait_until(lambda: not any(map(is_alive, orphans)))


def test_memory_is_limited(workers: SymbolicWorkers) -> None:
    workers.verdicts([SAME])
    limits = Path(f"/proc/{pids(workers)[0]}/limits").read_text()
    assert limits.split("Max address space")[1].split()[0] == str(MEMORY_LIMIT)


def test_a_broken_installation_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('broken on purpose')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with MathReward() as reward, pytest.raises(RuntimeError, match="do not start: ImportError: broken on purpose"):
        reward.compare([SAME])


def test_workers_that_die_at_birth_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "math_verify.py").write_text("import os; os._exit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with MathReward() as reward, pytest.raises(RuntimeError, match="do not start: killed or too slow"):
        reward.compare([SAME])
