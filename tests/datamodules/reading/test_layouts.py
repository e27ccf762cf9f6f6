"""The layouts of public sets as tests of the sandbox, and rows of them as problems."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vibethinker.datamodules import CodeDataModule, DomainDataModule
from vibethinker.datamodules.reading.layouts import read_tests
from vibethinker.problems import SPLITS, Problem
from vibethinker.rewards.code_blocks import program_of
from vibethinker.sandbox import cases

SHARED = Path(os.environ.get("VIBETHINKER_SHARED", Path(__file__).resolve().parents[3].parent / "shared"))
MBPP = SHARED / "data" / "mbpp.jsonl"

CALL = {"call": "f", "args": [3], "expected": 9}
STREAM = {"input": "3\n", "output": "9\n"}


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def only(tmp_path: Path, row: dict[str, Any], **options: Any) -> Problem:
    """The one problem of a file, whichever split it falls into."""
    data = CodeDataModule(data=write(tmp_path / "set.jsonl", [row]), **options)
    (problem,) = (problem for split in SPLITS for problem in data._loaded[split])
    return problem


@pytest.mark.parametrize(
    ("value", "about", "tests"),
    [
        ([CALL, STREAM], {}, [CALL, STREAM]),
        (json.dumps([CALL]), {}, [CALL]),
        (None, {}, []),
        ("", {}, []),
        ([], {}, []),
        # APPS, TACO
        ('{"inputs": ["3\\n"], "outputs": ["9\\n"]}', {}, [STREAM]),
        ('{"inputs": [["3", "4"]], "outputs": [["9"]]}', {}, [{"input": "3\n4", "output": "9"}]),
        ('{"fn_name": "f", "inputs": [[3]], "outputs": [9]}', {}, [CALL]),
        ('{"fn_name": "f", "inputs": [[3]], "outputs": [[9]]}', {}, [CALL]),
        (
            '{"fn_name": "f", "inputs": [[3], [4]], "outputs": [[9], [9, 1]]}',
            {},
            [{"call": "f", "args": [3], "expected": [9]}, {"call": "f", "args": [4], "expected": [9, 1]}],
        ),
        # LiveCodeBench
        ('[{"input": "3\\n", "output": "9\\n", "testtype": "stdin"}]', {}, [STREAM]),
        (
            '[{"input": "3\\n[1, \\"a\\"]", "output": "9", "testtype": "functional"}]',
            {"starter": "class Solution:\n    def f(self, n: int, l: list) -> int:\n        "},
            [{"call": "f", "args": [3, [1, "a"]], "expected": 9}],
        ),
        # MBPP
        (
            ["assert f(3) == 9", "assert f(0) == 0"],
            {},
            [{"assert": "assert f(3) == 9"}, {"assert": "assert f(0) == 0"}],
        ),
        ("assert f(3) == 9\n", {"setup": "import math"}, [{"assert": "import math\nassert f(3) == 9"}]),
        (
            "x = f(\n  3)\nassert x == 9\nassert (x >\n 8)",
            {},
            [{"assert": "x = f(\n  3)\nassert x == 9"}, {"assert": "x = f(\n  3)\nassert (x >\n 8)"}],
        ),
        # HumanEval
        (
            "def check(candidate):\n    assert candidate(3) == 9\n",
            {"entry_point": "f"},
            [{"assert": "def check(candidate):\n    assert candidate(3) == 9\n\ncheck(f)"}],
        ),
    ],
)
def test_each_layout_becomes_the_sandboxs_own(value: Any, about: dict[str, str], tests: list[Any]) -> None:
    found = read_tests(value, **about)
    assert list(found) == tests
    if found:
        assert cases.read(found)[-1].test + 1 == len(tests)


PICKLED = base64.b64encode(zlib.compress(pickle.dumps(json.dumps([STREAM] * 9)))).decode()


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({}, "'tests'", "missing"),
        ({"tests": None}, "'tests'", "missing"),
        ({"tests": []}, "'tests'", "missing"),
        ({"tests": None, "answer": "5"}, "'tests'", "missing"),
        ({"tests": 5}, "'tests'", "expected a list of objects"),
        ({"tests": [5]}, "'tests'", "expected a list of objects"),
        ({"tests": "f(3) gives nine"}, "'tests'", "neither JSON nor Python"),
        ({"tests": "x = 3"}, "'tests'", "no assertion"),
        ({"tests": [{"inputs": "3"}]}, "'tests'", "test 1 is none of input/output"),
        ({"test_list": ["assert f(3) == 9", "f(3"]}, r"'tests' \(column 'test_list'\)", "neither JSON nor Python"),
        (
            {"test_list": ["assert True"], "test_setup_code": 3},
            r"'setup' \(column 'test_setup_code'\)",
            "expected text",
        ),
        ({"input_output": '{"inputs": [], "outputs": []}'}, r"'tests' \(column 'input_output'\)", "missing"),
        ({"input_output": '{"inputs": ["3"]}'}, r"'tests' \(column 'input_output'\)", "two lists of the same length"),
        ({"input_output": '{"inputs": [3], "outputs": ["9"]}'}, r"'tests' \(", "of texts, found int"),
        ({"input_output": '{"fn_name": "f", "inputs": [3], "outputs": [9]}'}, r"'tests' \(", "a list of arguments"),
        ({"test": "assert f(3)", "entry_point": "f"}, r"'tests' \(column 'test'\)", r"defines no check\(candidate\)"),
        (
            {"public_test_cases": '[{"input": "3", "output": "9", "testtype": "functional"}]'},
            r"'tests' \(column 'public_test_cases'\)",
            "no function is named",
        ),
        (
            {"public_test_cases": '[{"input": "3", "output": "9", "testtype": "other"}]', "starter_code": "def f(n):"},
            r"'tests' \(",
            "unknown testtype 'other'",
        ),
        (
            {"public_test_cases": json.dumps([{**STREAM, "testtype": "stdin"}]), "private_test_cases": PICKLED},
            r"'hidden_tests' \(column 'private_test_cases'\)",
            "encoded .* write it as JSON",
        ),
    ],
)
def test_a_row_without_usable_tests_is_named(tmp_path: Path, row: dict[str, Any], field: str, reason: str) -> None:
    good = {"prompt": "first", "tests": [CALL]}
    data = write(tmp_path / "set.jsonl", [good, {"prompt": "p", **row}])
    fields = {} if "tests" in row or not row else {"tests": next(c for c in row if c.startswith(("test", "in", "pub")))}
    if fields:
        data = write(tmp_path / "set.jsonl", [{"prompt": "p", **row}])
    line = 1 if fields else 2
    with pytest.raises(ValueError, match=rf"set\.jsonl, line {line}, field {field}.*{reason}"):
        CodeDataModule(data=data).setup("fit")


def test_reading_runs_nothing(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    packed = base64.b64encode(zlib.compress(pickle.dumps(Trap()))).decode()
    with pytest.raises(ValueError, match="encoded"):
        read_tests(packed)
    read_tests(f"assert __import__('os').mkdir({str(tmp_path / 'sprung')!r}) is None")
    assert not (tmp_path / "sprung").exists()


def test_apps_and_taco_rows(tmp_path: Path) -> None:
    row = {
        "problem_id": 7,
        "question": "Square it.",
        "solutions": json.dumps(["print(int(input())**2)", "n = int(input())\nprint(n * n)\n"]),
        "input_output": json.dumps({"inputs": ["3\n"], "outputs": ["9\n"]}),
        "starter_code": "",
        "difficulty": "interview",
    }
    problem = only(tmp_path, row)
    assert (problem.id, problem.domain, problem.prompt, problem.answer) == ("7", "code", "Square it.", None)
    assert problem.tests == (STREAM,)
    assert problem.solutions == (
        "```python\nprint(int(input())**2)\n```",
        "```python\nn = int(input())\nprint(n * n)\n```",
    )


def test_livecodebench_rows(tmp_path: Path) -> None:
    test = {"input": "3", "output": "9", "testtype": "functional"}
    row = {
        "question_content": "Square it.",
        "question_id": "abc",
        "starter_code": "class Solution:\n    def f(self, n: int) -> int:\n        ",
        "public_test_cases": json.dumps([test]),
        "private_test_cases": json.dumps([{**test, "input": "4", "output": "16"}]),
    }
    problem = only(tmp_path, row)
    assert problem.id == "abc"
    assert problem.tests == (CALL, {"call": "f", "args": [4], "expected": 16})


def test_mbpp_rows_under_their_own_names(tmp_path: Path) -> None:
    row = {
        "task_id": 11,
        "text": "Square it.",
        "code": "def f(n):\r\n  return n*n",
        "test_list": ["assert f(3) == 9"],
        "test_setup_code": "",
    }
    problem = only(tmp_path, row, fields={"prompt": "text", "solutions": "code"})
    assert (problem.id, problem.tests) == ("11", ({"assert": "assert f(3) == 9"},))
    assert program_of(problem.solutions[0]) == "def f(n):\n  return n*n"


def test_humaneval_rows(tmp_path: Path) -> None:
    row = {
        "task_id": "HumanEval/0",
        "prompt": 'def f(n):\n    """Square it."""\n',
        "entry_point": "f",
        "canonical_solution": "    return n*n\n",
        "test": "METADATA = {}\ndef check(candidate):\n    assert candidate(3) == 9\n",
    }
    problem = only(tmp_path, row)
    assert problem.prompt == row["prompt"]
    assert problem.tests == ({"assert": f"{row['test']}\ncheck(f)"},)
    assert program_of(problem.solutions[0]) == 'def f(n):\n    """Square it."""\n    return n*n'


def test_mathematics_and_code_from_one_file(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"question {i}", "answer": "1", "domain": "algebra"}
        if i % 2
        else {"prompt": f"question {i}", "tests": [CALL], "domain": "code"}
        for i in range(80)
    ]
    data = DomainDataModule(["algebra", "code"], data=write(tmp_path / "set.jsonl", rows))
    assert all((problem.tests is None) == (problem.domain == "algebra") for problem in data.problems("train"))
    rows[2] = {"prompt": "p", "domain": "code"}
    data = DomainDataModule(["algebra", "code"], data=write(tmp_path / "set.jsonl", rows))
    with pytest.raises(ValueError, match="line 3, field 'tests': missing"):
        data.setup("fit")


@pytest.mark.skipif(not MBPP.is_file(), reason="the real data is not here")
def test_mbpp_loads_completely() -> None:
    data = CodeDataModule(data=str(MBPP))
    problems = [problem for split in SPLITS for problem in data._loaded[split]]
    assert len(problems) == 974
    assert all(problem.tests and problem.answer is None and problem.domain == "code" for problem in problems)
    assert sum(len(problem.tests or ()) for problem in problems) > 2900
    assert all(program_of(problem.solutions[0]) for problem in problems)
    with_setup = [p for p in problems if p.tests and "\n" in p.tests[0]["assert"].split("assert")[0]]
    assert with_setup
