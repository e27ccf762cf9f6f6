"""The basis of every problem family: the draft of a problem, its random choices, and the notation of its steps.

A step is one line, a chain `side=side=…` whose arithmetic sides all have the same value. Signs that a reader would drop
(`1x`, `+-3`, `x+0`) never appear, and negative factors are bracketed, so any calculator can evaluate each side.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

Number = int | Fraction
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Draft:
    """A problem before it has a split."""

    key: tuple[int, ...]  # canonical parameters, equal exactly when the mathematical problem is, however it is phrased
    prompt: str  # shows every parameter, so equal prompts mean equal keys
    answer: Number | None  # exact; `None` if `tests` grade the completions
    solutions: tuple[list[str], ...]  # at least two different methods: lists of steps, or of lines of a program
    tests: tuple[Mapping[str, Any], ...] = ()  # calls of the program, each with the expected value


class LevelRandom(random.Random):
    """The random choices of one problem. Limits are one number, or a tuple of four: one for each difficulty."""

    def __init__(self, key: str, *, difficulty: int) -> None:
        super().__init__(key)
        self.difficulty = difficulty

    def level(self, values: Sequence[T]) -> T:
        """The value of this difficulty."""
        return values[self.difficulty - 1]

    def integer(self, low: int | Sequence[int], high: Sequence[int]) -> int:
        """An integer from `low` to `high`, both included."""
        return self.randint(low if isinstance(low, int) else self.level(low), self.level(high))

    def nonzero(self, limits: Sequence[int]) -> int:
        """An integer from -limit to limit, but not zero."""
        return self.choice((-1, 1)) * self.integer(1, limits)

    def phrase(self, *patterns: str) -> str:
        """One of several wordings."""
        return self.choice(patterns)


Family = Callable[[LevelRandom], Draft]


def signed(value: Number) -> str:
    """`+3`, `-3`."""
    return f"+{value}" if value >= 0 else str(value)


def bracketed(value: Number) -> str:
    """`3`, `(-3)`."""
    return f"({value})" if value < 0 else str(value)


def term(value: Number, variable: str = "x") -> str:
    """`3x`, `-3x`, and without the one `x`, `-x`."""
    shown = str(value) if abs(value) != 1 else "-" if value < 0 else ""
    return shown + variable


def total(*values: Number) -> str:
    """`3+5-2`."""
    return str(values[0]) + "".join(map(signed, values[1:]))


def polynomial(*coefficients: Number) -> str:
    """Highest power first: `polynomial(3, -1, 0)` is `3x^2-x`."""
    text = ""
    for power, value in zip(range(len(coefficients) - 1, -1, -1), coefficients, strict=True):
        if value:
            monomial = term(value, "x" if power == 1 else f"x^{power}") if power else str(value)
            text += monomial if value < 0 or not text else f"+{monomial}"
    return text


def add(*values: Number) -> str:
    """`3+5-2=6`."""
    return f"{total(*values)}={sum(values)}"


def multiply(first: Number, second: Number) -> str:
    """`3*(-4)=-12`."""
    return f"{first}*{bracketed(second)}={first * second}"


def square(value: Number) -> str:
    """`4^2=16`, `(-3)^2=9`."""
    base = value if value >= 0 and value.denominator == 1 else f"({value})"
    return f"{base}^2={value * value}"


def squares(first: int, second: int) -> str:
    """`3^2+4^2=9+16=25`."""
    return f"{bracketed(first)}^2+{bracketed(second)}^2={add(first * first, second * second)}"


def ratio(dividend: int, divisor: int) -> str:
    """`15/3=5`, `6/4=3/2`, or only `5/3` when nothing cancels; written after a name. The divisor is positive."""
    common = math.gcd(dividend, divisor)
    if common == 1 < divisor:
        return f"{dividend}/{divisor}"
    lowest = f"/{divisor // common}" if divisor > common else ""
    return f"{dividend}/{divisor}={dividend // common}{lowest}"


def divide(dividend: int, divisor: int, name: str = "Q") -> str:
    """`15/3=5`; when nothing cancels, the quotient gets a name, since a step has two sides: `Q=5/3`."""
    quotient = ratio(dividend, divisor)
    return quotient if "=" in quotient else f"{name}={quotient}"


def terms_at(coefficients: Sequence[int], x: Number) -> list[Number]:
    """The values at `x` of a polynomial's terms, highest power first, absent terms left out."""
    powers = range(len(coefficients) - 1, -1, -1)
    return [value * x**power for value, power in zip(coefficients, powers, strict=True) if value]


def evaluate(coefficients: Sequence[int], x: Number) -> list[str]:
    """A polynomial at `x`, products before the sum: `3*2=6`, `6+4=10`."""
    powers = range(len(coefficients) - 1, -1, -1)
    terms = list(zip(coefficients, powers, strict=True))
    steps = [multiply(value, x**power) for value, power in terms if power and value not in (0, 1)]
    values = terms_at(coefficients, x)
    return [*steps, add(*values)] if len(values) > 1 else steps
