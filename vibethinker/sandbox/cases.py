"""Tests of a program as cases, with what is asked of it and what answer is right; only the host knows the answers.

Tests come in three forms:
    {"input": "stdin text", "output": "stdout text"}
    {"call": "f", "args": […], "kwargs": {…}, "expected": …}
    {"assert": "Python source that is run after the program"}
Most sources of the last form only compare calls on literals with literals. Those become calls (`as_calls`), so that
only the others need a process of their own (`assert_tests`).
"""

from __future__ import annotations

import ast
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from vibethinker.sandbox import plain_data
from vibethinker.sandbox.plain_data import Encoded

TOLERANCE: Final = 1e-6  # relative and absolute, for floats in outputs and in the results of calls
_UNKNOWN: Final = (ValueError, TypeError, ArithmeticError, LookupError, RecursionError)  # of data in no known form

Test = Mapping[str, Any]

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = 120


@dataclass(frozen=True)
class InputCase:
    """An input and the right output, for the test of number `test`."""

    form: ClassVar[str] = "inputs"
    test: int
    question: str
    output: str

    def objection(self, given: Any) -> str | None:
        """The fault of an answer in one line, or `None` for a right one."""
        if not isinstance(given, str):
            return "its process gave no text"
        if same_output(self.output, given):
            return None
        return f"printed {_shortened.repr(given)}, not {_shortened.repr(self.output)}"


@dataclass(frozen=True)
class CallCase:
    """A call of the program's function and the right result, all encoded as `plain_data`.

    Attributes:
        test: number of the test, which may have several calls.
        name: of the function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        expected: the right result.
        check: how the result is compared: as data (`data`), exactly as `==` does (`equal`), or by its truth.
    """

    form: ClassVar[str] = "calls"
    test: int
    name: str
    args: Encoded
    kwargs: Encoded
    expected: Encoded
    check: Literal["data", "equal", "true", "false"] = "data"

    @property
    def question(self) -> list[Any]:
        """The call as the program's process receives it."""
        return [self.name, self.args, self.kwargs]

    def objection(self, given: Any) -> str | None:
        """The fault of an answer in one line, or `None` for a right one."""
        try:
            if self.check in ("true", "false"):
                right = _truth(given) is (self.check == "true")
            else:
                right = plain_data.same(self.expected, given, TOLERANCE if self.check == "data" else 0.0)
        except _UNKNOWN:
            right = False
        if right:
            return None
        wanted = {"true": "something true", "false": "something false"}.get(self.check) or _show(self.expected)
        return f"{self.name}({', '.join(map(_show, self.args[1:]))}) gave {_show(given)}, not {wanted}"


@dataclass(frozen=True)
class AssertCase:
    """A source that asserts, run by a process that holds it and not the program."""

    form: ClassVar[str] = "asserts"
    test: int
    question: str

    def objection(self, given: Any) -> str | None:
        """The fault of an answer in one line, or `None` for a right one."""
        return None if given is True else "its test did not pass"


Case = InputCase | CallCase | AssertCase


def read(tests: Sequence[Test]) -> list[Case]:
    """Checks tests and makes cases of them, one or several each.

    Raises:
        ValueError: no tests, or one of an unknown form or with a field of the wrong type; names it by its number.
    """
    if not tests:
        raise ValueError("a program needs at least one test")
    return [case for number, test in enumerate(tests) for case in _cases(number, test)]


def _cases(number: int, test: Test) -> Sequence[Case]:
    where = f"test {number + 1}"
    if not isinstance(test, Mapping):
        raise ValueError(f"{where} must be a mapping, got {type(test).__name__}")
    keys = set(test)
    for key in keys & {"input", "output", "assert", "call"}:
        if not isinstance(test[key], str):
            raise ValueError(f"{where}: {key} must be a text, got {type(test[key]).__name__}")
    if keys == {"input", "output"}:
        return [InputCase(number, test["input"], test["output"])]
    if keys == {"assert"}:
        return as_calls(test["assert"], number) or [AssertCase(number, test["assert"])]
    if {"call", "expected"} <= keys <= {"call", "args", "kwargs", "expected"}:
        parts = list(test.get("args", [])), dict(test.get("kwargs", {})), test["expected"]
        try:
            return [CallCase(number, test["call"], *map(plain_data.encode, parts))]
        except plain_data.NotPlainDataError as error:
            raise ValueError(f"{where}: {error}") from None
    raise ValueError(f"{where} is none of input/output, call/args/expected, assert: it has {', '.join(sorted(keys))}")


