"""Programming: one small function each, graded by hidden calls whose expected values no program here has computed.

Every family has a program that is literally what the prompt says, and one whose constants are computed in advance;
curves through two points have only the latter. The first kind needs copying alone, the second mental arithmetic: which
of them to write is what a policy can learn from its rewards. A problem's tests depend on its key alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vibethinker.datamodules.generators.family import Draft, Family, LevelRandom, polynomial, signed

_LETTERS = "abcdefghijklmnopqrstuvwxyz" * 5


def affine(rng: LevelRandom) -> Draft:
    """`a(x+b)`: literally, or expanded."""
    a = rng.integer(2, (9, 40, 99, 400))
    b = rng.nonzero((9, 60, 200, 900))
    change = f"add {b} to x" if b > 0 else f"subtract {-b} from x"
    pattern = rng.phrase("Write f(x): {}, then multiply by {}.", "f(x) is: {}, times {}. Write f.")
    literal = _returning("x", f"{a}*(x{signed(b)})")
    expanded = _returning("x", f"{a}*x{signed(a * b)}")
    tests = _calls(lambda x: (x + b) * a, [0], [1], [-3], [10], [b + 60])
    return Draft((a, b), pattern.format(change, a), None, (literal, expanded), tests)


def points(rng: LevelRandom) -> Draft:
    """The line through two points: by its slope and intercept, or by its slope from the first point."""
    a = rng.nonzero((9, 25, 60, 150))
    b = rng.nonzero((9, 70, 200, 900))
    p = rng.integer(1, (2, 4, 6, 9))
    q = p + rng.integer(1, (2, 4, 6, 9))
    first, second = a * p + b, a * q + b
    pattern = rng.phrase(
        "Write the line f(x) with f({})={} and f({})={}.", "f is linear, f({})={}, f({})={}. Write f(x)."
    )
    intercept = _returning("x", polynomial(a, b).replace("x", "*x" if abs(a) > 1 else "x"))
    slope = _returning("x", f"{first}{signed(a)}*(x-{p})")
    tests = _calls(lambda x: a * x + b, [0], [-1], [20], [31], [-20])
    return Draft((a, b), pattern.format(p, first, q, second), None, (intercept, slope), tests)


def parabola(rng: LevelRandom) -> Draft:
    """The parabola through two points: in powers of x, or with x factored out."""
    b, c = (rng.nonzero((9, 60, 200, 900)) for _ in range(2))
    pattern = rng.phrase("f(x)=x^2+bx+c, f(1)={}, f(2)={}. Write f.", "Write f(x)=x^2+bx+c with f(1)={} and f(2)={}.")
    powers = _returning("x", polynomial(1, b, c).replace("x^2", "x*x").replace(f"{b}x", f"{b}*x"))
    factored = _returning("x", f"x*(x{signed(b)}){signed(c)}")
    tests = _calls(lambda x: x**2 + b * x + c, [0], [-1], [3], [10], [-20])
    return Draft((b, c), pattern.format(1 + b + c, 4 + 2 * b + c), None, (powers, factored), tests)


def branch(rng: LevelRandom) -> Draft:
    """A shifted number, multiplied above a threshold: shift first, or cases in terms of the argument."""
    a = rng.integer(2, (5, 9, 30, 99))
    t = rng.integer(1, (9, 40, 99, 400))
    b = rng.nonzero((9, 50, 200, 900))
    pattern = rng.phrase(
        "Write f(x): with y=x{}, {} times y if y>{}, else y.", "f(x) is y=x{}, or {} times y for y>{}. Write f."
    )
    literal = ["def f(x):", f"    y=x{signed(b)}", f"    if y>{t}:", f"        return {a}*y", "    return y"]
    cases = _returning("x", f"{a}*x{signed(a * b)} if x>{t - b} else x{signed(b)}")
    tests = _calls(lambda x: (x + b) * (a if x + b > t else 1), [t - b], [t - b + 1], [t - b - 1], [t - b + 50], [-b])
    return Draft((a, t, b), pattern.format(signed(b), a, t), None, (literal, cases), tests)


def summation(rng: LevelRandom) -> Draft:
    """A sum over a range: a loop, or the closed form."""
    a = rng.integer(2, (9, 40, 99, 400))
    b = rng.nonzero((9, 60, 200, 900))
    pattern = rng.phrase("Write f(n): the sum of {}k{} for k from 1 to n.", "f(n) adds up {}k{} for k=1 to n. Write f.")
    loop = ["def f(n):", "    s=0", "    for k in range(1,n+1):", f"        s+={a}*k{signed(b)}", "    return s"]
    closed = _returning("n", f"n*({a}*n{signed(a + 2 * b)})//2" if a + 2 * b else f"n*{a}*n//2")
    tests = _calls(lambda n: sum(a * k + b for k in range(n + 1)) - b, [0], [1], [2], [5], [9])
    return Draft((a, b), pattern.format(a, signed(b)), None, (loop, closed), tests)


def within(rng: LevelRandom) -> Draft:
    """Elements near a value, added or counted: by their distance in a loop, or between bounds in a generator."""
    middle = rng.integer(1, (9, 70, 300, 800))
    reach = rng.integer(2, (9, 60, 300, 900))
    counted = rng.random() < 0.5
    what, term = ("number", "1") if counted else ("sum", "x")
    pattern = rng.phrase(
        "Write f(v): the {} of elements of v within {} of {}.", "f(v) is the {} of all in v within {} of {}. Write f."
    )
    low, high = middle - reach, middle + reach
    near = f"        if abs(x-{middle})<={reach}:"
    loop = ["def f(v):", "    s=0", "    for x in v:", near, f"            s+={term}", "    return s"]
    bounds = _returning("v", f"sum({term} for x in v if {low}<=x<={high})")

    def expected(values: Sequence[int]) -> int:
        kept = [value for value in values if value in range(low, high + 1)]
        return len(kept) if counted else sum(kept)

    lists: tuple[list[int], ...] = (
        [],
        [low, high],
        [low - 1, low + 1, high + 1],
        [high, low, high - 1, low - 1],
        [low, low, 9 * high, high - 1],
    )
    tests = _calls(expected, *([values] for values in lists))
    return Draft((int(counted), middle, reach), pattern.format(what, reach, middle), None, (loop, bounds), tests)


def mapped(rng: LevelRandom) -> Draft:
    """Large elements, each changed: choose and change in a loop, or change all and choose by the changed bound."""
    low = rng.integer(1, (9, 60, 300, 800))
    b = rng.nonzero((9, 60, 300, 900))
    each = f"plus {b}" if b > 0 else f"minus {-b}"
    pattern = rng.phrase(
        "Write f(v): the list of the elements of v above {}, each {}.", "f(v) lists all in v over {}, each {}. Write f."
    )
    append = f"            w+=[x{signed(b)}]"
    choose_first = ["def f(v):", "    w=[]", "    for x in v:", f"        if x>{low}:", append, "    return w"]
    change_first = ["def f(v):", f"    w=[x{signed(b)} for x in v]", f"    return [y for y in w if y>{low + b}]"]
    lists: tuple[list[int], ...] = [], [low, low + 1], [low - 1, 2 * low, 3], [low + 5, -low, low + 9, low + 5], [low]
    tests = _calls(lambda v: [x + b for x in filter(low.__lt__, v)], *([values] for values in lists))
    return Draft((low, b), pattern.format(low, each), None, (choose_first, change_first), tests)


def extremes(rng: LevelRandom) -> Draft:
    """Two multiples of the largest and one of the smallest: by name, or collected over the sorted list."""
    a, b = (rng.integer(2, (9, 70, 200, 900)) for _ in range(2))
    pattern = rng.phrase(
        "Write f(v): {} times the range of v plus {} times its maximum.",
        "f(v) is {}*(largest-smallest)+{}*largest of v. Write f.",
    )
    literal = ["def f(v):", "    m=max(v)", f"    return {a}*(m-min(v))+{b}*m"]
    collected = ["def f(v):", "    v=sorted(v)", f"    return {a + b}*v[-1]-{a}*v[0]"]
    tests = _calls(
        lambda v: max(a * (max(v) - x) for x in v) + b * max(v), [[4]], [[1, 2]], [[5, -3, 8, 0]], [[9, 9, 2]]
    )
    return Draft((a, b), pattern.format(a, b), None, (literal, collected), tests)


def pair(rng: LevelRandom) -> Draft:
    """`a(x+y)-b(x-y)`: literally, or collected."""
    a, b = (rng.integer(2, (9, 70, 200, 900)) for _ in range(2))
    if a == b:  # x would vanish
        a += 1
    pattern = rng.phrase("Write f(x,y): {} times x+y minus {} times x-y.", "f(x,y) is {}(x+y)-{}(x-y). Write f.")
    literal = _returning("x,y", f"{a}*(x+y)-{b}*(x-y)")
    collected = _returning("x,y", f"{a - b}*x+{a + b}*y")
    tests = _calls(lambda x, y: a * x + a * y - b * x + b * y, [0, 0], [1, 0], [0, 1], [5, -2], [-3, 8])
    return Draft((a, b), pattern.format(a, b), None, (literal, collected), tests)


def text(rng: LevelRandom) -> Draft:
    """Letters dropped twice and the rest repeated: one after the other, or at once."""
    i, j = (rng.integer(2, (9, 40, 45, 55)) for _ in range(2))
    k = rng.integer(2, (9, 60, 99, 400))
    pattern = rng.phrase(
        "Write f(s): drop {} letters of s, then {} more, repeat the rest {} times.",
        "f(s) is s without {} and then {} letters in front, {} times. Write f.",
    )
    literal = ["def f(s):", f"    s=s[{i}:]", f"    return s[{j}:]*{k}"]
    at_once = _returning("s", f"s[{i + j}:]*{k}")
    gone = i + j
    words = "", _LETTERS[:gone], _LETTERS[3 : 4 + gone], _LETTERS[7 : 10 + gone], _LETTERS[1 : 6 + gone]
    tests = _calls(lambda s: "".join(list(s[gone:]) * k), *([word] for word in words))
    return Draft((i + j, k), pattern.format(i, j, k), None, (literal, at_once), tests)


def _returning(parameters: str, expression: str) -> list[str]:
    return [f"def f({parameters}):", f"    return {expression}"]


def _calls(function: Callable[..., Any], *arguments: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
    """Calls with the expected values, computed by `function`, which is none of the solutions."""
    return tuple({"call": "f", "args": list(args), "expected": function(*args)} for args in arguments)


FAMILIES: tuple[Family, ...] = (affine, points, parabola, branch, summation, within, mapped, extremes, pair, text)
