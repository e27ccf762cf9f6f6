"""What a job makes of messages from processes, without any process: lies, noise, silence."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from vibethinker.sandbox.cases import read
from vibethinker.sandbox.job import Job


def job_of(*tests: dict[str, Any], stop_early: bool = False) -> tuple[Job, list[dict[str, Any]]]:
    job = Job("program", read(tests), 1.0, stop_early, 1000)
    return job, job.next_stage()


CALLS = [{"call": "f", "args": [x], "expected": x * x} for x in (1, 2, 3)]
ASSERTS = [{"assert": f"x = {x}\nassert f(x) == x * x"} for x in (1, 2, 3)]


def test_no_expected_answer_is_sent_to_the_program() -> None:
    tests: list[dict[str, Any]] = [
        {"input": "2", "output": "4711"},
        {"call": "f", "args": [2], "expected": 4712},
        {"assert": "assert f(3) == 4713"},
        {"assert": "x = 3\nassert f(x) == 4714"},
    ]
    job, tasks = job_of(*tests)
    seen = [tasks]
    while not job.stage_is_over:
        kind = tasks[-1]["kind"]
        for at in range(2 if kind == "calls" else 1):
            job.receive({"at": at, "value": {"inputs": "4711", "calls": 4712 + at, "asserts": True}[kind]}, True)
        tasks = job.next_stage()
        if not tasks:
            break
        seen.append(tasks)
    assert [[task["kind"] for task in tasks] for tasks in seen] == [["inputs"], ["calls"], ["serve", "asserts"]]
    programs = [task for tasks in seen for task in tasks if "program" in task]
    assert len(programs) == 3
    assert not any("471" in str(task) for task in programs)
    assert job.verdict().passed


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        "passed",
        {},
        {"at": 0.0, "value": 1},
        {"at": True, "value": 1},
        {"at": 1, "value": 4},
        {"at": 0, "failed": ["passed", ""]},
        {"at": 0, "failed": ["error"]},
        {"at": 0, "failed": ["error", "x" * 10_000]},
        {"failed": [1, 2]},
    ],
)
def test_whoever_does_not_keep_to_the_protocol_has_crashed(message: Any) -> None:
    job, _ = job_of(*CALLS)
    job.receive(message, True)
    assert job.stage_is_over
    assert job.verdict().outcome == "crashed"
    assert job.verdict().score == 0


def test_a_program_that_serves_asserts_has_no_say() -> None:
    job, _ = job_of(*ASSERTS)
    job.receive({"at": 0, "value": True}, False)
    assert job.verdict().outcome == "crashed"
    job, _ = job_of(*ASSERTS)
    job.receive({"failed": ["error", "NameError: x"]}, False)
    assert (job.verdict().outcome, job.verdict().score) == ("error", 0)


@pytest.mark.parametrize("value", [1, "true", ["T"], None, False, {"at": 0}])
def test_only_true_passes_an_assert(value: Any) -> None:
    job, _ = job_of(ASSERTS[0])
    job.receive({"at": 0, "value": value}, True)
    assert not job.verdict().passed


def test_fraction_of_tests_and_early_stop() -> None:
    for stop_early, score in ((False, 2 / 3), (True, 1 / 3)):
        job, _ = job_of(*CALLS, stop_early=stop_early)
        for at, value in enumerate((1, 5, 9)):
            if not job.stage_is_over:
                job.receive({"at": at, "value": value}, True)
        assert job.next_stage() == []
        verdict = job.verdict()
        assert (verdict.score, verdict.outcome) == (score, "wrong")
        assert verdict.detail == "test 2: f(2) gave 5, not 4"


def test_a_case_of_several_calls_needs_all_of_them() -> None:
    job, tasks = job_of({"assert": "assert f(1) == 1\nassert f(2) == 4"}, {"assert": "assert f(3) == 9"})
    assert len(tasks[0]["questions"]) == 3
    for at, value in enumerate((7, 4, 9)):
        job.receive({"at": at, "value": value}, True)
    assert job.verdict().score == 0.5


@pytest.mark.parametrize(
    ("status", "cpu", "outcome"),
    [
        (signal.SIGXCPU, 5.0, "timeout"),
        (signal.SIGKILL, 9.0, "timeout"),
        (signal.SIGKILL, 0.1, "crashed"),
        (signal.SIGSEGV, 0.1, "crashed"),
        (0, 0.1, "crashed"),
        (3 << 8, 0.1, "crashed"),
    ],
)
def test_deaths(status: int, cpu: float, outcome: str) -> None:
    job, _ = job_of(*CALLS)
    job.receive({"at": 0, "value": 1}, True)
    job.died(status, cpu)
    assert job.verdict().outcome == outcome
    assert job.verdict().score == 1 / 3
    assert job.next_stage() == []


def test_what_is_no_answer_costs_nothing_to_show() -> None:
    huge = dict.fromkeys(map(str, range(500_000)))
    start = time.process_time()
    for test in (CALLS[0], {"input": "", "output": "x"}):
        job, _ = job_of(test)
        job.receive({"at": 0, "value": huge}, True)
        assert job.verdict().outcome == "wrong"
    assert time.process_time() - start < 0.2


def test_a_programs_words_fit_on_one_printable_line() -> None:
    job, _ = job_of(CALLS[0])
    job.receive({"at": 0, "failed": ["error", "X: a\nb\x1b[31m\ud800é"]}, True)
    assert job.verdict().detail == "X: a b [31m é"
