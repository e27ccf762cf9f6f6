"""Answers to the embedded problems, read from the prompt alone and found by other means than the generator's."""

import itertools
import math
import re
import statistics as reference
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import sympy

x, y = sympy.symbols("x y")


def parsed(text: str) -> sympy.Expr:
    return sympy.sympify(re.sub(r"(?<=[\dxy)])(?=[xy(])", "*", text).replace("^", "**"), locals={"x": x, "y": y})


def integers(prompt: str) -> list[int]:
    return [int(value) for value in re.findall(r"-?\d+", prompt)]


def captured(pattern: str, prompt: str) -> tuple[str, ...]:
    found = re.search(pattern, prompt)
    assert found, prompt
    return found.groups()


def solve_linear(prompt: str) -> sympy.Expr:
    left, right = captured(r"(\d+\(x\S+\))=(-?\d+)", prompt)
    return sympy.solve(parsed(left) - int(right), x)[0]


def solve_system(prompt: str) -> sympy.Expr:
    s, left, right = captured(r"x\+y=(-?\d+) and (\S+)=(-?\d+)", prompt)
    return sympy.solve([x + y - int(s), parsed(left) - int(right)], [x, y])[x]


def solve_quadratic(prompt: str) -> sympy.Expr:
    left, right = captured(r"(x\^2\S*)=(-?\d+)", prompt)
    return max(sympy.Poly(parsed(left) - int(right), x).all_roots())


def sum_series(prompt: str) -> int:
    n, first, second, _ = integers(prompt)
    return sum(first + (second - first) * i for i in range(n))


def compose(prompt: str) -> sympy.Expr:
    f, g, k = captured(r"f\(x\)=(\S+) and g\(x\)=(\S+?)[.,] .*g\((-?\d+)\)", prompt)
    return parsed(f).subs(x, parsed(g)).subs(x, int(k))


def shoelace(prompt: str) -> sympy.Expr:
    first, second, height = integers(prompt)
    return abs(sympy.Polygon((0, 0), (first, 0), (second, height), (0, height)).area)


def measure_bisector(prompt: str) -> float:
    """Coordinates: C from A=(0,0), B=(1,0); D cuts AB in the ratio of the sides at C; the angle at D, in floats."""
    a, b = (math.radians(value) for value in integers(prompt))
    along = math.sin(b) / math.sin(a + b)
    apex = complex(along * math.cos(a), along * math.sin(a))
    foot = abs(apex) / (abs(apex) + abs(apex - 1))
    return math.degrees(math.pi - math.atan2(apex.imag, (apex - foot).real))


def radius_squared(prompt: str) -> sympy.Expr:
    """Thales: the circle is where the two ends are seen at a right angle; its equation at the centre is -r^2."""
    x0, y0, x1, y1 = integers(prompt)
    circle = (x - x0) * (x - x1) + (y - y0) * (y - y1)
    return -circle.subs(sympy.solve([circle.diff(x), circle.diff(y)], [x, y]))


def tangent_squared(prompt: str) -> float:
    """The distance to the point of contact, constructed in floats."""
    x0, y0, radius, x1, y1 = integers(prompt)
    centre, outside = complex(x0, y0), complex(x1, y1)
    away = outside - centre
    turn = math.acos(radius / abs(away))
    contact = centre + radius * away / abs(away) * complex(math.cos(turn), math.sin(turn))
    return abs(outside - contact) ** 2


def solve_similar(prompt: str) -> sympy.Expr:
    ab, bc, de = integers(prompt)
    return sympy.solve(sympy.Eq(sympy.Rational(ab, de), bc / x), x)[0]


def differentiate(prompt: str) -> sympy.Expr:
    (k,) = captured(r"f'\((-?\d+)\)", prompt)
    (f,) = captured(r"f\(x\)=(\(\S+[)\d])(?:\.|\?)", prompt)
    return sympy.diff(parsed(f), x).subs(x, int(k))


def integrate(prompt: str) -> sympy.Expr:
    f, low, high = captured(r"(\S*x\S*) from (?:x=)?(\d+) to (?:x=)?(\d+)", prompt)
    return sympy.integrate(parsed(f), (x, int(low), int(high)))


def minimise(prompt: str) -> sympy.Expr:
    (f,) = captured(r"f\(x\)=(\S+)[.?]", prompt)
    (lowest,) = sympy.solve(sympy.diff(parsed(f), x), x)
    return parsed(f).subs(x, lowest)


def take_limit(prompt: str) -> sympy.Expr:
    above, below, at = captured(r"\((\S+)\)/\((\S+)\).* x->(-?\d+)", prompt)
    return sympy.limit(parsed(above) / parsed(below), x, int(at))


def balance_mean(prompt: str) -> sympy.Expr:
    n, mean, *known = integers(prompt)
    return sympy.solve((sum(known) + x) / n - mean, x)[0]


def population_variance(prompt: str) -> Fraction:
    return reference.pvariance([Fraction(value) for value in integers(prompt)])


def count_balls(prompt: str) -> Fraction:
    red, blue, green = integers(prompt)
    bag = "r" * red + "b" * blue + "g" * green
    return Fraction(sum(ball != "g" for ball in bag), len(bag))


def average_outcome(prompt: str) -> Fraction:
    high, hits, chances, low = integers(prompt)
    return reference.mean([Fraction(high)] * hits + [Fraction(low)] * (chances - hits))


def enumerate_pairs(prompt: str) -> int:
    men, women, _, excluded = integers(prompt)
    people = "m" * men + "w" * women
    return sum("w" in pair for pair in itertools.combinations(people, 2)) - excluded


ORACLES: Mapping[str, Callable[[str], Any]] = {
    "linear": solve_linear,
    "system": solve_system,
    "quadratic": solve_quadratic,
    "series": sum_series,
    "composition": compose,
    "trapezoid": shoelace,
    "bisector": measure_bisector,
    "circle": radius_squared,
    "tangent": tangent_squared,
    "similar": solve_similar,
    "product": differentiate,
    "chain": differentiate,
    "integral": integrate,
    "minimum": minimise,
    "limit": take_limit,
    "missing": balance_mean,
    "variance": population_variance,
    "probability": count_balls,
    "expectation": average_outcome,
    "pairs": enumerate_pairs,
}
