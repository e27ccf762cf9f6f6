"""Two spellings of a program are one; two ways are two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibethinker.metrics.functional import distinct_solutions
from vibethinker.metrics.program_signature import program_signature


def fenced(program: str) -> str:
    return f"```python\n{program}\n```"


SUM = "def f(n):\n    s = 0\n    for k in range(n):\n        s += k\n    return s"


@pytest.mark.parametrize(
    "other",
    [
        SUM,
        f"The sum:\n```py\n{SUM}\n```\nDone.",
        "def f(n):\n  s=0  # zero\n\n  for k in range( n ):\n    s+=k\n  return (s)",
        "def f(count: int) -> int:\n    '''Adds.'''\n    t = 0\n    for i in range(count): t += i\n    return t",
        "def g(a):\n    b = 0\n    for c in range(a):\n        b += c\n    return b",
    ],
)
def test_one_program(other: str) -> None:
    text = other if "```" in other else fenced(other)
    assert program_signature(text) == program_signature(fenced(SUM)) is not None


@pytest.mark.parametrize(
    "other",
    [
        "def f(n):\n    return sum(range(n))",
        "def f(n):\n    return n*(n-1)//2",
        "def f(n):\n    s = 1\n    for k in range(n):\n        s += k\n    return s-1",
        "def f(n):\n    s = 0\n    for k in range(n):\n        s += n\n    return s",
        "def f(n):\n    s = 0\n    for k in len(n):\n        s += k\n    return s",
    ],
)
def test_another_program(other: str) -> None:
    assert program_signature(fenced(other)) not in (None, program_signature(fenced(SUM)))


def test_names_that_are_not_the_programs_own_count() -> None:
    assert program_signature("import math\nx = math.floor(2)") != program_signature("import math\nx = math.ceil(2)")
    assert program_signature("from math import floor as g\nx = g(2)") == program_signature(
        "from math import floor as h\nx = h(2)"
    )
    assert program_signature("from math import floor as g\nx = g(2)") != program_signature(
        "from math import ceil as g\nx = g(2)"
    )
    assert program_signature("try:\n    x = 1\nexcept ValueError as e:\n    x = e") == program_signature(
        "try:\n    y = 1\nexcept ValueError as error:\n    y = error"
    )


def test_no_program() -> None:
    assert program_signature("It is 5.") is None
    assert program_signature(fenced("def f(x) return")) is None
    assert program_signature("x = " + "-" * 50_000 + "1") is None


@given(st.text(max_size=60))
def test_it_never_raises(text: str) -> None:
    program_signature(fenced(text))
    program_signature(text)


def test_distinct_solutions_of_programs() -> None:
    ways = [SUM, SUM.replace("s", "t"), "def f(n):\n    return n*(n-1)//2", "def f(n):\n    return sum(range(n))"]
    completions = [fenced(way) for way in ways]
    assert distinct_solutions(completions, [True, True, True, False], programs=True) == 2
    assert distinct_solutions(completions, [False] * 4, programs=True) == 0
