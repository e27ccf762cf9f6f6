"""Exact arithmetic on text that a model wrote: a small grammar, bounded in time and memory, never `eval`.

- sum: `product (("+" | "-") product)*`
- product: `power (("*" | "/" | nothing) power)*`; juxtaposition, as in `3(4)`, binds like `*`
- power: `("+" | "-")* atom ("^" power)?`, so that -2^2 is -4 and 2^3^2 is 2^9
- atom: `number | "(" sum ")"`
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

MAX_CHARACTERS: Final = 200
MAX_BITS: Final = 4096  # of a numerator or denominator, intermediate results included
MAX_DEPTH: Final = 32

_TOKEN: Final = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+|\S")
_NOT_ARITHMETIC: Final = re.compile(r"[^0-9.\s+\-*/^()]")

_SIGNS: Final = str.maketrans({"×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "−": "-", "–": "-", "⁄": "/"})
_COMMANDS: Final = re.compile(
    r"\\(?:(?P<times>cdot|times|ast)(?![A-Za-z])|(?P<over>div)(?![A-Za-z])"
    r"|(?P<space>q?quad(?![A-Za-z])|[,;:> ])|(?:left|right|displaystyle|[bB]igg?[lr]?)(?![A-Za-z])|!)"
)
_MIXED: Final = re.compile(
    r"(?<![0-9.^_}])([0-9]+)(?:[ \t]*\\[dtc]?frac\s*\{([0-9]+)\}\s*\{([0-9]+)\}|[ \t]*\\[dtc]?frac\s*([0-9])\s*([0-9])"
    r"|[ \t]+([0-9]+)/([0-9]+)(?![0-9]))"
)
_LATEX_TOKEN: Final = re.compile(r"(?P<frac>\\[dtc]?frac(?![A-Za-z]))|\\[A-Za-z]+|\\.|\s+|.", re.DOTALL)


def from_latex(text: str) -> str:
    r"""LaTeX signs, fractions and groups as plain text: `\frac{3}{4}\cdot 2` becomes `((3)/(4))* 2`.

    A mixed number is a sum, `1\frac{1}{2}` and `1 1/2` are `(1+1/2)`, if its fraction is proper: `3\frac{5}{2}` is a
    product. What is not understood stays as it is.
    """
    text = _MIXED.sub(_mixed_number, _COMMANDS.sub(_plain_command, text.translate(_SIGNS)))
    return _groups(text) if "{" in text or "frac" in text else text


def _plain_command(match: re.Match[str]) -> str:
    return "*" if match["times"] else "/" if match["over"] else " " if match["space"] else ""


def _mixed_number(match: re.Match[str]) -> str:
    whole, above, below = (group for group in match.groups() if group is not None)
    proper = len(above) <= MAX_CHARACTERS >= len(below) and int(above) < int(below)
    return f"({whole}+{above}/{below})" if proper else match[0]


def _groups(text: str) -> str:
    """Braces as brackets and fractions as quotients, in one pass; `\\frac12` takes single characters as TeX does."""
    plain: list[str] = []
    closing: list[str] = []  # what each open brace will be closed with
    awaited = ""  # the part of a fraction that comes next: above, below or none
    for match in _LATEX_TOKEN.finditer(text):
        token = match[0]
        if awaited and token.isspace():
            continue
        before, after = {"above": ("((", ")/"), "below": ("(", "))"), "": ("(", ")")}[awaited]
        if match["frac"]:
            awaited, token = "above", ""
        elif token == "{":
            closing.append(after)
            awaited, token = "", before
        elif token == "}":
            token = closing.pop() if closing else ")"
            awaited = "below" if token == ")/" else ""
        elif awaited:
            token = f"{before}{token}{after}"
            awaited = "below" if awaited == "above" else ""
        plain.append(token)
    return "".join(plain)


def evaluate(text: str) -> Fraction:
    """The exact value of an arithmetic expression.

    Raises:
        ValueError: the text is no arithmetic expression, or one with a root (a power that is not whole).
        ZeroDivisionError: it divides by zero.
        OverflowError: it is longer, deeper or larger than the bounds above.
    """
    if _NOT_ARITHMETIC.search(text):
        raise ValueError("no arithmetic expression")
    if len(text) > MAX_CHARACTERS:
        raise OverflowError(f"longer than {MAX_CHARACTERS} characters")
    parser = _Parser(text)
    value = parser.sum(0)
    if parser.head:
        raise ValueError(f"unexpected {parser.head!r}")
    return value


class _Parser:
    """Recursive descent, one method per rule of the grammar above."""

    def __init__(self, text: str) -> None:
        self._rest = iter(_TOKEN.findall(text))
        self._last = ""
        self.head: str = next(self._rest, "")

    def _take(self) -> str:
        self._last, self.head = self.head, next(self._rest, "")
        return self._last

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self.head in ("+", "-"):
            sign = self._take()
            term = self._product(depth)
            value = _bounded(value + term if sign == "+" else value - term)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._power(depth)
        while self.head not in ("", "+", "-", ")", "^"):
            if self.head in ("*", "/"):
                sign = self._take()
            elif self.head == "(" or self._last == ")":
                sign = "*"
            else:
                raise ValueError("two numbers side by side")
            factor = self._power(depth)
            value = _bounded(value / factor if sign == "/" else value * factor)
        return value

    def _power(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise OverflowError(f"deeper than {MAX_DEPTH} levels")
        negative = False
        while self.head in ("+", "-"):
            negative ^= self._take() == "-"
        value = self._atom(depth)
        if self.head == "^":
            self._take()
            value = _raise(value, self._power(depth + 1))
        return -value if negative else value

    def _atom(self, depth: int) -> Fraction:
        token = self._take()
        if token != "(":
            return Fraction(token)  # a ValueError for a sign, a closing bracket or the end
        value = self.sum(depth + 1)
        if self._take() != ")":
            raise ValueError("unclosed bracket")
        return value


def _raise(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ValueError("a power that is not whole")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent.numerator) > MAX_BITS:
        raise OverflowError(f"more than {MAX_BITS} bits")
    return base**exponent.numerator


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise OverflowError(f"more than {MAX_BITS} bits")
    return value
