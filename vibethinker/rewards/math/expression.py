r"""The value of an expression in normalised LaTeX at one point: nothing is built, simplified or expanded.

A recursive descent that computes while it reads:

- sum: `product (("+" | "-") product)*`
- product: `factor (("*" | "/" | nothing) factor)*`, from the left: 1/2x is x/2
- factor: `("+" | "-")* atom "!"* ("^" factor)?`
- atom: number, letter, group, `|sum|`, fraction, root, binomial, function
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import mpmath

from vibethinker.rewards.math.rules import UndefinedError

DIGITS: Final = 60  # of the working precision
TOLERANCE: Final = mpmath.mpf(10) ** -(2 * DIGITS // 3)  # relative: two values that agree to it are the same
MAX_POWER: Final = 10**6
MAX_FACTORIAL: Final = 10**4
MAX_DEPTH: Final = 40

_TOKEN: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+|\\[A-Za-z]+|\\.|\S")
_GREEK: Final = re.compile(
    r"\\(?:alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|(?:var)?theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon"
    r"|(?:var)?phi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega)"
)
_FUNCTIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    r"\sin": mpmath.sin, r"\cos": mpmath.cos, r"\tan": mpmath.tan, r"\cot": mpmath.cot, r"\sec": mpmath.sec,
    r"\csc": mpmath.csc, r"\arcsin": mpmath.asin, r"\arccos": mpmath.acos, r"\arctan": mpmath.atan,
    r"\sinh": mpmath.sinh, r"\cosh": mpmath.cosh, r"\tanh": mpmath.tanh, r"\ln": mpmath.log, r"\log": mpmath.log,
    r"\exp": mpmath.exp,
}  # fmt: skip
_INVERSE: Final = {r"\sin": r"\arcsin", r"\cos": r"\arccos", r"\tan": r"\arctan"}
_TIMES: Final = ("*", r"\cdot", r"\times")
_OVER: Final = ("/", r"\div")
_ENDS: Final = ("", "+", "-", ")", "}", "]", "|", ",", "^", "!", "_")


class UnknownError(Exception):
    """An expression outside the grammar."""


def close(a: Any, b: Any) -> bool:
    """Whether two values agree to two thirds of the digits."""
    with mpmath.workdps(DIGITS):
        return bool(abs(a - b) <= max(abs(a), abs(b)) * TOLERANCE)


def coordinate(name: str, point: int) -> Any:
    """Of a variable: all positive, all negative, mixed signs, beyond small constants, and two complex ones."""
    chance = random.Random(f"{name} {point}")  # by name: the same in every process
    size = mpmath.mpf(chance.uniform(0.4, 2.6)) + (30 if point == 4 else 0)
    if point <= 2:
        return mpmath.mpc(size if point == 1 else -size)
    if point <= 4:
        return mpmath.mpc(size * chance.choice((-1, 1)))
    return mpmath.mpc(size * (-1) ** point, mpmath.mpf(chance.uniform(0.4, 2.6)) * chance.choice((-1, 1)))


class Reader:
    """One method per rule of the grammar; each returns a value."""

    def __init__(self, text: str, point: int, values: Mapping[str, Any] | None = None) -> None:
        self.tokens = [*_TOKEN.findall(text), ""]
        self.position, self.depth, self.point = 0, 0, point
        self.variables: set[str] = set()
        self.values = values or {}  # of variables that are not at the point

    def read(self) -> Any:
        try:
            value = self.sum()
        except (ZeroDivisionError, OverflowError, ValueError) as error:
            raise UndefinedError(str(error)) from error
        if self.head:
            raise UnknownError(self.head)
        if not mpmath.isfinite(value):
            raise UndefinedError("infinite")
        return mpmath.mpc(value)

    @property
    def head(self) -> str:
        return self.tokens[self.position]

    def take(self) -> str:
        self.position += 1
        return self.tokens[self.position - 1]

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise UnknownError(f"no {token}")

    def sum(self) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnknownError("too deep")
        value = self.product()
        while self.head in ("+", "-"):
            sign = self.take()
            term = self.product()
            value = value + term if sign == "+" else value - term
        self.depth -= 1
        return value

    def product(self) -> Any:
        negative = self.signs()
        start = self.position
        value = self.factor()
        if self.position == start + 1 and self.tokens[start].isdigit():
            value = value + self.proper_fraction()  # a mixed number
        while True:
            if self.head in _TIMES:
                self.take()
                value = value * self.factor()
            elif self.head in _OVER:
                self.take()
                value = value / self.factor()
            elif self.head in _ENDS:
                return -value if negative else value
            elif self.head[0] in ".0123456789":
                raise UnknownError("a number on the right")
            else:
                value = value * self.factor()

    def proper_fraction(self) -> Any:
        r"""The fraction of 1\frac{2}{3}, or 0 when there is none; 3\frac{5}{2} is a product."""
        match = re.match(r"\\frac \{? ?([0-9]+) (?:\} \{ )?([0-9]*)", " ".join(self.tokens[self.position :][:8]))
        if self.head != r"\frac" or not match:
            return 0
        above, below = (match[1], match[2]) if match[2] else (match[1][:1], match[1][1:2])
        if not below or not int(above) < int(below):
            return 0
        return self.atom()

    def signs(self) -> bool:
        negative = False
        while self.head in ("+", "-"):
            negative ^= self.take() == "-"
        return negative

    def factor(self) -> Any:
        negative = self.signs()
        value = self.atom()
        while self.head == "!":
            self.take()
            value = _factorial(value)
        if self.head == "^":
            self.take()
            value = _power(value, self.factor())
        return -value if negative else value

    def atom(self) -> Any:
        token = self.take()
        if token[:1].isdigit() or token[:1] == ".":
            return mpmath.mpf(token)
        if token in ("(", "{"):
            value = self.sum()
            self.expect(")" if token == "(" else "}")
            return value
        if token == "|":
            value = abs(self.sum())
            self.expect("|")
            return value
        if token == r"\frac":
            above = self.argument()
            return above / self.argument()
        if token == r"\sqrt":
            return self.root()
        if token in (r"\binom", r"\dbinom", r"\tbinom"):
            return _binomial(self.argument(), self.argument())
        if token in _FUNCTIONS:
            return self.function(token)
        return self.letter(token)

    def letter(self, token: str) -> Any:
        if token == r"\pi":
            return mpmath.pi()
        if not _GREEK.fullmatch(token) and not (len(token) == 1 and token.isascii() and token.isalpha()):
            raise UnknownError(token)
        if self.head == "_":
            self.take()
            token += "_" + self.subscript()
        elif token == "i":
            return mpmath.mpc(0, 1)
        elif token == "e":
            return mpmath.e()
        if self.head == "(" and token in "fghFGH":
            raise UnknownError("an unknown function")
        if self.head == "'" or (token == "d" and self.head.isalpha()):
            raise UnknownError("a derivative")
        if not self.point:
            raise UnknownError("a variable in a constant")
        self.variables.add(token)
        return self.values[token] if token in self.values else coordinate(token, self.point)

    def subscript(self) -> str:
        token = self.take()
        if token == "{":
            token = self.take()
            self.expect("}")
        if not token.isalnum():
            raise UnknownError(token)
        return token

    def argument(self) -> Any:
        r"""A group, a command, or one character: \frac12."""
        token = self.head
        if token.isdigit() and len(token) > 1:
            self.tokens[self.position : self.position + 1] = [token[0], token[1:]]
        elif token in _ENDS:
            raise UnknownError("no argument")
        return self.atom()

    def root(self) -> Any:
        degree = mpmath.mpf(2)
        if self.head == "[":
            self.take()
            degree = self.sum()
            self.expect("]")
        return _power(self.argument(), 1 / degree)

    def function(self, name: str) -> Any:
        base = power = None
        while self.head in ("_", "^"):
            if self.take() == "_":
                base = self.argument()
            else:
                power = self.factor()
        if power == -1:
            name, power = _INVERSE.get(name, name), None
        value = _FUNCTIONS[name](mpmath.mpc(self.operand()))
        if name == r"\log":  # without a base it is ten's or e's, who knows: one of its own
            value = value / (coordinate(r"\log", 1) if base is None else mpmath.log(base))
        elif base is not None:
            raise UnknownError("a subscript")
        return value if power is None else _power(value, power)

    def operand(self) -> Any:
        r"""What a function applies to: a group, else the factors up to a sign or another function: \sin 2x."""
        if self.head in ("(", "{"):
            return self.atom()
        value = self.factor()
        while self.head not in (*_ENDS, *_TIMES, *_OVER, *_FUNCTIONS, "("):
            value = value * self.factor()
        return value


def _power(base: Any, exponent: Any) -> Any:
    base, exponent = mpmath.mpc(base), mpmath.mpc(exponent)
    if abs(exponent) > MAX_POWER:
        raise UndefinedError("a huge power")
    if base == 0:
        if exponent.real <= 0:
            raise UndefinedError("a pole")
        return base
    if not exponent.imag and exponent.real == int(exponent.real):
        return base ** int(exponent.real)
    if not base.imag and base.real < 0:  # the real root, where there is one
        for odd in (3, 5, 7):
            whole = mpmath.nint(exponent.real * odd)
            if close(mpmath.mpc(whole), exponent * odd):
                return mpmath.mpc((-1) ** int(whole) * (-base.real) ** exponent.real)
    return base**exponent


def _whole(value: Any) -> int:
    value = mpmath.mpc(value)
    if value.imag or value.real != int(value.real) or not 0 <= value.real <= MAX_FACTORIAL:
        raise UnknownError("not a small whole number")
    return int(value.real)


def _factorial(value: Any) -> Any:
    return mpmath.factorial(_whole(value))


def _binomial(above: Any, below: Any) -> Any:
    return mpmath.binomial(_whole(above), _whole(below))
