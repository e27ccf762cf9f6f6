r"""Equality of answers that need algebra, inside a worker process.

Collections, relations and matrices are taken apart here, so that only single expressions are compared: by their values
(`vibethinker.rewards.math.pointwise`), and what is outside that grammar by Math-Verify.
"""

from __future__ import annotations

import logging
import math
import re
from functools import lru_cache
from typing import Any, Final

from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, latex2sympy
from math_verify import verify
from sympy import Basic, Float, I, MatrixBase, Rational, Symbol

from vibethinker.rewards.math import pointwise
from vibethinker.rewards.math.expression import ParseError
from vibethinker.rewards.math.rules import agree, first_verdict, match_ordered, match_unordered, shape

_RELATION: Final = re.compile(r"(\\leq|\\geq|\\neq|=|<|>)")
_FLIPPED: Final = {">": "<", r"\geq": r"\leq"}
_MATRIX: Final = re.compile(r"\(?\[?\\begin\{([pb]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}\]?\)?", re.DOTALL)
_WORDS: Final = re.compile(r"\\text\{[A-Za-z ]+\}")
_MARKED: Final = re.compile(
    r"\\(?:angle|triangle|overline|vec|hat|bar|wide[a-z]+|over[a-z]*arrow|circ)(?![a-z])|'|[0-9]\}?_"
)
_CUP: Final = re.compile(r"\\cup(?![a-z])")
_INTERVAL: Final = re.compile(r"([(\[])([^,]+),([^,]+)([)\]])")
_CLOSED_INFINITY: Final = re.compile(r"\[-\\infty|\\infty\]")
_NORMALIZATION: Final = NormalizationConfig(malformed_operators=True, nits=True, boxed="none")
_MEMBER: Final = re.compile(r"[A-Za-z](?:\\in(?![a-z]))(.*)")


def is_equal(given: str, wanted: str) -> bool:
    """True if two normalised answers agree. Never raises; may take for ever."""
    try:
        return bool(agree(given, wanted, _leaf))
    except BaseException:  # Math-Verify raises outside Exception too, and memory may run out
        return False


def _leaf(given: str, wanted: str) -> bool | None:
    return first_verdict(_RULES, given, wanted)


def _names(given: str, wanted: str) -> bool | None:
    r"""`\angle ABC`, x', 101_2+1: Math-Verify drops the mark and compares what is left."""
    return False if _MARKED.search(given + " " + wanted) else None


def _kinds(given: str, wanted: str) -> bool | None:
    """An interval, a union, a matrix or words are no single expression; the parser need not be asked."""
    kinds = [_kind(text) for text in (given, wanted)]
    if kinds[0] == kinds[1] or _RELATION.search(given + wanted):
        return None
    return False if all(kinds) or pointwise.is_supported(wanted if kinds[0] else given) else None


def _kind(text: str) -> str:
    if _WORDS.fullmatch(text):
        return "words"
    if _MATRIX.fullmatch(text):
        return "matrix"
    return "set" if r"\cup" in text or len(shape(text)[1]) > 1 else ""


def _infinities(given: str, wanted: str) -> bool | None:
    bare = {r"\infty": 1, r"+\infty": 1, r"-\infty": -1}
    if given in bare or wanted in bare:
        return bare.get(given) == bare.get(wanted)
    return None


def _approximations(given: str, wanted: str) -> bool | None:
    r"""`\frac23 \approx 0.67` is 2/3; `7 \approx 8` is nothing."""
    if r"\approx" not in given + wanted:
        return None
    (value, *values), (target, *targets) = given.split(r"\approx"), wanted.split(r"\approx")
    if not all(pointwise.near(value, other) for other in values) or not all(pointwise.near(target, x) for x in targets):
        return False
    return agree(value, target, _leaf)


def _matrices(given: str, wanted: str) -> bool | None:
    a, b = _MATRIX.fullmatch(given), _MATRIX.fullmatch(wanted)
    if not (a and b) or r"\begin" in a[2] + b[2]:
        return None
    rows, targets = ([row.split("&") for row in re.split(r"\\\\", match[2]) if row.strip()] for match in (a, b))
    if [len(row) for row in rows] != [len(row) for row in targets]:
        return False
    return all(match_ordered(row, target, _leaf) for row, target in zip(rows, targets, strict=True))


def _members(given: str, wanted: str) -> bool | None:
    r"""`x\in[0,1]` is the interval."""
    a, b = _MEMBER.fullmatch(given), _MEMBER.fullmatch(wanted)
    return agree(a[1] if a else given, b[1] if b else wanted, _leaf) if a or b else None


def _unions(given: str, wanted: str) -> bool | None:
    if r"\cup" not in given + wanted:
        return None
    parts, targets = ([_interval(_relation(part)) or part for part in _CUP.split(text)] for text in (given, wanted))
    try:
        return _covered(parts) == _covered(targets)
    except (ValueError, ArithmeticError, ParseError):
        if match_unordered(parts, targets, _leaf):
            return True
        return False if _CLOSED_INFINITY.search(given + wanted) else None  # Math-Verify closes and opens it at will


# (value, 0 for the number itself or ±1 for just beside it), so that ends compare as tuples do.
_End = tuple[Any, int]


