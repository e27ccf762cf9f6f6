r"""Unions of intervals such as `(-\infty,1]\cup\{2\}\cup(3,5)`, compared as sets of numbers by their end points."""

from __future__ import annotations

import re
from typing import Any, Final

import mpmath

from vibethinker.rewards.math import pointwise as algebra
from vibethinker.rewards.math.rules import UndefinedError

_CUP: Final = re.compile(r"\\cup(?![a-z])")
_INTERVAL: Final = re.compile(r"([(\[])([^,]+),([^,]+)([)\]])")

# An end is (value, 0 for the point itself or ±1 for just beside it), so that ends compare as tuples do.
End = tuple[Any, int]


def parts(text: str) -> list[str]:
    return _CUP.split(text)


def same_union(given: list[str], wanted: list[str]) -> bool | None:
    """Whether two lists of intervals and finite sets cover the same numbers; `None` when one holds something else."""
    try:
        covered, target = _canonical(given), _canonical(wanted)
    except (ValueError, algebra.UnknownError, UndefinedError):
        return None
    return len(covered) == len(target) and all(
        _same_end(low, other_low) and _same_end(high, other_high)
        for (low, high), (other_low, other_high) in zip(covered, target, strict=True)
    )


def _canonical(texts: list[str]) -> list[tuple[End, End]]:
    """Sorted, disjoint, not even touching; open ends lie just beside the number."""
    merged: list[tuple[End, End]] = []
    for low, high in sorted(interval for text in texts for interval in _intervals(text)):
        if merged and not _beyond(low, merged[-1][1]):
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


def _intervals(text: str) -> list[tuple[End, End]]:
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return [((value, 0), (value, 0)) for value in map(_real, text[2:-2].split(","))]
    match = _INTERVAL.fullmatch(text)
    if match is None:
        raise ValueError(text)
    low, high = _real(match[2]), _real(match[3])
    if _same_value(low, high) and (match[1], match[4]) != ("[", "]"):
        return []
    if low > high or (mpmath.isinf(low) and match[1] == "[") or (mpmath.isinf(high) and match[4] == "]"):
        raise ValueError(text)
    return [((low, int(match[1] == "(")), (high, -int(match[4] == ")")))]


def _real(text: str) -> Any:
    if text.lstrip("+-") == r"\infty":
        return mpmath.ninf if text[0] == "-" else mpmath.inf
    value = algebra.evaluate(text, 0)
    if value.imag:
        raise ValueError(text)
    return value.real


def _beyond(low: End, high: End) -> bool:
    """Whether an interval that starts there leaves out a number after the one that ends here."""
    if _same_value(low[0], high[0]):
        return low[1] > 0 > high[1]  # (1,2)\cup(2,3)
    return bool(low[0] > high[0])


def _same_end(one: End, other: End) -> bool:
    return one[1] == other[1] and _same_value(one[0], other[0])


def _same_value(one: Any, other: Any) -> bool:
    return bool(one == other) or (mpmath.isfinite(one) and mpmath.isfinite(other) and algebra.close(one, other))
