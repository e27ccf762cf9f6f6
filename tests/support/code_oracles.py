"""What the embedded code problems ask for, read from the prompt alone and computed by other means."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

Function = Callable[..., Any]


def integers(prompt: str) -> list[int]:
    """Those that stand alone: the exponent of `x^2`, and the points of `f(1)` where they are fixed, are none."""
    return [int(value) for value in re.findall(r"(?<!\^)(?<![\d)])-?\d+", prompt)]


def affine(prompt: str) -> Function:
    b, a = integers(prompt)
    shift = -b if "subtract" in prompt else b
    return lambda x: sum([x + shift] * a)


def through(prompt: str, points: list[tuple[int, int]], leading: int) -> Function:
    """Lagrange's interpolation, beside `leading` times the product of all (x - point)."""

    def value(x: int) -> Fraction:
        total, product = Fraction(0), Fraction(leading)
        for p, y in points:
            term = Fraction(y)
            for q, _ in points:
                if q != p:
                    term *= Fraction(x - q, p - q)
            total += term
            product *= x - p
        return total + product

    return value


def points(prompt: str) -> Function:
    found = [(int(p), int(y)) for p, y in re.findall(r"f\((\d+)\)=(-?\d+)", prompt)]
    return through(prompt, found, leading=0)


def parabola(prompt: str) -> Function:
    found = [(int(p), int(y)) for p, y in re.findall(r"f\((\d+)\)=(-?\d+)", prompt)]
    return through(prompt, found, leading=1)


def branch(prompt: str) -> Function:
    b, a, t = (int(value) for value in re.findall(r"[+-]?\d+", prompt))
    return lambda x: (x + b) * a if not x + b <= t else x + b


def summation(prompt: str) -> Function:
    match = re.search(r"(\d+)k([+-]\d+)", prompt)
    assert match
    a, b = int(match[1]), int(match[2])
    return lambda n: a * (n * (n + 1) // 2) + b * n


def within(prompt: str) -> Function:
    reach, middle = integers(prompt)
    weight = (lambda x: 1) if "number" in prompt else (lambda x: x)
    return lambda v: sum(weight(x) for x in v if (x - middle) ** 2 <= reach**2)


def mapped(prompt: str) -> Function:
    low, b = integers(prompt)
    shift = -b if "minus" in prompt else b
    return lambda v: [x + shift for x in v if not x <= low]


def extremes(prompt: str) -> Function:
    a, b = integers(prompt)
    return lambda v: a * max(x - y for x in v for y in v) + b * sorted(v)[-1]


def pair(prompt: str) -> Function:
    a, b = (int(value) for value in re.findall(r"\d+", prompt))
    return lambda x, y: a * (x + y) - b * (x - y)


def text(prompt: str) -> Function:
    i, j, k = integers(prompt)
    return lambda s: "".join(s[place] for _ in range(k) for place in range(i + j, len(s)))


ORACLES: Mapping[str, Callable[[str], Function]] = {
    function.__name__: function
    for function in (affine, points, parabola, branch, summation, within, mapped, extremes, pair, text)
}
