"""What a test asks of a program, and whether an answer is right: the host's side, which alone knows the answers.

Tests come in three forms:
    {"input": "stdin text", "output": "stdout text"}
    {"call": "f", "args": […], "kwargs": {…}, "expected": …}
    {"assert": "Python source that is run after the program"}
Most sources of the last form only compare calls on literals with literals. Those are turned into calls (`as_calls`), so
that a process of their own (`remote`) is needed for the others alone.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from vibethinker.sandbox import codec

TOLERANCE: Final = 1e-6  # relative and absolute, for floats in outputs and in the results of calls
_SHOWN: Final = 120

Test = Mapping[str, Any]
Form = Literal["inputs", "calls", "asserts"]


@dataclass(frozen=True)
class Call:
    """A call of the program's function and what is asked of its result.

    Attributes:
        name: of the function.
        args: wire form of the positional arguments.
        kwargs: wire form of the keyword arguments.
        expected: wire form of the right result.
        check: how the result is compared: as data (`data`), exactly as `==` (`equal`), or by its truth.
    """

    name: str
    args: codec.Wire
    kwargs: codec.Wire
    expected: codec.Wire
    check: Literal["data", "equal", "true", "false"] = "data"

    def accepts(self, given: codec.Wire) -> bool:
        """Whether a result is right; what is no wire form is not."""
        try:
            if self.check in ("true", "false"):
                return _truth(given) is (self.check == "true")
            return codec.same(self.expected, given, TOLERANCE if self.check == "data" else 0.0)
        except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError):
            return False


@dataclass(frozen=True)
class Case:
    """One test, ready to be put to a program.

    Attributes:
        form: how it is put.
        question: what the program's process is told: an input, or calls, or (to the judge) a source.
        answer: what is right: an output, or `None` where the calls or the judge know.
    """

    form: Form
    question: Any
    answer: str | None = None


def read(tests: Sequence[Test]) -> list[Case]:
    """Checks tests and makes cases of them.

    Raises:
        ValueError: no tests, or one of an unknown form or with a field of the wrong type; names it by its number.
    """
    if not tests:
        raise ValueError("a program needs at least one test")
    return [_case(test, f"test {number}") for number, test in enumerate(tests, 1)]


def _case(test: Test, where: str) -> Case:
    if not isinstance(test, Mapping):
        raise ValueError(f"{where} must be a mapping, got {type(test).__name__}")
    keys = set(test)
    if keys == {"input", "output"}:
        return Case("inputs", _text(test, "input", where), _text(test, "output", where))
    if keys == {"assert"}:
        source = _text(test, "assert", where)
        calls = as_calls(source)
        return Case("asserts", source) if calls is None else Case("calls", calls)
    if {"call", "expected"} <= keys <= {"call", "args", "kwargs", "expected"}:
        args, kwargs = list(test.get("args", [])), dict(test.get("kwargs", {}))
        try:
            wires = [codec.encode(part) for part in (args, kwargs, test["expected"])]
        except codec.NotPlainDataError as error:
            raise ValueError(f"{where}: {error}") from None
        return Case("calls", (Call(_text(test, "call", where), *wires),))
    raise ValueError(f"{where} is none of input/output, call/args/expected, assert: it has {', '.join(sorted(keys))}")


def _text(test: Test, key: str, where: str) -> str:
    if not isinstance(test[key], str):
        raise ValueError(f"{where}: {key} must be a text, got {type(test[key]).__name__}")
    return str(test[key])


def _truth(wire: codec.Wire) -> bool:
    """Of what a wire form stands for; an object that is no plain data is true."""
    if not isinstance(wire, list):
        return bool(wire)
    if wire[0] in codec.COLLECTIONS:
        return len(wire) > 1
    return bool(codec.decode(wire, lambda _: True))


# Outputs


def same_output(expected: str, given: str) -> bool:
    """Whether an output is right: lines of the same tokens, whatever the white space; decimals within `TOLERANCE`."""
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


def as_calls(source: str) -> tuple[Call, ...] | None:
    """The calls that a source of asserts comes down to, or `None` when it is more than that.

    Understood are `assert f(…) == …`, `assert f(…)`, `assert not f(…)`, comparisons with `is` to a constant, with
    literals for the dots, at the top or in a `check(candidate)` that is called once at the end.
    """
    try:
        body = ast.parse(source).body
        names: dict[str, str] = {}
        body = _of_check(body, names)
        calls = [_call(statement, names) for statement in body if not _is_idle(statement)]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return tuple(calls) or None


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
    """Text, `pass`, an assignment of a literal to `METADATA`, an assertion of a true constant."""
    match statement:
        case ast.Pass() | ast.Expr(ast.Constant()):
            return True
        case ast.Assign([ast.Name("METADATA")], value):
            ast.literal_eval(value)
            return True
        case ast.Assert(ast.Constant(value)) if value:
            return True
    return False


def _call(statement: ast.stmt, names: Mapping[str, str]) -> Call:
    if not isinstance(statement, ast.Assert):
        raise ValueError("another kind of statement")
    match statement.test:
        case ast.Compare(left, [ast.Eq() | ast.Is() as operator], [right]):
            if not isinstance(left, ast.Call):
                left, right = right, left
            if isinstance(operator, ast.Is) and not (
                isinstance(right, ast.Constant) and right.value in (None, True, False)
            ):
                raise ValueError("identity with something else than a constant")
            value = ast.literal_eval(right)
            if isinstance(operator, ast.Is) and value is not None:  # 1 == True, but 1 is not True
                raise ValueError("identity with a truth value")
            return _of_call(left, names, codec.encode(value), "equal")
        case ast.UnaryOp(ast.Not(), operand):
            return _of_call(operand, names, None, "false")
        case test:
            return _of_call(test, names, None, "true")


def _of_call(node: ast.expr, names: Mapping[str, str], expected: codec.Wire, check: Any) -> Call:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError("no call of a function by its name")
    args = [ast.literal_eval(argument) for argument in node.args]
    kwargs = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
    if len(kwargs) < len(node.keywords):
        raise ValueError("unpacked keywords")
    return Call(names.get(node.func.id, node.func.id), codec.encode(args), codec.encode(kwargs), expected, check)
