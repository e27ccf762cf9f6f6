"""The embedded code problems: every expected value and every solution against a reading of the prompt alone."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from tests.support.code_oracles import ORACLES
from vibethinker.datamodules.generators import DIFFICULTIES, FAMILIES, generate
from vibethinker.metrics.program_signature import program_signature
from vibethinker.problems import CODE_INSTRUCTION, INSTRUCTION, Problem
from vibethinker.rewards.code_blocks import program_of

NAMES = [family.__name__ for family in FAMILIES["code"]]


def sampled(name: str, difficulty: int, count: int = 60) -> list[Problem]:
    turns = len(NAMES)
    return [
        generate("code", "train", NAMES.index(name) + turns * i, difficulty=difficulty, seed=7) for i in range(count)
    ]


def passes(program: str, problem: Problem) -> bool:
    """A trusted program; what a model writes runs in the sandbox."""
    names: dict[str, Any] = {}
    exec(program, names)
    assert problem.tests is not None
    results = [names[test["call"]](*test["args"]) for test in problem.tests]
    return all(
        type(r) is type(t["expected"]) and r == t["expected"] for r, t in zip(results, problem.tests, strict=True)
    )


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("name", NAMES)
def test_expected_values_and_solutions_agree_with_the_prompt(name: str, difficulty: int) -> None:
    for problem in sampled(name, difficulty):
        function = ORACLES[name](problem.prompt)
        assert problem.tests is not None
        for test in problem.tests:
            assert function(*test["args"]) == test["expected"], problem
        assert len(problem.solutions) >= 2
        for solution in problem.solutions:
            program = program_of(solution)
            assert program is not None
            assert solution == f"```python\n{program}\n```"
            assert passes(program, problem), problem


@pytest.mark.parametrize("name", NAMES)
def test_solutions_are_different_programs(name: str) -> None:
    for problem in sampled(name, 2, 200):
        signatures = {program_signature(solution) for solution in problem.solutions}
        assert len(signatures) == len(problem.solutions)
        assert None not in signatures


@pytest.mark.parametrize("name", NAMES)
def test_no_constant_and_no_neighbour_passes(name: str) -> None:
    """Neither a value that is always the same, nor the argument itself, nor a program for other numbers."""
    for difficulty in DIFFICULTIES:
        problems = sampled(name, difficulty)
        for problem in problems:
            tests = problem.tests
            assert tests is not None
            assert 4 <= len(tests) <= 6
            assert len({repr(test["args"]) for test in tests}) >= 4, problem
            for value in [test["expected"] for test in tests]:
                assert sum(test["expected"] == value for test in tests) <= len(tests) - 2, problem
            assert any(test["args"][0] != test["expected"] for test in tests)
        for problem, other in itertools.pairwise(problems):
            if problem.id != other.id:
                program = program_of(other.solutions[0])
                assert program is not None
                assert not passes(program, problem), (problem.prompt, other.prompt)


def test_shown_points_are_not_asked() -> None:
    for name in ("points", "parabola"):
        for problem in sampled(name, 2):
            shown = set(map(int, re.findall(r"f\((\d+)\)=", problem.prompt)))
            assert len(shown) == 2
            assert problem.tests is not None
            assert not shown & {test["args"][0] for test in problem.tests}


def test_the_same_problem_has_the_same_tests() -> None:
    seen: dict[str, Any] = {}
    again = 0
    for index in range(6000):
        problem = generate("code", "train", index, difficulty=1)
        again += problem.id in seen
        assert seen.setdefault(problem.id, problem.tests) == problem.tests
    assert again > 100


def test_a_problem_with_tests_asks_for_a_program() -> None:
    problem = generate("code", "train", 0)
    assert problem.messages() == [{"role": "user", "content": f"{problem.prompt}\n{CODE_INSTRUCTION}"}]
    assert generate("algebra", "train", 0).messages()[0]["content"].endswith(f"\n{INSTRUCTION}")
    assert problem.messages("Go.")[0]["content"] == f"{problem.prompt}\nGo."
    assert problem.messages("")[0]["content"] == problem.prompt


@pytest.mark.parametrize(
    ("problem", "shown"),
    [
        (Problem("1", "algebra", "p", "5"), "5"),
        (Problem("1", "code", "p", tests=({"call": "f", "args": [3, "a"], "expected": [1]},)), "f(3, 'a') = [1], …"),
        (Problem("1", "code", "p", tests=({"input": "3\n", "output": "9\n"},)), "'3\\n' prints '9\\n', …"),
        (Problem("1", "code", "p", tests=({"assert": "assert f(3) == 9"},)), "assert f(3) == 9, …"),
    ],
)
def test_what_is_right_in_one_line(problem: Problem, shown: str) -> None:
    assert problem.expected == shown
