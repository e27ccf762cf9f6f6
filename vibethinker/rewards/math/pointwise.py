r"""Are two expressions the same? Their values at a few points say so, without a computer algebra system.

Expressions that agree to forty digits at every point, negative and complex ones among them, are the same; those that
differ at one are not. What the grammar (`vibethinker.rewards.math.expression`) does not know raises `UnknownError`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import mpmath

from vibethinker.rewards.math.expression import DIGITS, TOLERANCE, Reader, UnknownError, close, coordinate
from vibethinker.rewards.math.rules import UndefinedError

__all__ = ["UnknownError", "close", "evaluate", "is_known", "near", "proportional", "same", "variables", "zeros_differ"]

MORE_DIGITS: Final = 400  # where cancellation leaves doubt
POINTS: Final = 6
REAL_POINTS: Final = 4  # the first ones

_NOTHING: Final = mpmath.mpf(10) ** -20  # what is smaller may be what a cancellation left


def same(given: str, wanted: str) -> bool | None:
    """Whether two expressions have the same values; `None` when one of them is outside the grammar.

    Raises:
        UndefinedError: one of them has no value.
    """
    try:
        if not variables(given) | variables(wanted):
            return _same_at(given, wanted, 0)
        real = "|" in given + wanted  # whoever writes |x| for a root of x^2 means real numbers
        return all(_same_at(given, wanted, point) for point in range(1, REAL_POINTS + 1 if real else POINTS + 1))
    except UnknownError:
        return None


def proportional(given: str, wanted: str) -> bool | None:
    """Whether the first is a positive multiple of the second (`True`), a negative one (`False`), or neither.

    Raises:
        UnknownError: one of them is outside the grammar.
        UndefinedError: one of them has no value.
    """
    if not variables(given) | variables(wanted):
        return None
    with mpmath.workdps(DIGITS):
        values = [(evaluate(given, point), evaluate(wanted, point)) for point in range(1, POINTS + 1)]
        if any(min(map(abs, pair)) < _NOTHING for pair in values):
            return None
        first, *others = (value / target for value, target in values)
        if not all(close(ratio, first) for ratio in others) or abs(first.imag) > abs(first) * TOLERANCE:
            return None
        return bool(first.real > 0)


def zeros_differ(given: str, wanted: str) -> bool:
    """Whether a zero of one expression is found that is none of the other. Cheap, where solving equations is not.

    Raises:
        UnknownError: one of them is outside the grammar.
        UndefinedError: one of them has no value.
    """
    return any(_zero_is_foreign(first, second) for first, second in ((given, wanted), (wanted, given)))


def _zero_is_foreign(text: str, other: str) -> bool:
    return any(_is_foreign(text, other, name, start) for name in sorted(variables(text)) for start in (5, 6))


def _is_foreign(text: str, other: str, name: str, start: int) -> bool:
    """Search from one point along one variable, the rest at point 5."""
    with mpmath.workdps(DIGITS):
        try:
            zero = mpmath.findroot(
                lambda value: Reader(text, 5, {name: value}).read(), coordinate(name, start), tol=TOLERANCE**2
            )
        except (ValueError, ZeroDivisionError, UndefinedError):
            return False
        rest = abs(Reader(other, 5, {name: zero}).read())
        return bool(rest > _NOTHING**0.5 * (1 + abs(evaluate(other, 5))))


def is_known(text: str) -> bool:
    """Whether an expression is inside the grammar."""
    try:
        variables(text)
    except UnknownError:
        return False
    return True


def near(given: str, wanted: str) -> bool:
    """Whether two constants agree to within two per cent, as the sides of ≈ should."""
    try:
        value, target = evaluate(given, 0), evaluate(wanted, 0)
    except UnknownError:
        return False
    return bool(abs(value - target) * 50 <= abs(value))


@lru_cache(maxsize=4096)
def variables(text: str) -> frozenset[str]:
    """Names of the variables in an expression.

    Raises:
        UnknownError: it is outside the grammar.
        UndefinedError: it has no value.
    """
    reader = Reader(text, 1)
    with mpmath.workdps(DIGITS):
        reader.read()
    return frozenset(reader.variables)


@lru_cache(maxsize=8192)
def evaluate(text: str, point: int, digits: int = DIGITS) -> Any:
    """The value at one of the points, as `mpmath.mpc`; point 0 is for constants.

    Raises:
        UnknownError: the text is outside the grammar.
        UndefinedError: it has no value.
    """
    with mpmath.workdps(digits):
        return Reader(text, point).read()


def _same_at(given: str, wanted: str, point: int) -> bool:
    a, b = evaluate(given, point), evaluate(wanted, point)
    if close(a, b):
        return True
    with mpmath.workdps(MORE_DIGITS):
        size = max(abs(a), abs(b))
        if size > _NOTHING and abs(a - b) > _NOTHING * size:
            return False
        a, b = evaluate(given, point, MORE_DIGITS), evaluate(wanted, point, MORE_DIGITS)
        return bool(abs(a - b) <= mpmath.mpf(10) ** -(2 * MORE_DIGITS // 3))
