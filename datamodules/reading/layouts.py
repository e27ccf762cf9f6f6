"""Converts the tests of public programming data sets to the forms that the sandbox runs.

    {"input": "stdin text", "output": "stdout text"}
    {"call": "f", "args": […], "expected": …}
    {"assert": "Python source that is run after the program"}

The layout of a column is recognised by its content. Nothing is executed or unpickled to read it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Tests = tuple[Mapping[str, Any], ...]


def read_tests(value: Any, *, setup: str = "", entry_point: str = "", starter: str = "") -> Tests:
    """The tests in one column; none if it is empty.

    Args:
        value: value of the column: objects, texts, or a text in one of the layouts below.
        setup: source to run before each assertion.
        entry_point: name of the function under test.
        starter: code that a solution begins with; names the function if `entry_point` does not.

    Raises:
        ValueError: an unknown layout; the caller adds file, line and field to the message.
    """
    if value is None or value == "" or value == []:
        return ()
    if isinstance(value, str):
        content = from_json(value)
        if content is None:
            if not entry_point:
                return from_asserts(value, setup)
            if not re.search(r"^def check\(", value, re.MULTILINE):  # HumanEval
                raise ValueError("it defines no check(candidate)")
            return ({"assert": f"{value}\ncheck({entry_point})"},)
        value = content
    if isinstance(value, Mapping):
        return from_inputs_and_outputs(value, entry_point)
    if isinstance(value, Sequence) and all(isinstance(test, Mapping) for test in value):
        return from_cases(value, entry_point or _function_of(starter))
    if isinstance(value, Sequence) and all(isinstance(test, str) for test in value):
        return tuple(test for text in value for test in from_asserts(text, setup))
    raise ValueError("expected a list of objects, a list of assertions, or a text of them")


def from_asserts(text: str, setup: str = "") -> Tests:
    """MBPP: one test per assertion; other statements are repeated before every later assertion."""
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"neither JSON nor Python ({error})") from None
    before = [setup] if setup.strip() else []
    tests = []
    for statement in statements:
        source = ast.get_source_segment(text, statement) or ""
        if isinstance(statement, ast.Assert):
            tests.append({"assert": "\n".join((*before, source))})
        else:
            before.append(source)
    if not tests:
        raise ValueError("no assertion among its statements")
    return tuple(tests)


def from_inputs_and_outputs(content: Mapping[str, Any], name: str = "") -> Tests:
    """APPS and TACO: parallel lists; texts for a program, argument lists for the function `fn_name`.

    APPS wraps most results of functions in a list. They are unwrapped if each of them is a list of one.
    """
    inputs, outputs = content.get("inputs"), content.get("outputs")
    if not (isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs)):
        raise ValueError("expected inputs and outputs, two lists of the same length")
    name = str(content.get("fn_name") or name)
    if not name:
        return tuple({"input": _text(i), "output": _text(o)} for i, o in zip(inputs, outputs, strict=True))
    if all(isinstance(output, list) and len(output) == 1 for output in outputs):
        outputs = [output[0] for output in outputs]
    if not all(isinstance(args, list) for args in inputs):
        raise ValueError(f"expected a list of arguments for each call of {name}")
    return tuple({"call": name, "args": i, "expected": o} for i, o in zip(inputs, outputs, strict=True))


def from_cases(cases: Sequence[Mapping[str, Any]], name: str = "") -> Tests:
    """LiveCodeBench: objects with a `testtype`; a functional one has an argument in JSON on each line of its input.

    Objects without a `testtype` are in the sandbox's own forms.
    """
    tests: list[Mapping[str, Any]] = []
    for case in cases:
        kind = case.get("testtype")
        if kind is None:
            tests.append(case)
        elif kind == "stdin":
            tests.append({"input": case.get("input"), "output": case.get("output")})
        elif kind == "functional" and name:
            args = [json.loads(line) for line in str(case.get("input")).splitlines() if line.strip()]
            tests.append({"call": name, "args": args, "expected": json.loads(str(case.get("output")))})
        else:
            raise ValueError("no function is named for functional tests" if not name else f"unknown testtype {kind!r}")
    return tuple(tests)


def from_json(text: str) -> Any:
    """The value of a JSON text, `None` if it is none; raises ValueError for base64."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if content is None and re.fullmatch(r"[A-Za-z0-9+/=\s]{40,}", text):
        raise ValueError(
            "encoded (base64), perhaps a pickle, which could run any code when it is read: write it as JSON"
        )
    return content


def _text(value: Any) -> str:
    """An input or output; some data sets have a list of its lines."""
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if not isinstance(value, str):
        raise ValueError(f"expected inputs and outputs of texts, found {type(value).__name__}")
    return value


def _function_of(starter: str) -> str:
    names = re.findall(r"^\s*def (\w+)\(", starter, re.MULTILINE)
    return next((name for name in names if name != "__init__"), "")
