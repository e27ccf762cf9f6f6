"""What a run makes of what processes say, without any process: lies, noise, silence."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from vibethinker.sandbox.cases import read
from vibethinker.sandbox.job import Run


def run_of(*tests: dict[str, Any], stop_early: bool = False) -> tuple[Run, list[dict[str, Any]]]:
    run = Run("program", read(tests), 1.0, stop_early, 1000)
    return run, run.next_stage()


CALLS = [{"call": "f", "args": [x], "expected": x * x} for x in (1, 2, 3)]
JUDGED = [{"assert": f"x = {x}\nassert f(x) == x * x"} for x in (1, 2, 3)]


def test_no_expected_answer_is_sent_to_the_program() -> None:
    tests: list[dict[str, Any]] = [
        {"input": "2", "output": "4711"},
        {"call": "f", "args": [2], "expected": 4712},
        {"assert": "assert f(3) == 4713"},
        {"assert": "x = 3\nassert f(x) == 4714"},
    ]
    run, jobs = run_of(*tests)
    seen = [jobs]
    while not run.stage_is_over:
        kind = jobs[-1]["kind"]
        for at in range(2 if kind == "calls" else 1):
            run.hear({"at": at, "value": {"inputs": "4711", "calls": 4712 + at, "judge": True}[kind]}, True)
        jobs = run.next_stage()
        if not jobs:
            break
        seen.append(jobs)
    assert [[job["kind"] for job in jobs] for jobs in seen] == [["inputs"], ["calls"], ["serve", "judge"]]
    programs = [job for jobs in seen for job in jobs if "program" in job]
    assert len(programs) == 3
    assert not any("471" in str(job) for job in programs)
    assert run.verdict()["passed"]


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
    run, _ = run_of(*CALLS)
    run.hear(message, True)
    assert run.stage_is_over
    assert run.verdict()["outcome"] == "crashed"
    assert run.verdict()["score"] == 0


def test_a_program_that_serves_a_judge_has_no_say() -> None:
    run, _ = run_of(*JUDGED)
    run.hear({"at": 0, "value": True}, False)
    assert run.verdict()["outcome"] == "crashed"
    run, _ = run_of(*JUDGED)
    run.hear({"failed": ["error", "NameError: x"]}, False)
    assert (run.verdict()["outcome"], run.verdict()["score"]) == ("error", 0)


@pytest.mark.parametrize("value", [1, "true", ["T"], None, False, {"at": 0}])
def test_only_the_truth_passes_a_judged_test(value: Any) -> None:
    run, _ = run_of(JUDGED[0])
    run.hear({"at": 0, "value": value}, True)
    assert not run.verdict()["passed"]


def test_share_of_tests_and_early_stop() -> None:
    for stop_early, score in ((False, 2 / 3), (True, 1 / 3)):
        run, _ = run_of(*CALLS, stop_early=stop_early)
        for at, value in enumerate((1, 5, 9)):
            if not run.stage_is_over:
                run.hear({"at": at, "value": value}, True)
        assert run.next_stage() == []
        verdict = run.verdict()
        assert (verdict["score"], verdict["outcome"]) == (score, "wrong")
        assert verdict["detail"] == "test 2: f(2) gave 5, not 4"


def test_a_case_of_several_calls_needs_all_of_them() -> None:
    run, jobs = run_of({"assert": "assert f(1) == 1\nassert f(2) == 4"}, {"assert": "assert f(3) == 9"})
    assert len(jobs[0]["calls"]) == 3
    for at, value in enumerate((7, 4, 9)):
        run.hear({"at": at, "value": value}, True)
    assert run.verdict()["score"] == 0.5


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
    run, _ = run_of(*CALLS)
    run.hear({"at": 0, "value": 1}, True)
    run.died(status, cpu)
    assert run.verdict()["outcome"] == outcome
    assert run.verdict()["score"] == 1 / 3
    assert run.next_stage() == []


def test_what_is_no_answer_costs_nothing_to_show() -> None:
    huge = dict.fromkeys(map(str, range(500_000)))
    start = time.process_time()
    for test in (CALLS[0], {"input": "", "output": "x"}):
        run, _ = run_of(test)
        run.hear({"at": 0, "value": huge}, True)
        assert run.verdict()["outcome"] == "wrong"
    assert time.process_time() - start < 0.2


def test_a_programs_words_fit_on_one_printable_line() -> None:
    run, _ = run_of(CALLS[0])
    run.hear({"at": 0, "failed": ["error", "X: a\nb\x1b[31m\ud800é"]}, True)
    assert run.verdict()["detail"] == "X: a b [31m é"
