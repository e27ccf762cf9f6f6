r"""The path of a solution: its equations, normalised, with the arithmetic checked.

Two solutions that differ only in words, spaces, typesetting or repetition have the same path; a solution with a wrong
step has none. VibeThinker-3B (arXiv 2606.16140) keeps the checkpoint "with more valid solutions"; paths decide which
solutions are valid and which are different.

A text is cut into *chains* such as `3x = 19 - 4 = 15`. A side of a chain that is pure arithmetic has an exact value,
and all the values in a chain must be equal. A side with letters, with words in it, or beyond the bounds of
`vibethinker.rewards.math.expression` belongs to the path unchecked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Final

from vibethinker.rewards.math.expression import MAX_CHARACTERS, ParseError, evaluate

_FUNCTIONS: Final = frozenset({"sin", "cos", "tan", "log", "ln", "exp", "sqrt", "pi", "lim", "int"})
_SHORT_WORDS: Final = frozenset(
    ("am", "an", "as", "at", "be", "by", "do", "go", "he", "if", "in", "is", "it", "me", "my", "no", "of", "on", "or",
     "so", "to", "up", "us", "we")
)  # fmt: skip
# In `20% of 50 = 10` what stands in front of the number is part of the step, in words.
_OPERATIONS: Final = frozenset(
    ("of", "times", "plus", "minus", "over", "by", "per", "than", "twice", "half", "double", "triple")
)

_SIGNS: Final = str.maketrans(
    {"²": "^2", "³": "^3", "√": r"\sqrt ", **dict.fromkeys("×·⋅∙", "*"), **dict.fromkeys("÷⁄", "/"), "−": "-", "–": "-"}
)
_LINES: Final = re.compile(r"\\\\|\\q?quad(?![A-Za-z])|\\(?:begin|end)\s*\{[^{}]*\}")
_WORDS: Final = re.compile(r"\\(?:text[a-z]*|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_MARKUP: Final = re.compile(r"\\f?boxed(?![A-Za-z])|\\fbox(?![A-Za-z])|\\[()\[\]]|[$&]|(?<![\w)}])\*\*|\*\*(?![\w({-])")
_BULLET: Final = re.compile(r"^[ \t]*(?:[-*+•]|[0-9]{1,3}[.)])[ \t]+", re.MULTILINE)
_THOUSANDS: Final = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:(?:\{,\}|,\\!|,)[0-9]{3})+(?![0-9]|,[0-9])")
_COMMANDS: Final = re.compile(
    r"\\(?:(?P<times>cdot|times|ast)(?![A-Za-z])|(?P<over>div)(?![A-Za-z])"
    r"|(?P<space>q?quad(?![A-Za-z])|[,;:> ])|(?:left|right|displaystyle|[bB]igg?[lr]?)(?![A-Za-z])|!)"
)
_MIXED: Final = re.compile(
    r"(?<![0-9.^_}])([0-9]+)(?:[ \t]*\\[dtc]?frac\s*\{([0-9]+)\}\s*\{([0-9]+)\}|[ \t]*\\[dtc]?frac\s*([0-9])\s*([0-9])"
    r"|[ \t]+([0-9]+)/([0-9]+)(?![0-9]))"
)
_LATEX_TOKEN: Final = re.compile(r"(?P<frac>\\[dtc]?frac(?![A-Za-z]))|\\[A-Za-z]+|\\.|\s+|.", re.DOTALL)
_TOKEN: Final = re.compile(
    r"(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<stop>[.,;:?<>≈≠≤≥→⇒]=?|!=|\\(?:approx|equiv|neq?|leq?|geq?|implies|to|(?:long)?[rR]ightarrow)(?![A-Za-z]))"
    r"|(?P<name>\\?[A-Za-z]+)"
    r"|(?P<equals>==?)|(?P<line>\n)|(?P<space>[^\S\n]+)|(?P<sign>\*\*|.)"
)


def path_signature(text: str) -> str | None:
    """The equations of a solution, one per line, each once, in order of first appearance.

    The solution may be in words, plain arithmetic or LaTeX. Its path is empty when there is no equation; it is `None`
    when a step that can be checked is wrong. Takes time linear in the text; never raises.
    """
    equations: dict[str, None] = {}
    for chain in _chains(text):
        values: set[Fraction] = set()
        try:
            values.update(value for side in chain if (value := side.value()) is not None)
        except ZeroDivisionError:
            return None
        if len(values) > 1:
            return None
        sides = [str(side) for side in chain]
        equations.update((f"{left}={right}", None) for left, right in pairwise(sides) if left != right)
    return "\n".join(equations)


def _chains(text: str) -> Iterator[list[_Side]]:
    reader = _Reader()
    tokens = list(_TOKEN.finditer(_plain(text)))
    following = [token[0] for token in tokens[1:]] + ["\n"]
    for token, next_text in zip(tokens, following, strict=False):
        yield from reader.read(token, next_text)
    yield from reader.finish()


def _plain(text: str) -> str:
    r"""A text without markup; what is not understood stays. `\frac{3}{4}\cdot 2` becomes `((3)/(4))* 2`."""
    text = _LINES.sub("\n", text.translate(_SIGNS))
    text = _THOUSANDS.sub(lambda match: re.sub("[^0-9]", "", match[0]), _BULLET.sub("", text))
    text = _MARKUP.sub("", _WORDS.sub(r"\1", text))
    text = _COMMANDS.sub(lambda m: "*" if m["times"] else "/" if m["over"] else " " if m["space"] else "", text)
    text = _MIXED.sub(_mixed_number, text)
    return _groups(text) if "{" in text or "frac" in text else text


def _mixed_number(match: re.Match[str]) -> str:
    r"""`1\frac{1}{2}` and `1 1/2` as the sum `(1+1/2)`, if the fraction is proper."""
    whole, above, below = (group for group in match.groups() if group is not None)
    proper = len(above) <= MAX_CHARACTERS >= len(below) and int(above) < int(below)
    return f"({whole}+{above}/{below})" if proper else match[0]


def _groups(text: str) -> str:
    r"""Braces as brackets and fractions as quotients, in one pass; `\frac12` takes single characters as TeX does."""
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


class _Side:
    """One side of an equation."""

    def __init__(self, checked: bool = True) -> None:
        self.tokens: list[str] = []
        self.checked = checked  # false once something in it is not arithmetic

    def __str__(self) -> str:
        return "".join(self.tokens)

    def value(self) -> Fraction | None:
        if not self.checked or self.tokens[0] in "+*/^":
            return None
        try:
            return evaluate(str(self))
        except (ParseError, OverflowError):
            return None


class _Reader:
    """Collects tokens into sides and sides into chains."""

    def __init__(self) -> None:
        self.chain = [_Side()]
        self.word = ""  # just read, nothing after it yet
        self.new_line = False
        self.open: list[bool] = []  # for each open bracket, true if it holds the arguments of a function

    def read(self, token: re.Match[str], following: str) -> Iterator[list[_Side]]:
        """Takes one token; yields the chain that it ends, if it ends one."""
        kind, text = token.lastgroup, token[0]
        if kind == "space":
            return
        if kind == "line":
            self.new_line = True
            return
        if kind == "name" and _is_word(text, following):
            self.word = text.lower()
            return
        if self._ends_before(kind, text, following):
            operation = self.word in _OPERATIONS
            yield from self.finish()
            self.chain[-1].checked = not operation
        if kind == "stop" and not (self._in_arguments() or (self.open and text == ",")):  # (1,2) is a point
            yield from self.finish()
        elif kind == "equals" and not self._in_arguments():
            self.chain[-1].checked &= not self.word  # `3 hours = 180 minutes`
            self.chain.append(_Side())
        else:
            self._add(kind, text)
        self.word, self.new_line = "", False

    def finish(self) -> Iterator[list[_Side]]:
        """Yields the chain so far, if it has two sides, and starts another."""
        for side in self.chain:
            side.tokens = _without_idle_brackets(_with_products(_balanced(side.tokens)))
        sides = [side for side in self.chain if side.tokens]
        if len(sides) > 1:
            yield sides
        self.chain, self.open = [_Side()], []

    def _ends_before(self, kind: str | None, text: str, following: str) -> bool:
        """Returns True if a new line or a word before this token separates it from the chain so far."""
        if kind == "equals":
            return False
        side = self.chain[-1].tokens
        unfinished = side[-1] in "+-*/^" if side else len(self.chain) > 1
        if self.new_line and not unfinished:
            return True
        goes_on = text in ("+", "*", "/", "^", ")") or (text == "-" and following.isspace())  # `5 apples + 3 apples`
        return bool(self.word) and not goes_on

    def _in_arguments(self) -> bool:
        return bool(self.open) and self.open[-1]

    def _add(self, kind: str | None, text: str) -> None:
        text = {"**": "^", "[": "(", "]": ")"}.get(text, text)
        side = self.chain[-1]
        last = side.tokens[-1] if side.tokens else ""
        if text == "(":
            self.open.append(self._in_arguments() or _is_name(last))
        elif text == ")" and self.open:
            self.open.pop()
        side.checked &= not self.word and (kind == "number" or text in "+-*/^()")
        if kind != "name":
            side.tokens.append(text)
        elif len(text) == 2 and text.isalpha() and text not in _FUNCTIONS:
            side.tokens.extend(text)  # `xy` is a product
        else:
            side.tokens.append(text.removeprefix("\\"))


def _is_word(name: str, following: str) -> bool:
    if name.startswith("\\") or name.lower() in _FUNCTIONS or following == "(":
        return False
    return len(name) > 2 or name.lower() in _SHORT_WORDS


def _is_name(token: str) -> bool:
    return token.isalpha() or token == "'"


def _balanced(tokens: list[str]) -> list[str]:
    """Without brackets that have no partner, and without empty pairs."""
    kept: list[str | None] = []
    open_at: list[int] = []
    for token in tokens:
        if token == "(":
            open_at.append(len(kept))
        elif token == ")":
            if not open_at:
                continue
            start = open_at.pop()
            if start == len(kept) - 1:
                kept.pop()
                continue
        kept.append(token)
    for position in open_at:
        kept[position] = None
    return [token for token in kept if token is not None]


def _with_products(tokens: list[str]) -> list[str]:
    """Every product spelt with `*`, but two numbers side by side kept apart by a space."""
    spelt: list[str] = []
    for token in tokens:
        last = spelt[-1] if spelt else ""
        ends = last == ")" or (last[-1:].isalnum() and (last == "pi" or last not in _FUNCTIONS))
        starts = token == "(" or token[0].isalnum()
        if ends and starts and not (_is_name(last) and token == "("):
            spelt.append(" " if last[-1].isdigit() and token[0].isdigit() else "*")
        spelt.append(token)
    return spelt


def _without_idle_brackets(tokens: list[str]) -> list[str]:
    """Without brackets around a single token, unless it is an argument, or around everything."""
    kept: list[str] = []
    partner: dict[int, int] = {}
    open_at: list[int] = []
    for token in tokens:
        if token == "(":
            open_at.append(len(kept))
        elif token == ")":
            start = open_at.pop()
            if start == len(kept) - 2 and not (start and _is_name(kept[start - 1])):
                del kept[start]
                continue
            partner[start] = len(kept)
        kept.append(token)
    first, last = 0, len(kept) - 1
    while first < last and partner.get(first) == last:
        first, last = first + 1, last - 1
    return kept[first : last + 1]
