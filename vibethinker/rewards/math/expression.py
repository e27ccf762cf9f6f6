r"""A parser of mathematical expressions, in normalised LaTeX or plain text, that computes while it reads; never `eval`.

- sum: `product (("+" | "-") product)*`
- product: `factor (("*" | "/" | nothing) factor)*`, from the left: 1/2x is x/2; a bare number follows only a bracket
- factor: `("+" | "-")* operand ("^" factor)?`, so that -2^2 is -4 and 2^3^2 is 2^9
- operand: number, mixed number, `(sum)`, `{sum}`, fraction; further ones in subclasses

A mixed number is a sum, `1\frac{1}{2}` and `1 1/2` are 3/2, if its fraction is proper: `3\frac{5}{2}` is a product.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, Final

MAX_CHARACTERS: Final = 200
MAX_BITS: Final = 4096  # of a numerator or denominator, intermediate results included
MAX_DEPTH: Final = 32

MIXED: Final = re.compile(
    r"(?<![0-9.^_}])([0-9]+)"
    r"(?:\\frac\{([0-9]+)\}\{([0-9]+)\}|\\frac ?([0-9]) ?([0-9])|[ \t]+([0-9]+)/([0-9]+)(?![0-9]))"
)
TIMES: Final = ("*", r"\cdot", r"\times", r"\ast", "∙")
OVER: Final = ("/", r"\div")
ENDS: Final = ("", "+", "-", ")", "}", "]", "|", ",", "^", "!", "_")

_TOKEN: Final = re.compile(MIXED.pattern + r"|[0-9]+\.?[0-9]*|\.[0-9]+|\\[A-Za-z]+|\\.|\S")
_ARITHMETIC: Final = re.compile(r"(?:[0-9.\s+\-*/^(){}∙]++|\\(?:frac|cdot|times|ast|div)(?![A-Za-z]))*+")
_DIGITS: Final = frozenset("0123456789")


class ParseError(Exception):
    """An expression outside the grammar."""


def evaluate(text: str) -> Fraction:
    r"""The exact value of an arithmetic expression.

    >>> evaluate(r"-1\frac{1}{2}\cdot 2^{3}")
    Fraction(-12, 1)
    >>> evaluate("6/2(3)")
    Fraction(9, 1)

    Raises:
        ParseError: the text is no arithmetic expression, or one with a root (a power that is not whole).
        ZeroDivisionError: it divides by zero.
        OverflowError: it is longer, deeper or larger than the bounds above.
    """
    if not _ARITHMETIC.fullmatch(text):
        raise ParseError("no arithmetic expression")
    if len(text) > MAX_CHARACTERS:
        raise OverflowError(f"longer than {MAX_CHARACTERS} characters")
    value: Fraction = Parser(text).parse()
    return value


def split_mixed(number: re.Match[str]) -> tuple[str, str, str, bool]:
    """Whole, numerator and denominator of a match of `MIXED`, and whether the fraction is proper."""
    whole, above, below = (group for group in number.groups() if group is not None)
    return whole, above, below, int(above) < int(below)


def _tokens(text: str) -> list[str]:
    return [token[0] for token in _TOKEN.finditer(text)]


class Parser:
    """Recursive descent, one method per rule of the grammar; each returns a value.

    Values are fractions here. A subclass that computes with others replaces `number`, `power` and `bounded`.
    """

    def __init__(self, text: str) -> None:
        self.tokens = [*_tokens(text), ""]
        self.position = self.depth = 0

    def parse(self) -> Any:
        """The value of the whole text."""
        value = self.sum()
        if self.head:
            raise ParseError(f"unexpected {self.head!r}")
        return value

    @property
    def head(self) -> str:
        """The next token, empty at the end."""
        return self.tokens[self.position]

    def take(self) -> str:
        """Reads the next token."""
        self.position += 1
        return self.tokens[self.position - 1]

    def expect(self, token: str) -> None:
        """Reads this token."""
        if self.take() != token:
            raise ParseError(f"no {token}")

    def sum(self) -> Any:
        """Reads products up to the end or a closing bracket."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise OverflowError(f"deeper than {MAX_DEPTH} levels")
        value = self.product()
        while self.head in ("+", "-"):
            sign = self.take()
            term = self.product()
            value = self.bounded(value + term if sign == "+" else value - term)
        self.depth -= 1
        return value

    def product(self) -> Any:
        """Reads factors up to a sign."""
        value = self.factor()
        while self.head not in ENDS:
            if self.head in OVER:
                self.take()
                value = self.bounded(value / self.factor())
                continue
            if self.head in TIMES:
                self.take()
            elif self.head[0] in "0123456789." and self.tokens[self.position - 1] not in (")", "}"):
                raise ParseError("a number on the right")
            value = self.bounded(value * self.factor())
        return value

    def factor(self) -> Any:
        """Reads a signed operand and its exponent."""
        negative = False
        while self.head in ("+", "-"):
            negative ^= self.take() == "-"
        value = self.operand()
        if self.head == "^":
            self.take()
            value = self.power(value, self.factor())
        return -value if negative else value

    def operand(self) -> Any:
        """Reads a number, a group, a fraction or something named."""
        token = self.take()
        if token in ("(", "{"):
            value = self.sum()
            self.expect(")" if token == "(" else "}")
            return value
        if token == r"\frac":
            above = self.argument()
            return self.bounded(above / self.argument())
        mixed = MIXED.fullmatch(token)
        if mixed is None:
            return self.number(token) if token[:1] in _DIGITS or token[:1] == "." != token else self.named(token)
        whole, above, below, proper = split_mixed(mixed)
        if proper:
            return self.number(whole) + self.number(above) / self.number(below)
        self.tokens[self.position : self.position] = _tokens(token[len(whole) :])
        return self.number(whole)

    def argument(self) -> Any:
        r"""Reads a group, a command, or one character: \frac12."""
        token = self.head
        if token in ENDS:
            raise ParseError("no argument")
        if token[0] in _DIGITS:
            self.tokens[self.position : self.position + 1] = ["{", token[0], "}", *_tokens(token[1:])]
        return self.operand()

    def number(self, digits: str) -> Any:
        """Value of a decimal number."""
        return Fraction(digits)

    def named(self, token: str) -> Any:
        """Reads what a name or another sign stands for."""
        raise ParseError(f"unexpected {token!r}")

    def power(self, base: Any, exponent: Any) -> Any:
        """Value of a power."""
        if exponent.denominator != 1:
            raise ParseError("a power that is not whole")
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(exponent.numerator) > MAX_BITS:
            raise OverflowError(f"more than {MAX_BITS} bits")
        return base**exponent.numerator

    def bounded(self, value: Any) -> Any:
        """The value, if it is not too large."""
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise OverflowError(f"more than {MAX_BITS} bits")
        return value