def _truth(given: Encoded) -> bool:
    """Truth of encoded data; an object that is no plain data is true."""
    if not isinstance(given, list):
        return bool(given)
    if given[0] in plain_data.COLLECTIONS:
        return len(given) > 1
    return bool(plain_data.decode(given, lambda _: True))


def _show(given: Any) -> str:
    """Data as Python writes it, shortened; not decoded, since it may come from a program."""
    if isinstance(given, dict):  # no encoded data, and `repr` would sort it
        return "an object"
    if not isinstance(given, list):
        return _shortened.repr(given)
    marks = {"l": "[]", "t": "()", "d": "{}", "s": "{}", "o": "an object"}.get(str(given[0]) if given else "", "<>")
    if marks == "an object":
        return marks
    items = ["…" if isinstance(item, list) and len(item) > 4 else _show(item) for item in given[1:6]]
    return f"{marks[0]}{', '.join(items)}{', …' if len(given) > 6 else ''}{marks[1]}"


# Outputs


def same_output(expected: str, given: str) -> bool:
    """True of an output of the same lines of tokens, whatever the white space; decimals may differ by `TOLERANCE`."""
    a, b = ([line.split() for line in text.splitlines() if line.strip()] for text in (expected, given))
    return a == b or (
        len(a) == len(b) and all(len(x) == len(y) and all(map(_same_token, x, y)) for x, y in zip(a, b, strict=True))
    )


def _same_token(expected: str, given: str) -> bool:
    if expected == given:
        return True
    if len(given) > 400 or not any(mark in expected.lower() for mark in (".", "e-", "e+")):  # 1e5 may be hexadecimal
        return False
    try:
        a, b = float(expected), float(given)
    except ValueError:
        return False
    return math.isfinite(a) and math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


# Asserts


def as_calls(source: str, test: int = 0) -> list[CallCase] | None:
    """The calls to which a source of asserts comes down, or `None` when it is more than that.

    It may have `assert f(…) == …`, `assert f(…)`, `assert not f(…)` and comparisons by `is None`, with literals for the
    dots, at the top or in a `check(candidate)` that is called once at the end.
    """
    try:
        names: dict[str, str] = {}
        body = _of_check(ast.parse(source).body, names)
        return [_call(statement, names, test) for statement in body if not _is_idle(statement)] or None
    except (SyntaxError, MemoryError, *_UNKNOWN):
        return None


def _of_check(body: list[ast.stmt], names: dict[str, str]) -> list[ast.stmt]:
    """The statements of a `check` function that is called once at the end with the function under test."""
    functions = [s for s in body if isinstance(s, ast.FunctionDef)]
    if not functions:
        return body
    *before, last = [s for s in body if not isinstance(s, ast.FunctionDef) and not _is_idle(s)]
    match functions, before, last:
        case [[ast.FunctionDef() as check], [], ast.Expr(ast.Call(ast.Name(called), [ast.Name(argument)], []))]:
            (parameter,) = check.args.args
            if called == check.name and not check.decorator_list and len(ast.unparse(check.args)) == len(parameter.arg):
                names[parameter.arg] = argument
                return check.body
    raise ValueError("another kind of test")


def _is_idle(statement: ast.stmt) -> bool:
    """True of text, `pass`, an assignment of a literal to `METADATA`, an assertion of a true constant."""
    match statement:
        case ast.Pass() | ast.Expr(ast.Constant()):
            return True
        case ast.Assign([ast.Name("METADATA")], value):
            ast.literal_eval(value)
            return True
        case ast.Assert(ast.Constant(value)) if value:
            return True
    return False


def _call(statement: ast.stmt, names: Mapping[str, str], test: int) -> CallCase:
    check: Literal["equal", "true", "false"] = "true"
    match statement:
        case ast.Assert(ast.Compare(call, [ast.Eq()], [literal])):
            if not isinstance(call, ast.Call):
                call, literal = literal, call
            check, expected = "equal", ast.literal_eval(literal)
        case ast.Assert(ast.Compare(call, [ast.Is()], [ast.Constant(None)])):  # 1 == True, but 1 is not True
            check, expected = "equal", None
        case ast.Assert(ast.UnaryOp(ast.Not(), call)):
            check, expected = "false", None
        case ast.Assert(call):
            expected = None
        case _:
            raise ValueError("another kind of statement")
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError("no call of a function by its name")
    args = [ast.literal_eval(argument) for argument in call.args]
    kwargs = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
    if len(kwargs) < len(call.keywords):
        raise ValueError("unpacked keywords")
    name = names.get(call.func.id, call.func.id)
    return CallCase(test, name, plain_data.encode(args), plain_data.encode(kwargs), plain_data.encode(expected), check)
