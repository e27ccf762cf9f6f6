"""Plain data encoded as JSON, exactly: the values that cross between a program's process and those that grade it.

Decoding executes nothing, no object crosses, and every type comes back as it went: an int is no bool, a tuple no list.
Of an instance of a subclass only the content crosses, without what it overrides, so an object that claims to equal
everything arrives as what it is.

Encoding: `null`, booleans, numbers and texts stand for themselves (NaN and infinities as Python's `json` spells them);
everything else is a list whose first item is a tag.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

MAX_DEPTH: Final = 100
MAX_ITEMS: Final = 2_000_000
_LARGEST_NUMBER: Final = 2**63  # beyond it decimal conversion is quadratic, and refused by Python from 4,300 digits on
_LONGEST_NUMBER: Final = 20_000  # characters; longer ones are compared as texts, which takes no arithmetic

_ALIKE: Final = {"f": "s", "a": "b"}  # tags of types whose instances may be equal
_CONTENT: Final[dict[type, Callable[[Any], Any]]] = {
    int: int.__int__,
    float: float.__float__,
    complex: complex.__pos__,
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    list: lambda value: list(list.__iter__(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    deque: lambda value: deque(deque.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
}

Encoded = Any
Reference = Callable[[Any], Encoded]  # encodes an object that is not plain data

_TYPES: Final[dict[str, type]] = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, range, object)
}
_SEQUENCES: Final[dict[type, str]] = {list: "l", tuple: "t", set: "s", frozenset: "f", deque: "Q"}
COLLECTIONS: Final = frozenset(("d", *_SEQUENCES.values()))
_BUILDERS: Final[dict[str, Callable[[Iterable[Any]], Any]]] = {tag: kind for kind, tag in _SEQUENCES.items()}


class NotPlainDataError(TypeError):
    """A value that is no plain data, or too deep, or too large."""


def encode(value: Any, refer: Reference | None = None) -> Encoded:
    """Encodes plain data, and any other object by `refer`.

    Plain are None, numbers, texts, bytes, the collections of Python, builtin types, and subclasses as their content.

    Raises:
        NotPlainDataError: anything else, nested deeper than `MAX_DEPTH`, more than `MAX_ITEMS`.
    """
    return _Encoder(refer).encode(value, MAX_DEPTH)


class _Encoder:
    def __init__(self, refer: Reference | None) -> None:
        self.refer, self.room = refer, MAX_ITEMS

    def encode(self, value: Any, depth: int) -> Encoded:
        self.room -= 1
        if depth < 0 or self.room < 0:
            raise NotPlainDataError("nested too deeply" if depth < 0 else "too many items")
        kind = type(value)
        if value is None or kind is bool or kind is float or kind is str:
            return value
        if kind is int:
            return value if -_LARGEST_NUMBER < value < _LARGEST_NUMBER else ["I", hex(value)]
        if (tag := _SEQUENCES.get(kind)) is not None:
            return [tag, *(self.encode(item, depth - 1) for item in value)]
        if kind is dict:
            return ["d", *(self.encode(part, depth - 1) for item in value.items() for part in item)]
        return self._rarer(value, kind, depth)

    def _rarer(self, value: Any, kind: type, depth: int) -> Encoded:
        if kind is bytes or kind is bytearray:
            return ["b" if kind is bytes else "a", value.hex()]
        if kind is complex:
            return ["c", value.real, value.imag]
        if kind is range:
            return ["r", *(self.encode(part, depth) for part in (value.start, value.stop, value.step))]
        if kind is Fraction:
            return ["q", self.encode(value.numerator, depth), self.encode(value.denominator, depth)]
        if kind is Decimal:
            return ["D", str(value)]
        if kind is type and value in _TYPES.values():
            return ["T", value.__name__]
        for base, read in _CONTENT.items():  # of a subclass, by the base's own methods
            if issubclass(kind, base):
                return self.encode(read(value), depth)
        if self.refer is not None:
            return self.refer(value)
        raise NotPlainDataError(f"{kind.__name__} is no plain data")


def decode(data: Encoded, resolve: Callable[[list[Any]], Any] | None = None) -> Any:
    """Decodes data from `encode`, or from a process that claims so; `resolve` decodes what `refer` has made.

    Raises:
        ValueError, TypeError, ArithmeticError, RecursionError: it is no encoded data.
    """
    if not isinstance(data, list):
        return data
    tag, *rest = data
    if tag in _BUILDERS:
        return _BUILDERS[tag](decode(item, resolve) for item in rest)
    if tag == "d":
        items = [decode(item, resolve) for item in rest]
        return dict(zip(items[::2], items[1::2], strict=True))
    if tag == "I":
        return int(rest[0], 16)
    if tag in ("b", "a"):
        raw = bytes.fromhex(rest[0])
        return raw if tag == "b" else bytearray(raw)
    if tag == "c":
        return complex(*rest)
    if tag == "r":
        return range(*(decode(item) for item in rest))
    if tag == "q":
        return _fraction(*(decode(item) for item in rest))
    if tag == "D":
        return Decimal(rest[0])
    if tag == "T":
        return _TYPES[rest[0]]
    if resolve is None:
        raise ValueError("no such kind of data")
    return resolve(data)


def _fraction(numerator: Any, denominator: Any) -> Fraction:
    """Of two integers, not of a text with a power of ten in it; reducing takes the square of their length."""
    if type(numerator) is not int or type(denominator) is not int:
        raise TypeError("a fraction is made of integers")
    if max(numerator.bit_length(), denominator.bit_length()) > 4 * _LONGEST_NUMBER:
        raise ValueError("too long a fraction")
    return Fraction(numerator, denominator)


def same(expected: Encoded, given: Encoded, tolerance: float = 0.0) -> bool:
    """True where two encoded values stand for equal data in the sense of `==`, without decoding what a process sent.

    A hostile process may send a million numbers of one hash; sets and dictionaries are compared by the text of their
    items, so time stays near linear in the size of `expected`.

    Args:
        expected: trusted.
        given: from a process that is not.
        tolerance: relative and absolute, where a float is expected; with one, a tuple will do for a list.
    """
    if isinstance(expected, list) and isinstance(given, list) and expected[0] not in ("I", "c", "q", "D"):
        return _same_collection(expected, given, tolerance)
    a, b = _number(expected), _number(given)
    if a is None or b is None:
        return a is b and type(expected) is type(given) and bool(expected == given)
    if tolerance and isinstance(expected, float) and not isinstance(b, complex):
        return _close(expected, b, tolerance)
    return bool(a == b)


def _close(expected: float, given: Any, tolerance: float) -> bool:
    if math.isnan(expected):
        return isinstance(given, float) and math.isnan(given)
    try:
        return math.isclose(expected, float(given), rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:
        return False


def _same_collection(expected: list[Any], given: list[Any], tolerance: float) -> bool:
    if len(expected) != len(given):
        return False
    tag, other = expected[0], given[0]
    lenient = bool(tolerance) and (tag, other) == ("l", "t")
    if not lenient and _ALIKE.get(tag, tag) != _ALIKE.get(other, other):
        return False
    if tag in ("s", "f"):
        return {_key(item) for item in expected[1:]} == {_key(item) for item in given[1:]}
    if tag == "d":
        wanted = {_key(k): v for k, v in zip(expected[1::2], expected[2::2], strict=True)}
        found = {_key(k): v for k, v in zip(given[1::2], given[2::2], strict=False)}
        return wanted.keys() == found.keys() and all(same(v, found[k], tolerance) for k, v in wanted.items())
    if tag in _BUILDERS:
        return all(same(a, b, tolerance) for a, b in zip(expected[1:], given[1:], strict=True))
    return expected[1:] == given[1:]


def _number(data: Encoded) -> Any:
    """The number that is encoded, else `None`."""
    if isinstance(data, bool | int | float):
        return data
    if not isinstance(data, list) or data[:1] not in (["I"], ["c"], ["q"], ["D"]):
        return None
    if any(isinstance(part, str) and len(part) > _LONGEST_NUMBER for part in data[1:]):
        return None
    try:
        return decode(data)
    except (ValueError, TypeError, ArithmeticError):
        return None


def _key(data: Encoded, depth: int = MAX_DEPTH) -> str:
    """A text that is equal for equal hashable data; unlike numbers, texts have seeded hashes."""
    number = _number(data)
    if number is not None:
        return f"n{_spelling(number)}"
    if isinstance(data, list):
        if not depth:  # every level copies what is below it
            raise ValueError("nested too deeply")
        items = [_key(item, depth - 1) for item in data[1:]]
        if data[:1] in (["f"], ["s"]):
            items.sort()
        return f"{data[0]}({','.join(items)})"
    return f"{type(data).__name__}{data!r}"


def _spelling(number: Any) -> str:
    """The same for 1, 1.0 and True."""
    if isinstance(number, complex) and number.imag == 0:
        number = number.real
    if isinstance(number, int):
        return f"{int(number):x}"
    if isinstance(number, complex) or number != number or abs(number) >= _LARGEST_NUMBER:
        return repr(number)
    whole = int(number)
    return f"{whole:x}" if whole == number else repr(number)
