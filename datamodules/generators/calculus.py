"""Calculus: derivatives, integrals, extrema, limits."""

from __future__ import annotations

import math
import random
from fractions import Fraction

from vibethinker.datamodules.generators.generator import (
    Draft,
    Family,
    add,
    bracketed,
    evaluate,
    multiply,
    nonzero,
    polynomial,
    ratio,
    signed,
    square,
    terms_at,
)


def product(rng: random.Random, difficulty: int) -> Draft:
    """`f'(k)` of `(ax+b)(cx+d)`: product rule, or expand first."""
    level = difficulty - 1
    (a, b), (c, d) = ((rng.randint(1, (2, 4, 9, 15)[level]), nonzero(rng, (4, 6, 12, 30)[level])) for _ in range(2))
    k = rng.randint(2, (4, 6, 9, 15)[level])
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
    pattern = rng.choice(("Find f'({k}) for f(x)=({f})({g}).", "Let f(x)=({f})({g}). What is f'({k})?"))
    prompt = pattern.format(k=k, f=polynomial(a, b), g=polynomial(c, d))
    return Draft((*low, *high, k), prompt, a * right + c * left, (rule, expand))


def chain(rng: random.Random, difficulty: int) -> Draft:
    """`f'(k)` of `(ax+b)^n`: chain rule, or expand first."""
    level = difficulty - 1
    n = (2, 2, 3, 3)[level]
    a, b = rng.randint(2, (3, 6, 4, 9)[level]), nonzero(rng, (6, 15, 9, 15)[level])
    k = nonzero(rng, (6, 15, 9, 15)[level])
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
    pattern = rng.choice(("Find f'({}) for f(x)=({})^{}.", "What is f'({}) when f(x)=({})^{}?"))
    return Draft((a, b, n, k), pattern.format(k, polynomial(a, b), n), answer, (rule, expand))


def integral(rng: random.Random, difficulty: int) -> Draft:
    """Definite integral: antiderivative, or a weighted mean of values times the width.

    The trapezoid rule is exact for linear integrands, Simpson's for quadratic and cubic ones.
    """
    level = difficulty - 1
    degree = (1, 1, 2, 3)[level]
    primitive = [rng.randint(1, (3, 5, 4, 4)[level]), *(nonzero(rng, (9, 20, 9, 12)[level]) for _ in range(degree)), 0]
    integrand = [(degree + 1 - i) * value for i, value in enumerate(primitive[:-1])]
    low = rng.randint(1, 5)
    width = rng.randint(1, 5) if degree == 1 else 2 * rng.randint(1, 3)
    high = low + width
    weights = {low: 1, high: 1} if degree == 1 else {low: 1, low + width // 2: 4, high: 1}
    values = {x: sum(terms_at(integrand, x)) for x in weights}
    share = sum(weights.values())
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
        f"{sum(weighted)}*{width}/{share}={sum(weighted) * width}/{share}={at_high - at_low}",
    ]
    pattern = rng.choice(("Integrate {} from {} to {}.", "Find the integral of {} from x={} to x={}."))
    prompt = pattern.format(polynomial(*integrand), low, high)
    return Draft((*integrand, low, high), prompt, at_high - at_low, (antiderivative, mean))


def minimum(rng: random.Random, difficulty: int) -> Draft:
    """Least value of `ax^2+bx+c`: zero of the derivative, or complete the square."""
    level = difficulty - 1
    a = rng.randint(1, (3, 5, 9, 15)[level])
    b = 2 * a * nonzero(rng, (5, 9, 15, 20)[level])
    if difficulty == 4:  # the critical point is then usually a fraction
        b += rng.randrange(2 * a)
    c = nonzero(rng, (12, 30, 60, 99)[level])
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
    pattern = rng.choice(("Find the minimum of f(x)={}.", "What is the least value of f(x)={}?"))
    return Draft((a, b, c), pattern.format(polynomial(a, b, c)), c - least, (derivative, complete))


def limit(rng: random.Random, difficulty: int) -> Draft:
    """`(kx^2+…)/(x-a)` at its gap: cancel the common factor, or l'Hopital's rule."""
    level = difficulty - 1
    a = nonzero(rng, (5, 9, 15, 30)[level])
    k = rng.randint(1, (3, 6, 12, 20)[level])
    m = nonzero(rng, (8, 20, 40, 80)[level])
    if m == k * a:  # no linear term
        m = -m
    top, below = polynomial(k, m - k * a, -a * m), f"x{signed(-a)}"
    cancel = [f"{top}=({below})({polynomial(k, m)})", *evaluate((k, m), a)]
    hopital = [f"({top})'={polynomial(2 * k, m - k * a)}", f"({below})'=1", *evaluate((2 * k, m - k * a), a)]
    pattern = rng.choice(("Find the limit of ({})/({}) as x->{}.", "What does ({})/({}) approach as x->{}?"))
    return Draft((k, m, a), pattern.format(top, below, a), k * a + m, (cancel, hopital))


FAMILIES: tuple[Family, ...] = (product, chain, integral, minimum, limit)
