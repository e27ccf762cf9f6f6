"""Exact arithmetic on hostile text."""

import ast
import contextlib
import operator
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibethinker.rewards.math.expression import MAX_CHARACTERS, ParseError, evaluate
from vibethinker.rewards.math.normalize import normalize

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def by_python(text: str) -> Fraction:
    """The reference: Python's own grammar, over fractions."""

    def walk(node: ast.expr) -> Fraction:
        match node:
            case ast.BinOp(left, ast.Pow(), right):
                return Fraction(walk(left) ** walk(right))
            case ast.BinOp(left, sign, right):
                return OPERATORS[type(sign)](walk(left), walk(right))
            case ast.UnaryOp(ast.USub(), operand):
                return -walk(operand)
            case ast.Constant(int(value)):
                return Fraction(value)
        raise AssertionError(ast.dump(node))

    return walk(ast.parse(text.replace("^", "**"), mode="eval").body)


def expressions() -> st.SearchStrategy[str]:
    numbers = st.integers(0, 30).map(str)

    def larger(smaller: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        joined = st.tuples(smaller, st.sampled_from("+-*/"), smaller).map("".join)
        return st.one_of(joined, smaller.map("({})".format), smaller.map("-({})".format), numbers.map("{}^2".format))

    return st.recursive(numbers, larger, max_leaves=12)


@given(expressions())
def test_agrees_with_python(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        return
    try:
        expected = by_python(text)
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            evaluate(text)
        return
    assert evaluate(text) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3(4)", 12),
        ("(1/2)(2)3", 3),
        ("-2^2", -4),
        ("2^3^2", 512),
        ("2^-2", Fraction(1, 4)),
        ("6/2(3)", 9),
        ("2.50", Fraction(5, 2)),
        (".5+3.", Fraction(7, 2)),
    ],
)
def test_by_hand(text: str, value: Fraction | int) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize("text", ["", "x", "1 2", "1..2", "2*", "(1", "1)", "()", "4^(1/2)", "٣", "1e5", "__import__"])
def test_no_arithmetic(text: str) -> None:
    with pytest.raises(ParseError):
        evaluate(text)


@pytest.mark.parametrize("text", ["9^9^9^9", "(9^99)^99", "(" * 90 + "1" + ")" * 90, "9" * 10**6, "((2^999)^4)^2"])
def test_bounds(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(OverflowError):
        evaluate(text)
    assert time.perf_counter() - start < 0.1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\frac{3}{4}\cdot 2", Fraction(3, 2)),
        (r"-\dfrac12", Fraction(-1, 2)),
        (r"\frac1{2}", Fraction(1, 2)),
        (r"\frac{\frac{1}{2}}{3^{2}}", Fraction(1, 18)),
        (r"\left(\frac{1}{2}\right)^{2}", Fraction(1, 4)),
        (r"-1\frac{1}{2}", Fraction(-3, 2)),
        ("1 1/2", Fraction(3, 2)),
        (r"3\frac{5}{2}", Fraction(15, 2)),
        (r"\frac12\frac34", Fraction(3, 8)),
        (r"2\cdot1\frac12", 3),
        (r"2^1\frac12", 1),
        (r"\frac{1}{2}3", Fraction(3, 2)),
        ("6÷3×2", 4),
    ],
)
def test_latex(text: str, value: Fraction | int) -> None:
    assert evaluate(normalize(text).text) == value


@given(st.text(alphabet="\\frac{}12 ^()\n", max_size=60))
def test_garbage_is_no_arithmetic_or_has_no_value(text: str) -> None:
    with contextlib.suppress(ParseError, ArithmeticError):
        evaluate(text)
