"""Calculus: derivatives, integrals, extrema, limits."""

from __future__ import annotations

import math
from fractions import Fraction

from vibethinker.datamodules.generators.family import (
    Draft,
    Family,
    LevelRandom,
    add,
    bracketed,
    evaluate,
    multiply,
    polynomial,
    ratio,
    signed,
    square,
    terms_at,
)


def product(rng: LevelRandom) -> Draft:
    """`f'(k)` of `(ax+b)(cx+d)`: product rule, or expand first."""
    (a, b), (c, d) = ((rng.integer(1, (2, 4, 9, 15)), rng.nonzero((4, 6, 12, 30))) for _ in range(2))
    k = rng.integer(2, (4, 6, 9, 15))
    left, right = a * k + b, c * k + d
    middle = a * d + b * c
    rule = [
        *evaluate((a, b), k),
        *evaluate((c, d), k),
        f"{a}*{bracketed(right)}+{c}*{bracketed(left)}={add(a * right, c * left)}",
    ]
    expand = [
        f"{a}*{bracketed(d)}+{c}*{bracketed(b)}={add(a * d, c * b)}",
        f"f={polynomial(a * c, middle, b * d)}",
        f"f'={polynomial(2 * a * c, middle)}",
        *evaluate((2 * a * c, middle), k),
    ]
    low, high = sorted(((a, b), (c, d)))
    pattern = rng.phrase("Find f'({k}) for f(x)=({f})({g}).", "Let f(x)=({f})({g}). What is f'({k})?")
    prompt = pattern.format(k=k, f=polynomial(a, b), g=polynomial(c, d))
    return Draft((*low, *high, k), prompt, a * right + c * left, (rule, expand))


def chain(rng: LevelRandom) -> Draft:
    """`f'(k)` of `(ax+b)^n`: chain rule, or expand first."""
    n = rng.level((2, 2, 3, 3))
    a, b = rng.integer(2, (3, 6, 4, 9)), rng.nonzero((6, 15, 9, 15))
    k = rng.nonzero((6, 15, 9, 15))
    inner = a * k + b
    expanded = [math.comb(n, i) * a ** (n - i) * b**i for i in range(n + 1)]
    derivative = [(n - i) * value for i, value in enumerate(expanded[:-1])]
    answer = n * a * inner ** (n - 1)
    rule = [
        f"f'={n * a}({polynomial(a, b)}){'^2' if n == 3 else ''}",
        *evaluate((a, b), k),
        *([square(inner)] if n == 3 else []),
        multiply(n * a, inner ** (n - 1)),
    ]
    expand = [f"f={polynomial(*expanded)}", f"f'={polynomial(*derivative)}", *evaluate(derivative, k)]
    pattern = rng.phrase("Find f'({}) for f(x)=({})^{}.", "What is f'({}) when f(x)=({})^{}?")
    return Draft((a, b, n, k), pattern.format(k, polynomial(a, b), n), answer, (rule, expand))


def integral(rng: LevelRandom) -> Draft:
    """Definite integral: antiderivative, or a weighted mean of values times the width.

    The trapezoid rule is exact for linear integrands, Simpson's for quadratic and cubic ones.
    """
    degree = rng.level((1, 1, 2, 3))
    primitive = [rng.integer(1, (3, 5, 4, 4)), *(rng.nonzero((9, 20, 9, 12)) for _ in range(degree)), 0]
    integrand = [(degree + 1 - i) * value for i, value in enumerate(primitive[:-1])]
    low = rng.randint(1, 5)
    width = rng.randint(1, 5) if degree == 1 else 2 * rng.randint(1, 3)
    high = low + width
    weights = {low: 1, high: 1} if degree == 1 else {low: 1, low + width // 2: 4, high: 1}
    values = {x: sum(terms_at(integrand, x)) for x in weights}
    total = sum(weights.values())
    weighted = [weight * values[x] for x, weight in weights.items()]
    at_low, at_high = (sum(terms_at(primitive, x)) for x in (low, high))
    antiderivative = [
        f"F={polynomial(*primitive)}",
        f"F({high})={add(*terms_at(primitive, high))}",
        f"F({low})={add(*terms_at(primitive, low))}",
        add(at_high, -at_low),
    ]
    mean = [
        *(f"f({x})={add(*terms_at(integrand, x))}" for x in weights),
        *(multiply(weight, values[x]) for x, weight in weights.items() if weight > 1),
        add(*weighted),
        add(high, -low),
        f"{sum(weighted)}*{width}/{total}={sum(weighted) * width}/{total}={at_high - at_low}",
    ]
    pattern = rng.phrase("Integrate {} from {} to {}.", "Find the integral of {} from x={} to x={}.")
    prompt = pattern.format(polynomial(*integrand), low, high)
    return Draft((*integrand, low, high), prompt, at_high - at_low, (antiderivative, mean))


def minimum(rng: LevelRandom) -> Draft:
    """Least value of `ax^2+bx+c`: zero of the derivative, or complete the square."""
    a = rng.integer(1, (3, 5, 9, 15))
    b = 2 * a * rng.nonzero((5, 9, 15, 20))
    if rng.difficulty == 4:  # the critical point is then usually a fraction
        b += rng.randrange(2 * a)
    c = rng.nonzero((12, 30, 60, 99))
    x = Fraction(-b, 2 * a)
    least = a * x * x
    critical = f"x={ratio(-b, 2 * a)}"
    derivative = [f"f'={polynomial(2 * a, b)}=0", critical, *evaluate((a, b, c), x)]
    complete = [
        critical,
        square(x) if a == 1 else multiply(a, x * x),
        f"{'' if a == 1 else a}(x{signed(-x)})^2={polynomial(a, b, least)}",
        add(c, -least),
    ]
    pattern = rng.phrase("Find the minimum of f(x)={}.", "What is the least value of f(x)={}?")
    return Draft((a, b, c), pattern.format(polynomial(a, b, c)), c - least, (derivative, complete))


def limit(rng: LevelRandom) -> Draft:
    """`(kx^2+…)/(x-a)` at its gap: cancel the common factor, or l'Hopital's rule."""
    a = rng.nonzero((5, 9, 15, 30))
    k = rng.integer(1, (3, 6, 12, 20))
    m = rng.nonzero((8, 20, 40, 80))
    if m == k * a:  # no linear term
        m = -m
    top, below = polynomial(k, m - k * a, -a * m), f"x{signed(-a)}"
    cancel = [f"{top}=({below})({polynomial(k, m)})", *evaluate((k, m), a)]
    hopital = [f"({top})'={polynomial(2 * k, m - k * a)}", f"({below})'=1", *evaluate((2 * k, m - k * a), a)]
    pattern = rng.phrase("Find the limit of ({})/({}) as x->{}.", "What does ({})/({}) approach as x->{}?")
    return Draft((k, m, a), pattern.format(top, below, a), k * a + m, (cancel, hopital))


FAMILIES: tuple[Family, ...] = (product, chain, integral, minimum, limit)
