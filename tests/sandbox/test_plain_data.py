"""Plain data between processes: exact, bounded, and compared as Python would compare it."""

from __future__ import annotations

import json
import math
import time
from collections import Counter, OrderedDict, deque, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibethinker.sandbox.plain_data import NotPlainDataError, decode, encode, same

# Without NaN, whose equality in collections hangs on identity; the examples below have it.
atoms = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.fractions()
    | st.complex_numbers(allow_nan=False) | st.decimals(allow_nan=False)
)  # fmt: skip
hashable = st.recursive(atoms, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=6)
data = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.sets(hashable, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
    ),
    max_leaves=12,
)


def across(value: Any) -> Any:
    """As it arrives: through JSON text."""
    return json.loads(json.dumps(encode(value)))


@given(data)
def test_every_type_comes_back_as_it_went(value: Any) -> None:
    again = decode(across(value))
    assert type(again) is type(value)
    assert again == value
    assert same(encode(value), across(again))


@given(data, data)
def test_same_is_equality(a: Any, b: Any) -> None:
    assert same(encode(a), across(b)) == (a == b)


@pytest.mark.parametrize(
    ("expected", "given", "equal"),
    [
        (1, True, True),
        (1, 1.0, True),
        ({1, 2}, {2.0, True}, True),
        ({1: "a"}, {True: "a"}, True),
        ([1], (1,), False),
        ([1, 2], [1], False),
        ("1", 1, False),
        (None, False, False),
        (Fraction(1, 2), 0.5, True),
        (10**30, 10**30 + 1, False),
        (2**53 + 1, float(2**53), False),
        (b"a", bytearray(b"a"), True),
        ({1}, frozenset({1}), True),
        (float("nan"), float("nan"), False),
    ],
)
def test_same_by_example(expected: Any, given: Any, equal: bool) -> None:
    assert (expected == given) is equal
    assert same(encode(expected), across(given)) is equal


@pytest.mark.parametrize(
    ("expected", "given", "equal"),
    [
        (0.3, 0.1 + 0.2, True),
        (1.0, 1.0000001, True),
        (1.0, 1.00001, False),
        (2.0, 2, True),
        (5, 5.0000001, False),  # an integer is asked for exactly
        ([0.5], (0.5,), True),
        ((0.5,), [0.5], False),
        (math.nan, math.nan, True),
        (16, math.nan, False),
        (math.inf, 1e308, False),
        (1.0, 10**400, False),
    ],
)
def test_tolerance(expected: Any, given: Any, equal: bool) -> None:
    assert same(encode(expected), across(given), 1e-6) is equal


class LyingInt(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class LyingList(list[int]):
    def __eq__(self, other: object) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter([16])


class Colour(IntEnum):
    RED = 3


Point = namedtuple("Point", "x y")


def test_a_subclass_arrives_as_its_content() -> None:
    assert across(LyingInt(0)) == 0
    assert across([LyingList([1])]) == ["l", ["l", 1]]
    assert decode(across(Colour.RED)) == 3
    assert decode(across(Point(1, 2))) == (1, 2)
    assert decode(across(Counter("aab"))) == {"a": 2, "b": 1}
    assert decode(across(OrderedDict(a=1))) == {"a": 1}
    assert decode(across(deque([1]))) == deque([1])
    assert decode(across(int)) is int
    assert same(encode(1.5), across(Decimal("1.5")))


@pytest.mark.slow
def test_what_is_no_plain_data_is_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    shared: list[Any] = []
    for _ in range(40):
        shared = [shared, shared]
    deep: Any = ()
    for _ in range(200):
        deep = (deep,)
    for value in (object(), lambda: 0, type("C", (), {}), Colour, cycle, shared, deep, [iter([])]):
        with pytest.raises(NotPlainDataError):
            encode(value)
    assert encode([object()], lambda _: ["o", 1]) == ["l", ["o", 1]]


@pytest.mark.parametrize(
    "encoded", [["?"], [], [[]], ["I", "x"], ["I"], ["T", "eval"], ["d", 1], ["b", "zz"], ["r", 1, 2, 0]]
)
def test_what_is_not_encoded_is_refused(encoded: Any) -> None:
    with pytest.raises((ValueError, TypeError, LookupError)):
        decode(encoded)


def test_numbers_of_one_hash_cost_no_more_than_others() -> None:
    modulus = 2**61 - 1
    hostile = ["s", *(i * modulus for i in range(1, 30_000))]
    start = time.process_time()
    assert not same(encode({1, 2, 3}), hostile)
    assert not same(["s", *range(1, 30_000)], hostile)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    "hostile",
    [
        ["q", "1e99999999"],  # `Fraction` would write out that power of ten
        ["q", "1e99999999", 1],
        ["q", ["I", hex(3**2_000_000)], ["I", hex(2**3_000_001)]],  # which have to be reduced
        ["D", "1" * 10_000_000],
        ["I", "0x" + "f" * 10_000_000],
    ],
)
@pytest.mark.parametrize("expected", [16, 0.5, {1}, [3], Decimal("0.5"), Fraction(1, 3), 2**99, 1j])
def test_hostile_numbers_take_no_arithmetic(expected: Any, hostile: Any) -> None:
    start = time.process_time()
    assert not same(encode(expected), hostile)
    assert not same(encode([expected]), ["l", hostile], 1e-6)
    assert not same(encode({1}), ["s", hostile])
    assert time.process_time() - start < 0.5


def test_long_numbers_are_compared_by_their_text() -> None:
    for value in (3**100_000, Fraction(3**100_000, 2**100_000), Decimal(3**100_000)):
        assert same(encode(value), across(value))
        assert not same(encode(value), across(value + 1))


def test_depth_costs_nothing_in_a_set() -> None:
    hostile: Any = "x" * 1_000_000
    for _ in range(400):
        hostile = ["t", hostile]
    with pytest.raises(ValueError, match="deep"):
        same(["s", 1], ["s", hostile])