def _covered(parts: list[str]) -> list[tuple[_End, _End]]:
    """Intervals that cover the same numbers as these and finite sets do: ascending, not even touching."""
    merged: list[tuple[_End, _End]] = []
    for low, high in sorted(interval for part in parts for interval in _intervals(part)):
        if merged and (low[0], low[1] - 1) <= merged[-1][1]:  # but (1,2)\cup(2,3) leaves out 2
            low, high = merged[-1][0], max(high, merged.pop()[1])
        merged.append((low, high))
    return merged


def _intervals(part: str) -> list[tuple[_End, _End]]:
    if part.startswith(r"\{") and part.endswith(r"\}"):
        return [((value, 0), (value, 0)) for value in map(_real, part[2:-2].split(","))]
    match = _INTERVAL.fullmatch(part)
    if match is None:
        raise ValueError(part)
    low, high = (_real(match[2]), int(match[1] == "(")), (_real(match[3]), -int(match[4] == ")"))
    if low[0] > high[0] or (abs(low[0]) == math.inf and not low[1]) or (abs(high[0]) == math.inf and not high[1]):
        raise ValueError(part)
    return [(low, high)] if low <= high else []


def _real(text: str) -> Any:
    """Value of a constant, rounded so that equal ones compare equal."""
    if text.lstrip("+-") == r"\infty":
        return -math.inf if text[0] == "-" else math.inf
    value = pointwise.constant(text)
    if value.imag:
        raise ValueError(text)
    return pointwise.rounded(value.real)


def _relations(given: str, wanted: str) -> bool | None:
    relations, targets = _relation(given), _relation(wanted)
    if not relations and not targets:
        return None
    if not relations or not targets:
        interval = _interval(relations or targets)
        if interval is None:
            return None
        return agree(interval, wanted, _leaf) if relations else agree(given, interval, _leaf)
    if len(relations) != len(targets):
        interval, other = _interval(relations), _interval(targets)
        return agree(interval, other, _leaf) if interval and other else None
    if len(relations) == 1:
        return _same_relation(relations[0], targets[0])
    for target in targets:
        matches = [_same_relation(relation, target) for relation in relations]
        if True not in matches:
            return None if None in matches else False
    return True


_Relation = tuple[str, str, str]  # left, sign, right; > and ≥ turned round


def _relation(text: str) -> list[_Relation]:
    """The links of a chain such as `0<x<5`; empty when the text is none."""
    left, *rest = map(str.strip, _RELATION.split(text))
    chain = []
    for sign, right in zip(rest[::2], rest[1::2], strict=True):
        chain.append((right, _FLIPPED[sign], left) if sign in _FLIPPED else (left, sign, right))
        left = right
    return chain


def _same_relation(given: _Relation, wanted: _Relation) -> bool | None:
    if given[1] != wanted[1]:
        return False
    left, right = f"{given[0]}-({given[2]})", f"{wanted[0]}-({wanted[2]})"
    try:
        ratio = pointwise.proportional(left, right)
        if ratio is None:
            return False if given[1] != "=" or pointwise.zeros_differ(left, right) else None
    except ParseError:
        return None
    return ratio or given[1] in ("=", r"\neq")


def _interval(chain: list[_Relation]) -> str | None:
    r"""`0<x\leq5` as `(0,5]`; `None` when the chain is something else."""
    if not chain or not {sign for _, sign, _ in chain} <= {"<", r"\leq"}:
        return None
    opening, closing = ("([", ")]")
    if len(chain) == 2:
        (low, first, name), (also, second, high) = chain if chain[0][2] == chain[1][0] else chain[::-1]
        if name != also or not name.isalpha():
            return None
        return f"{opening[first != '<']}{low},{high}{closing[second != '<']}"
    if len(chain) > 1:
        return None
    ((left, sign, right),) = chain
    if re.fullmatch(r"\|[A-Za-z]\|", left):
        return f"{opening[sign != '<']}-({right}),{right}{closing[sign != '<']}"
    if left.isalpha() and len(left) == 1:
        return rf"(-\infty,{right}{closing[sign != '<']}"
    if right.isalpha() and len(right) == 1:
        return rf"{opening[sign != '<']}{left},\infty)"
    return None


def math_verify(given: str, wanted: str) -> bool:
    """True if Math-Verify finds two normalised answers equal; it may raise anything."""
    return bool(verify(_sympy(wanted), _sympy(given), timeout_seconds=None))


@lru_cache(maxsize=1024)
def _sympy(text: str) -> Any:
    """Math-Verify reads `i` as a letter like any other, and rounds as soon as one side is a decimal."""
    found = latex2sympy(text, normalization_config=_NORMALIZATION)
    if not isinstance(found, Basic | MatrixBase):
        return found
    meant: dict[Basic, Basic] = {number: Rational(str(number)) for number in found.atoms(Float)}
    meant |= {letter: I for letter in found.atoms(Symbol) if letter.name == "i"}
    return found.xreplace(meant) if meant else found


def warm_up() -> None:
    """Loads now, before any clock runs, what would be loaded with the first answers; silences the libraries."""
    logging.disable(logging.CRITICAL)
    for given, wanted in ((r"\sqrt{12}", r"2\sqrt{3}"), (r"f(x+1)-\frac{1}{2}", r"f(1+x)-\frac{2}{4}")):
        if not math_verify(given, wanted):
            raise RuntimeError(f"{given} is not {wanted}")


_RULES: Final = (
    _names, _kinds, _infinities, _approximations, _matrices, _members, _unions, _relations, pointwise.same, math_verify,
)  # fmt: skip
