r"""Equality of expressions by their values at a few points, without a computer algebra system.

Expressions that agree to forty digits at every point, negative and complex ones among them, are equal; those that
differ at one are not. Nothing is built, simplified or expanded. Functions take normalised LaTeX and raise `ParseError`
for what is outside the grammar and `ArithmeticError` for what has no value, unless they say otherwise.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import mpmath

from vibethinker.rewards.math.expression import ENDS, OVER, TIMES, ParseError, Parser

DIGITS: Final = 60  # of the working precision
MORE_DIGITS: Final = 400  # where cancellation leaves doubt
TOLERANCE: Final = mpmath.mpf(10) ** -(2 * DIGITS // 3)  # relative: two values that agree to it are the same
POINTS: Final = 6
REAL_POINTS: Final = 4  # the first ones
MAX_POWER: Final = 10**6
MAX_FACTORIAL: Final = 10**4

_NOTHING: Final = mpmath.mpf(10) ** -20  # what is smaller may be what a cancellation left
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


def same(given: str, wanted: str) -> bool | None:
    """True if two expressions have the same values; `None` when one of them is outside the grammar."""
    try:
        real = "|" in given + wanted  # whoever writes |x| for a root of x^2 means real numbers
        last = (REAL_POINTS if real else POINTS) if variables(given) | variables(wanted) else 1
        return all(_same_at(given, wanted, point) for point in range(1, last + 1))
    except ParseError:
        return None


def proportional(given: str, wanted: str) -> bool | None:
    """True if the first is a positive multiple of the second, False if a negative one, `None` if neither."""
    if not variables(given) | variables(wanted):
        return None
    with mpmath.workdps(DIGITS):
        values = [(value_at(given, point), value_at(wanted, point)) for point in range(1, POINTS + 1)]
        if any(min(map(abs, pair)) < _NOTHING for pair in values):
            return None
        first, *others = (value / target for value, target in values)
        if not all(_close(ratio, first) for ratio in others) or abs(first.imag) > abs(first) * TOLERANCE:
            return None
        return bool(first.real > 0)


def zeros_differ(given: str, wanted: str) -> bool:
    """True if a zero of one expression is found that is none of the other. Cheap, where solving equations is not."""
    return any(
        _has_foreign_zero(text, other, name, start)
        for text, other in ((given, wanted), (wanted, given))
        for name in sorted(variables(text))
        for start in (5, 6)
    )


def _has_foreign_zero(text: str, other: str, name: str, start: int) -> bool:
    """Searches from one point along one variable, the rest at point 5."""
    with mpmath.workdps(DIGITS):
        try:
            zero = mpmath.findroot(
                lambda value: _PointParser(text, 5, {name: value}).parse(), coordinate(name, start), tol=TOLERANCE**2
            )
        except (ValueError, ArithmeticError):
            return False
        rest = abs(_PointParser(other, 5, {name: zero}).parse())
        return bool(rest > _NOTHING**0.5 * (1 + abs(value_at(other, 5))))


def is_supported(text: str) -> bool:
    """True if an expression is inside the grammar."""
    try:
        variables(text)
    except ParseError:
        return False
    return True


def near(given: str, wanted: str) -> bool:
    """True if two constants agree to within two per cent, as the sides of ≈ should."""
    try:
        value, target = constant(given), constant(wanted)
    except ParseError:
        return False
    return bool(abs(value - target) * 50 <= abs(value))


def variables(text: str) -> frozenset[str]:
    r"""Names of the variables in an expression.

    >>> sorted(variables(r"\frac{x_1}{2}+\sin\theta"))
    ['\\theta', 'x_1']
    """
    return _parsed(text, 1, DIGITS)[1]


def constant(text: str) -> Any:
    r"""Value of an expression without variables, as `mpmath.mpc`.

    >>> constant(r"\log_{2}8+i^2")
    mpc(real='2.0', imag='0.0')

    Raises:
        ParseError: also for variables.
    """
    value, names = _parsed(text, 1, DIGITS)
    if names:
        raise ParseError(f"variables in a constant: {text}")
    return value


def value_at(text: str, point: int, digits: int = DIGITS) -> Any:
    """Value of an expression as `mpmath.mpc`.

    Args:
        text: in normalised LaTeX.
        point: where its variables are, 1 to 6.
        digits: of the computation.
    """
    return _parsed(text, point, digits)[0]


@lru_cache(maxsize=8192)
def _parsed(text: str, point: int, digits: int) -> tuple[Any, frozenset[str]]:
    with mpmath.workdps(digits):
        parser = _PointParser(text, point)
        return parser.parse(), frozenset(parser.variables)


def rounded(value: Any) -> Any:
    """A real number, to the digits in which equal values agree."""
    with mpmath.workdps(DIGITS):
        return mpmath.mpf(mpmath.nstr(value, 2 * DIGITS // 3))


def coordinate(name: str, point: int) -> Any:
    """Of a variable: all positive, all negative, mixed signs, beyond small constants, and two complex ones."""
    chance = random.Random(f"{name} {point}")  # by name: the same in every process
    size = mpmath.mpf(chance.uniform(0.4, 2.6)) + (30 if point == 4 else 0)
    if point <= 2:
        return mpmath.mpc(size if point == 1 else -size)
    if point <= 4:
        return mpmath.mpc(size * chance.choice((-1, 1)))
    return mpmath.mpc(size * (-1) ** point, mpmath.mpf(chance.uniform(0.4, 2.6)) * chance.choice((-1, 1)))


def _same_at(given: str, wanted: str, point: int) -> bool:
    a, b = value_at(given, point), value_at(wanted, point)
    if _close(a, b):
        return True
    with mpmath.workdps(MORE_DIGITS):
        size = max(abs(a), abs(b))
        if size > _NOTHING and abs(a - b) > _NOTHING * size:
            return False
        a, b = value_at(given, point, MORE_DIGITS), value_at(wanted, point, MORE_DIGITS)
        return bool(abs(a - b) <= mpmath.mpf(10) ** -(2 * MORE_DIGITS // 3))


def _close(a: Any, b: Any) -> bool:
    with mpmath.workdps(DIGITS):
        return bool(abs(a - b) <= max(abs(a), abs(b)) * TOLERANCE)


class _PointParser(Parser):
    """Computes with complex numbers at one point; adds letters, functions, roots, `|sum|`, factorials, binomials.

    `values` are those of variables that are elsewhere.
    """

    def __init__(self, text: str, point: int, values: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.point, self.values = point, values or {}
        self.variables: set[str] = set()

    def parse(self) -> Any:
        try:
            value = super().parse()
        except ValueError as error:  # mpmath's
            raise ArithmeticError(str(error)) from error
        if not mpmath.isfinite(value):
            raise ArithmeticError("infinite")
        return mpmath.mpc(value)

    def operand(self) -> Any:
        value = super().operand()
        while self.head == "!":
            self.take()
            value = mpmath.factorial(_whole(value))
        return value

    def named(self, token: str) -> Any:
        if token == "|":
            value = abs(self.sum())
            self.expect("|")
            return value
        if token == r"\sqrt":
            return self.root()
        if token in (r"\binom", r"\dbinom", r"\tbinom"):
            return mpmath.binomial(_whole(self.argument()), _whole(self.argument()))
        if token in _FUNCTIONS:
            return self.function(token)
        return self.letter(token)

    def letter(self, token: str) -> Any:
        """Reads the rest of a variable or a constant."""
        if token == r"\pi":
            return mpmath.pi()
        if not _GREEK.fullmatch(token) and not (len(token) == 1 and token.isascii() and token.isalpha()):
            raise ParseError(token)
        if self.head == "_":
            self.take()
            token += "_" + self.subscript()
        elif token == "i":
            return mpmath.mpc(0, 1)
        elif token == "e":
            return mpmath.e()
        if self.head == "(" and token in "fghFGH":
            raise ParseError("an unknown function")
        if self.head == "'" or (token == "d" and self.head.isalpha()):
            raise ParseError("a derivative")
        self.variables.add(token)
        return self.values[token] if token in self.values else coordinate(token, self.point)

    def subscript(self) -> str:
        """Reads a letter or a number, perhaps in braces."""
        token = self.take()
        if token == "{":
            token = self.take()
            self.expect("}")
        if not token.isalnum():
            raise ParseError(token)
        return token

    def root(self) -> Any:
        """Reads the degree, if there is one, and the radicand."""
        degree = mpmath.mpf(2)
        if self.head == "[":
            self.take()
            degree = self.sum()
            self.expect("]")
        return self.power(self.argument(), 1 / degree)

    def function(self, name: str) -> Any:
        """Reads a function's base or exponent and what it applies to."""
        base = exponent = None
        while self.head in ("_", "^"):
            if self.take() == "_":
                base = self.argument()
            else:
                exponent = self.factor()
        if exponent == -1:
            name, exponent = _INVERSE.get(name, name), None
        value = _FUNCTIONS[name](mpmath.mpc(self.function_argument()))
        if name == r"\log":  # without a base it is ten's or e's, who knows: one of its own
            value = value / (coordinate(r"\log", 1) if base is None else mpmath.log(base))
        elif base is not None:
            raise ParseError("a subscript")
        return value if exponent is None else self.power(value, exponent)

    def function_argument(self) -> Any:
        r"""Reads a group, else the factors up to a sign or another function: \sin 2x."""
        if self.head in ("(", "{"):
            return super().operand()
        value = self.factor()
        while self.head not in (*ENDS, *TIMES, *OVER, *_FUNCTIONS, "("):
            value = value * self.factor()
        return value

    def number(self, digits: str) -> Any:
        return mpmath.mpf(digits)

    def bounded(self, value: Any) -> Any:
        return value

    def power(self, base: Any, exponent: Any) -> Any:
        base, exponent = mpmath.mpc(base), mpmath.mpc(exponent)
        if abs(exponent) > MAX_POWER:
            raise ArithmeticError("a huge power")
        if base == 0:
            if exponent.real <= 0:
                raise ArithmeticError("a pole")
            return base
        if not exponent.imag and exponent.real == int(exponent.real):
            return base ** int(exponent.real)
        if not base.imag and base.real < 0:  # the real root, where there is one
            for odd in (3, 5, 7):
                whole = mpmath.nint(exponent.real * odd)
                if _close(mpmath.mpc(whole), exponent * odd):
                    return mpmath.mpc((-1) ** int(whole) * (-base.real) ** exponent.real)
        return base**exponent


def _whole(value: Any) -> int:
    value = mpmath.mpc(value)
    if value.imag or value.real != int(value.real) or not 0 <= value.real <= MAX_FACTORIAL:
        raise ParseError("not a small whole number")
    return int(value.real)
