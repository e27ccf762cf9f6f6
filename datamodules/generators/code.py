"""Code: one small function each, judged by hidden calls whose values no program here has computed.

Every family has a solution that writes down what the prompt says and one that has worked something out before, so that
correct programs differ in more than their spelling. A family's tests are a function of its key alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vibethinker.datamodules.generators.base import Draft, Family, nonzero, polynomial, signed

Lines = list[str]


def affine(rng: random.Random, difficulty: int) -> Draft:
    """`a(x+b)`: as it is said, expanded, or in two steps."""
    level = difficulty - 1
    a = rng.randint(2, (9, 40, 99, 400)[level])
    b = nonzero(rng, (9, 60, 200, 900)[level])
    add = f"add {b} to x" if b > 0 else f"subtract {-b} from x"
    pattern = rng.choice(("Write f(x): {}, then multiply by {}.", "f(x) is: {}, times {}. Write f."))
    solutions = (
        _returning("x", f"{a}*(x{signed(b)})"),
        _returning("x", f"{a}*x{signed(a * b)}"),
        ["def f(x):", f"    x=x{signed(b)}", f"    return x*{a}"],
    )
    tests = _calls(lambda x: (x + b) * a, [(0,), (1,), (-3,), (10,), (-b,)])
    return Draft((a, b), pattern.format(add, a), None, solutions, tests)


def points(rng: random.Random, difficulty: int) -> Draft:
    """The line through two points: slope and intercept worked out, or both left to the program."""
    level = difficulty - 1
    a = nonzero(rng, (9, 25, 60, 150)[level])
    b = nonzero(rng, (9, 70, 200, 900)[level])
    p = rng.randint(1, (2, 4, 6, 9)[level])
    q = p + rng.randint(1, (2, 4, 6, 9)[level])
    first, second = a * p + b, a * q + b
    pattern = rng.choice(
        ("Write the line f(x) with f({})={} and f({})={}.", "f is linear, f({})={}, f({})={}. Write f(x).")
    )
    left = f"({second}{signed(-first)})//({q}-{p})" if q - p > 1 else f"({second}{signed(-first)})"
    solutions = (
        _returning("x", polynomial(a, b).replace("x", "*x") if abs(a) > 1 else polynomial(a, b)),
        ["def f(x):", f"    a={left}", f"    return {first}+a*(x-{p})"],
    )
    tests = _calls(lambda x: a * x + b, [(0,), (-1,), (q + 1,), (q + 7,), (-20,)])
    return Draft((a, b), pattern.format(p, first, q, second), None, solutions, tests)


def branch(rng: random.Random, difficulty: int) -> Draft:
    """A product above a threshold, a sum below: a statement, or an expression."""
    level = difficulty - 1
    a = rng.randint(2, (5, 9, 30, 99)[level])
    t = rng.randint(1, (9, 40, 99, 400)[level])
    b = nonzero(rng, (9, 50, 200, 900)[level])
    other = f"x plus {b}" if b > 0 else f"x minus {-b}"
    pattern = rng.choice(
        ("Write f(x): {} times x if x is above {}, else {}.", "f(x) is {} times x for x over {}, otherwise {}.")
    )
    solutions = (
        ["def f(x):", f"    if x>{t}:", f"        return {a}*x", f"    return x{signed(b)}"],
        _returning("x", f"x{signed(b)} if x<{t + 1} else {a}*x"),
    )
    tests = _calls(lambda x: a * x if x > t else x + b, [(t,), (t + 1,), (t - 1,), (t + 50,), (-7,)])
    return Draft((a, t, b), pattern.format(a, t, other), None, solutions, tests)


def summation(rng: random.Random, difficulty: int) -> Draft:
    """A sum over a range: a loop, a generator, or the closed form."""
    level = difficulty - 1
    a = rng.randint(2, (9, 40, 99, 400)[level])
    b = nonzero(rng, (9, 60, 200, 900)[level])
    term = f"{a}*k{signed(b)}"
    pattern = rng.choice(
        ("Write f(n): the sum of {}k{} for k from 1 to n.", "f(n) adds up {}k{} for k=1 to n. Write f.")
    )
    solutions = (
        ["def f(n):", "    s=0", "    for k in range(1,n+1):", f"        s+={term}", "    return s"],
        _returning("n", f"sum({term} for k in range(1,n+1))"),
        _returning("n", f"n*({a}*n{signed(a + 2 * b)})//2"),
    )
    tests = _calls(lambda n: sum(a * k + b for k in range(n + 1)) - b, [(0,), (1,), (2,), (5,), (9,)])
    return Draft((a, b), pattern.format(a, signed(b)), None, solutions, tests)


def between(rng: random.Random, difficulty: int) -> Draft:
    """The elements within bounds, added or counted: a generator, or a loop."""
    level = difficulty - 1
    low = rng.randint(1, (9, 60, 300, 800)[level])
    high = low + rng.randint(2, (9, 60, 300, 900)[level])
    counted = rng.random() < 0.5
    what, term = ("number", "1") if counted else ("sum", "x")
    pattern = rng.choice(
        ("Write f(v): the {} of elements of v from {} to {}.", "f(v) is the {} of all in v from {} to {}. Write f.")
    )
    solutions = (
        _returning("v", f"sum({term} for x in v if {low}<=x<={high})"),
        [
            "def f(v):",
            "    s=0",
            "    for x in v:",
            f"        if x in range({low},{high + 1}):",
            f"            s+={term}",
            "    return s",
        ],
    )

    def expected(values: Sequence[int]) -> int:
        kept = [value for value in values if not (value < low or value > high)]
        return len(kept) if counted else sum(kept)

    lists = [
        [],
        [low, high],
        [low - 1, low + 1, high + 1],
        [high, 0, high - 1, low],
        [low, low, 2 * high, -low, high - 1],
    ]
    tests = _calls(expected, [(values,) for values in lists])
    return Draft((int(counted), low, high), pattern.format(what, low, high), None, solutions, tests)


def mapped(rng: random.Random, difficulty: int) -> Draft:
    """Some elements, each changed: a comprehension, or a loop that appends."""
    level = difficulty - 1
    low = rng.randint(1, (9, 60, 300, 800)[level])
    b = nonzero(rng, (9, 60, 300, 900)[level])
    each = f"plus {b}" if b > 0 else f"minus {-b}"
    pattern = rng.choice(
        (
            "Write f(v): the list of the elements of v above {}, each {}.",
            "f(v) lists all in v over {}, each {}. Write f.",
        )
    )
    solutions = (
        _returning("v", f"[x{signed(b)} for x in v if x>{low}]"),
        [
            "def f(v):",
            "    w=[]",
            "    for x in v:",
            f"        if x>{low}:",
            f"            w+=[x{signed(b)}]",
            "    return w",
        ],
    )
    lists = [[], [low, low + 1], [low - 1, 2 * low, 3], [low + 5, -low, low + 9, low + 5], [low]]
    tests = _calls(lambda v: [x + b for x in filter(low.__lt__, v)], [(values,) for values in lists])
    return Draft((low, b), pattern.format(low, each), None, solutions, tests)


def extremes(rng: random.Random, difficulty: int) -> Draft:
    """Largest and smallest, weighted: by name, or from the sorted list."""
    level = difficulty - 1
    a, b = (rng.randint(2, (9, 70, 200, 900)[level]) for _ in range(2))
    pattern = rng.choice(
        (
            "Write f(v): {} times the largest minus {} times the smallest of v.",
            "f(v) is {} times max(v) less {} times min(v). Write f.",
        )
    )
    solutions = (
        _returning("v", f"{a}*max(v)-{b}*min(v)"),
        ["def f(v):", "    v=sorted(v)", f"    return {a}*v[-1]-{b}*v[0]"],
    )
    lists = [[4], [1, 2], [5, -3, 8, 0], [9, 9, 2, 7], [-6, -2, -11]]
    tests = _calls(lambda v: a * sorted(v)[-1] - b * sorted(v)[0], [(values,) for values in lists])
    return Draft((a, b), pattern.format(a, b), None, solutions, tests)


def pair(rng: random.Random, difficulty: int) -> Draft:
    """`a(x+y)-b(x-y)`: as it is said, or collected."""
    level = difficulty - 1
    a, b = (rng.randint(2, (9, 70, 200, 900)[level]) for _ in range(2))
    if a == b:  # x would vanish
        a += 1
    pattern = rng.choice(("Write f(x,y): {} times x+y minus {} times x-y.", "f(x,y) is {}(x+y)-{}(x-y). Write f."))
    solutions = (
        _returning("x,y", f"{a}*(x+y)-{b}*(x-y)"),
        _returning("x,y", f"{a - b}*x+{a + b}*y"),
    )
    tests = _calls(lambda x, y: (a - b) * x + (a + b) * y, [(0, 0), (1, 0), (0, 1), (5, -2), (-3, 8)])
    return Draft((a, b), pattern.format(a, b), None, solutions, tests)


def text(rng: random.Random, difficulty: int) -> Draft:
    """Letters dropped at both ends, the rest turned round and repeated: slice by slice, or in one slice."""
    level = difficulty - 1
    i, j = (rng.randint(2, (4, 12, 25, 60)[level]) for _ in range(2))
    k = rng.randint(2, (9, 50, 99, 400)[level])
    pattern = rng.choice(
        (
            "Write f(s): drop the first {} and last {} letters of s, reverse, repeat {} times.",
            "f(s) is s without {} letters in front and {} behind, reversed, {} times. Write f.",
        )
    )
    solutions = (
        _returning("s", f"s[{i}:-{j}][::-1]*{k}"),
        _returning("s", f"s[-{j + 1}:{i - 1}:-1]*{k}"),
    )
    alphabet = "abcdefghijklmnopqrstuvwxyz" * 5
    words = ["", alphabet[: i + j], alphabet[3 : 4 + i + j], alphabet[7 : 11 + i + j], "x" * i + "yz" + "w" * j]
    tests = _calls(lambda s: "".join(reversed(s[i : max(len(s) - j, i)])) * k, [(word,) for word in words])
    return Draft((i, j, k), pattern.format(i, j, k), None, solutions, tests)


def _returning(parameters: str, expression: str) -> Lines:
    return [f"def f({parameters}):", f"    return {expression}"]


def _calls(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> tuple[Mapping[str, Any], ...]:
    """What the program is asked, and what `function`, which is no solution, says to it."""
    return tuple({"call": "f", "args": list(args), "expected": function(*args)} for args in arguments)


FAMILIES: tuple[Family, ...] = (affine, points, branch, summation, between, mapped, extremes, pair, text)
