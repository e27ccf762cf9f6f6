"""Expressions compared by their values: what is the same, what only looks like it, what has no value."""

import subprocess
import sys

import pytest

from vibethinker.rewards.math.expression import ParseError
from vibethinker.rewards.math.pointwise import same, value_at, variables
from vibethinker.rewards.math.symbolic import is_equal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-2^2", -4), ("2^3^2", 512), (r"1\frac{1}{2}", 1.5), (r"-1\frac12", -1.5), (r"3\frac{5}{2}", 7.5),
        (r"x^0", 1), (r"\frac12\cdot4", 2), ("1/2(3+1)", 2), ("|-3|", 3), (r"\sqrt[3]{-8}", -2), (r"\log_{2}8", 3),
        (r"\sin^2(1)+\cos^2(1)", 1), (r"\tan^{-1}1-\pi/4", 0), ("5!/3!", 20), (r"\binom{5}{2}", 10), ("i^2", -1),
        (r"\sqrt{-4}/i", 2), (r"2^{\frac12}\cdot2^{1/2}", 2), (r"\ln(e^3)", 3), ("(-8)^{1/3}", -2),
    ],
)  # fmt: skip
def test_values(text: str, value: float) -> None:
    assert abs(value_at(text, 1) - value) < 1e-50


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"e^{\pi\sqrt{163}}", "262537412640768744"),  # 30 digits alike
        ("10^{-50}", "0"),
        ("1+10^{-30}", "1"),
        (r"\sqrt{x^2}", "x"),
        (r"\sqrt{x}\sqrt{y}", r"\sqrt{xy}"),
        ("x", "X"),
        ("x_1", "x_2"),
        ("2^{2^x}", "4^x"),
        (r"\log(8)", r"\ln(8)"),
        (r"\sin(x^2)", r"\sin^2(x)"),
    ],
)
def test_lookalikes(one: str, other: str) -> None:
    assert same(one, other) is False
    assert same(other, one) is False


def test_cancellation_to_nothing_is_nothing() -> None:
    assert same(r"\sqrt{8}-2\sqrt{2}", "0")
    assert same(r"\sqrt{5+2\sqrt6}-\sqrt2-\sqrt3", "0")


@pytest.mark.parametrize(
    "text", ["f(x)", r"\text{a}", r"\sum_{k=1}^{n}k", "x2", "(x", "x)", r"\frac{1}", "dx", "", "x'"]
)
def test_what_the_grammar_does_not_know(text: str) -> None:
    with pytest.raises(ParseError):
        variables(text)


@pytest.mark.parametrize("text", ["1/0", "0^0", "0^{-1}", r"\ln(0)", "x^{10000000}", r"\frac{1}{x-x}"])
def test_what_has_no_value(text: str) -> None:
    with pytest.raises(ArithmeticError):
        variables(text)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (r"[1,2]\cup(2,3]", "[1,3]", True),
        (r"\{1\}\cup(1,\sqrt{9})", "[1,3)", True),
        (r"(1,2)\cup(2,3)", "(1,3)", False),
        (r"(1,3)\cup\{4\}", r"(1,3]\cup\{4\}", False),
        (r"[1,\infty]\cup\{0\}", r"[1,\infty)\cup\{0\}", False),
        (r"(a,3)\cup\{4\}", r"(a,3)\cup\{4\}", True),
    ],
)
def test_unions_are_sets_of_numbers(one: str, other: str, same: bool) -> None:
    assert is_equal(one, other) is is_equal(other, one) is same


@pytest.mark.slow
def test_a_verdict_is_the_same_in_every_process() -> None:
    pairs = [(r"\sin(2x)", r"2\sin(x)\cos(x)"), ("(x+1)^2", "x^2+1"), ("xy=1", "y=1/x"), ("0<x<5", "(0,5)")]
    code = f"from vibethinker.rewards.math.symbolic import is_equal; print([is_equal(*pair) for pair in {pairs!r}])"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str([is_equal(*pair) for pair in pairs]) == "[True, False, True, True]"
