"""Algebra: equations, systems, sequences, functions."""

from __future__ import annotations

from fractions import Fraction

from vibethinker.datamodules.generators.family import (
    Draft,
    Family,
    LevelRandom,
    add,
    divide,
    multiply,
    polynomial,
    ratio,
    signed,
    square,
    term,
)


def linear(rng: LevelRandom) -> Draft:
    """`a(x+b)=c`: expand the bracket, or divide by `a` first."""
    a = rng.integer(2, (5, 9, 15, 30))
    b = rng.nonzero((6, 12, 30, 60))
    c = a * (rng.integer((1, -9, -20, -50), (12, 20, 40, 90)) + b)
    if rng.difficulty == 4:  # the solution is then usually a fraction
        c += rng.randrange(a)
    equation = f"{a}(x{signed(b)})={c}"
    quotient = Fraction(c, a)
    expand = [
        multiply(a, b),
        f"{a}x{signed(a * b)}={c}",
        f"{a}x={add(c, -a * b)}",
        f"x={ratio(c - a * b, a)}",
    ]
    divide_first = [f"x{signed(b)}={ratio(c, a)}", f"x={add(quotient, -b)}"]
    prompt = rng.phrase("Solve {}.", "Find x if {}.", "What is x when {}?").format(equation)
    return Draft((a, b, c), prompt, quotient - b, (expand, divide_first))


def system(rng: LevelRandom) -> Draft:
    """`x+y=s`, `ax+by=c`: eliminate y, or substitute y."""
    b = rng.integer(2, (4, 8, 15, 30))
    a = rng.integer(b + 1, (6, 9, 20, 40))
    x, y = (rng.integer((1, 1, -10, -30), (9, 15, 25, 60)) for _ in range(2))
    s, c = x + y, a * x + b * y
    left = term(a - b)
    last = [] if a - b == 1 else [f"x={ratio(c - b * s, a - b)}"]
    eliminate = [multiply(b, s), f"{b}x+{b}y={b * s}", f"{left}={add(c, -b * s)}", *last]
    substitute = [f"y={s}-x", f"{a}x+{b}({s}-x)={c}", f"{left}{signed(b * s)}={c}", f"{left}={add(c, -b * s)}", *last]
    pattern = rng.phrase("Given x+y={} and {}x+{}y={}, find x.", "Find x if x+y={} and {}x+{}y={}.")
    return Draft((s, a, b, c), pattern.format(s, a, b, c), x, (eliminate, substitute))


def quadratic(rng: LevelRandom) -> Draft:
    """`x^2+bx+c=e`, larger root: factor, or use the quadratic formula."""
    low, high = sorted(rng.nonzero((6, 9, 15, 30)) for _ in range(2))
    if low == high:
        high += 1 if high != -1 else 2  # two roots, neither of them zero
    e = rng.integer(1, (10, 30, 60, 99))
    b, product = -(low + high), low * high
    c = product + e
    gap = high - low
    factor = [
        add(c, -e),
        multiply(low, high),
        add(low, high),
        f"(x{signed(-low)})(x{signed(-high)})=0",
    ]
    formula = [
        add(c, -e),
        square(abs(b)),
        multiply(4, product),
        f"{add(b * b, -4 * product)}={gap}^2",
        add(-b, gap),
        divide(gap - b, 2),
    ]
    pattern = rng.phrase("Find the larger root of {}={}.", "Find the larger solution of {}={}.")
    return Draft((b, c, e), pattern.format(polynomial(1, b, c), e), high, (factor, formula))


def series(rng: LevelRandom) -> Draft:
    """Sum of an arithmetic sequence: pair first with last, or count how often the difference occurs."""
    first = rng.integer(1, (15, 30, 60, 99))
    step = rng.integer(2, (5, 9, 15, 25)) * rng.choice((1, 1, -1))
    n = rng.integer(4, (6, 12, 20, 40))
    rise = step * (n - 1)
    last, often = first + rise, n * (n - 1) // 2
    pair = [
        multiply(n - 1, step),
        add(first, rise),
        add(first, last),
        multiply(n, first + last),
        divide(n * (first + last), 2),
    ]
    count = [
        multiply(n, first),
        multiply(n, n - 1),
        divide(n * (n - 1), 2),
        multiply(often, step),
        add(n * first, often * step),
    ]
    pattern = rng.phrase("Find the sum of the first {} terms of {},{},{},...", "Add the first {} terms of {},{},{},...")
    prompt = pattern.format(n, first, first + step, first + 2 * step)
    return Draft((first, step, n), prompt, n * first + often * step, (pair, count))


def composition(rng: LevelRandom) -> Draft:
    """`f(g(k))` of linear functions: from the inside out, or compose the functions first."""
    a, c = (rng.integer(2, (3, 5, 9, 15)) for _ in range(2))
    b, d = (rng.nonzero((5, 9, 20, 40)) for _ in range(2))
    k = rng.integer(1, (5, 9, 12, 20))
    inner = c * k + d
    answer = a * inner + b
    inside_out = [multiply(c, k), f"g({k})={add(c * k, d)}", multiply(a, inner), f"f({inner})={add(a * inner, b)}"]
    compose = [
        multiply(a, c),
        multiply(a, d),
        add(a * d, b),
        f"f(g(x))={polynomial(a * c, a * d + b)}",
        multiply(a * c, k),
        add(a * c * k, a * d + b),
    ]
    pattern = rng.phrase("Let f(x)={} and g(x)={}. Find f(g({})).", "If f(x)={} and g(x)={}, what is f(g({}))?")
    prompt = pattern.format(polynomial(a, b), polynomial(c, d), k)
    return Draft((a, b, c, d, k), prompt, answer, (inside_out, compose))


FAMILIES: tuple[Family, ...] = (linear, system, quadratic, series, composition)
