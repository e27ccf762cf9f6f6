r"""Exact rules that compare two answers without symbolic algebra: numbers, words, lists, tuples, sets, equations.

They decide about most answers, in microseconds. Expressions that would take symbolic algebra all time or memory are
rejected here, before it sees them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import partial
from itertools import accumulate, pairwise
from typing import Final

from vibethinker.rewards.math.expression import MIXED, ParseError, evaluate, split_mixed
from vibethinker.rewards.math.normalize import normalize

MAX_NESTING: Final = 25
MAX_EXPONENT: Final = 10_000
MAX_CARETS: Final = 20

_WORD: Final = re.compile(r"\\text\{([A-Za-z][A-Za-z '-]*)\}|([A-Za-z][a-z]{2,}|[A-Za-z]+(?: [A-Za-z]+)+)")
_CHOICE: Final = re.compile(r"(?:\\text\{)?\(?([A-Z])\)?\.?\}?")
_OPTION: Final = re.compile(r"\\text\{\(([A-E])\)\}((?:(?!\\text|\([A-E]\)).)+)")
_BASE: Final = re.compile(r"(-?\w+)_\{?(\d+)\}?")
_VARIABLE: Final = re.compile(r"(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?)?'*(?:\([^()=]*\))?")
_HUGE: Final = re.compile(r"[0-9]{200}|\d{5,}\)*!|!\)*!|\^[0-9{}()^*+-]*\)!|\\d?t?binom\{?[^{}]*(?:\d{5,}|\^)")

Rule = Callable[[str, str], bool | None]


def decide(prediction: str, gold: str) -> bool | None:
    """True if two answers agree, `None` when that takes symbolic algebra. Never raises; time linear in the text."""
    given, wanted = normalize(prediction), normalize(gold)
    if not given.text or not wanted.text:
        return False
    if given.unit and wanted.unit and given.unit != wanted.unit:
        return False
    if (given.unit and wanted.text.endswith("%")) or (wanted.unit and given.text.endswith("%")):
        return False
    if given.text == wanted.text:
        return True
    if not (is_safe(given.text) and is_safe(wanted.text)):
        return False
    if not all(split_mixed(mixed)[3] for mixed in MIXED.finditer(given.text)):  # 1\frac{9}{5}: a sum, or a product
        return False
    try:
        return agree(given.text, wanted.text, lambda *_: None)
    except ArithmeticError:
        return False


def agree(given: str, wanted: str, otherwise: Rule) -> bool | None:
    """True if two normalised answers agree.

    Args:
        given: the prediction.
        wanted: the gold answer.
        otherwise: decides about the parts that the rules here leave open.

    Raises:
        ArithmeticError: one of them has no value.
    """
    if given == wanted:
        return True
    nested = (partial(rule, otherwise=otherwise) for rule in (_labelled, _equations, _collections))
    return first_verdict((_numbers, _words, _bases, *nested, otherwise), given, wanted)


def first_verdict(rules: Iterable[Rule], given: str, wanted: str) -> bool | None:
    """Verdict of the first rule that has one."""
    return next((verdict for rule in rules if (verdict := rule(given, wanted)) is not None), None)


def number(text: str) -> Fraction | None:
    """The exact value of a purely arithmetic answer, `25%` as 1/4; `None` when it is anything else.

    Raises:
        ArithmeticError: a division by zero, or a value of thousands of digits.
    """
    body = text.removesuffix("%")
    try:
        value = evaluate(body)
    except ParseError:
        return None
    return value if body == text else value / 100


def _numbers(given: str, wanted: str) -> bool | None:
    a, b = number(given), number(wanted)
    if a is None or b is None:
        return None
    if given.endswith("%") != wanted.endswith("%"):  # "25%" is 0.25, and 25 when the question asks for a percentage
        fraction, other = (a, b) if given.endswith("%") else (b, a)
        return other == fraction or (other == 100 * fraction and abs(other) >= 1)
    return a == b


def _words(given: str, wanted: str) -> bool | None:
    a, b = _CHOICE.fullmatch(given), _CHOICE.fullmatch(wanted)
    if a and b:
        return a[1] == b[1]
    c, d = _WORD.fullmatch(given), _WORD.fullmatch(wanted)
    if c and d:
        if (c[1] or c[2]).casefold() == (d[1] or d[2]).casefold():
            return True
        return False if c[1] or d[1] else None  # `abc` may be a product
    if (c and number(wanted) is not None) or (d and number(given) is not None):
        return False
    return None


def _labelled(given: str, wanted: str, otherwise: Rule) -> bool | None:
    r"""`\text{(C)}12` answers with the option and what it says."""
    match = _OPTION.fullmatch(given)
    if match is None:
        return None
    choice = _CHOICE.fullmatch(wanted)
    return match[1] == choice[1] if choice else agree(match[2], wanted, otherwise)


def _bases(given: str, wanted: str) -> bool | None:
    a, b = _BASE.fullmatch(given), _BASE.fullmatch(wanted)
    if b is None or not b[1].lstrip("-")[:1].isdigit():
        return None
    return a.groups() == b.groups() if a else given == b[1]


def _equations(given: str, wanted: str, otherwise: Rule) -> bool | None:
    """`x=5` for `5`, and `x=10/2=5`; but not `y=5` for `x=5`."""
    if "=" not in given + wanted or "," in given + wanted:
        return None
    (variable, value), (name, target) = _assignment(given), _assignment(wanted)
    if value is None or target is None:
        return None
    if variable and name and variable != name:
        return False if number(value) is not None and number(target) is not None else None
    return agree(value, target, otherwise)


def _assignment(text: str) -> tuple[str, str | None]:
    """(variable or "", value); the value is `None` when the text is another kind of equation."""
    first, *rest = text.split("=")
    if not rest:
        return "", text
    variable = first if _VARIABLE.fullmatch(first) else ""
    sides = rest if variable else [first, *rest]
    if len(sides) == 1:
        return variable, sides[0]
    values = {number(side) for side in sides}
    if None in values:
        return variable, None
    if len(values) > 1:
        raise ArithmeticError("a false equation")
    return variable, sides[-1]


def _collections(given: str, wanted: str, otherwise: Rule) -> bool | None:
    kind, items = shape(given)
    wanted_kind, targets = shape(wanted)
    if not kind and not wanted_kind:
        return None
    if not kind or not wanted_kind:  # one answer for a set of one, never for several numbers
        if len(items) == len(targets):
            return agree(items[0], targets[0], otherwise)
        single = wanted if kind else given
        return False if number(single) is not None else None
    kinds = {kind, wanted_kind}
    if kinds == {"{}"}:
        items, targets = list(dict.fromkeys(items)), list(dict.fromkeys(targets))
    if sum(item.startswith(r"\{") for item in items) != sum(item.startswith(r"\{") for item in targets):
        return False  # a set of sets
    if kinds <= {",", "{}"}:
        return match_unordered(items, targets, otherwise)
    if len(kinds) == 1 or kinds == {",", "()"}:
        return match_ordered(items, targets, otherwise)
    return False  # a set for an ordered pair, an open for a closed interval


def match_ordered(items: Sequence[str], targets: Sequence[str], otherwise: Rule) -> bool | None:
    """True if every item agrees with the target at its index, by the rules or by `otherwise`."""
    if len(items) != len(targets):
        return False
    verdicts = [agree(a, b, otherwise) for a, b in zip(items, targets, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def match_unordered(items: Sequence[str], targets: Sequence[str], otherwise: Rule) -> bool | None:
    """True if items and targets agree one to one in some order, by the rules or by `otherwise`."""
    left = list(targets)
    for item in items:
        verdicts = [agree(item, target, otherwise) for target in left]
        if True in verdicts:
            left.pop(verdicts.index(True))
        else:
            return None if None in verdicts else False
    return not left


def shape(text: str) -> tuple[str, list[str]]:
    r"""Kind of collection and its items: `()`, `[)`, … ordered, `{}` a set, `,` a bare list, "" a single answer."""
    closed = _group_end(text) == len(text) - 1
    if closed and text.startswith(r"\{"):
        return "{}", _split(text[2:-2])
    if closed and text.startswith(("(", "[")) and len(inner := _split(text[1:-1])) > 1:
        return text[0] + text[-1], inner
    items = [signed for item in _split(text) for signed in _both_signs(item)]
    return ("," if len(items) > 1 else ""), items


def _depths(text: str) -> list[int]:
    """Number of open brackets, of whatever kind, after each character."""
    return list(accumulate((mark in "([{") - (mark in ")]}") for mark in text))


def _group_end(text: str) -> int:
    """Index of the bracket that closes the first one; -1 when none does."""
    marks = enumerate(zip(text, _depths(text), strict=True))
    return next((index for index, (mark, depth) in marks if depth == 0 and mark in ")]}"), -1)


def _split(text: str) -> list[str]:
    """Items between commas that are in no bracket."""
    if "," not in text:
        return [text]
    marks = enumerate(zip(text, _depths(text), strict=True))
    commas = [index for index, (mark, depth) in marks if mark == "," and depth == 0]
    return [text[start + 1 : end] for start, end in pairwise([-1, *commas, len(text)])]


def _both_signs(item: str) -> list[str]:
    before, sign, after = item.partition(r"\pm")
    if not sign or r"\pm" in after:
        return [item]
    return [f"{before}{mark}{after}" for mark in ("+", "-")]


def is_safe(text: str) -> bool:
    """True if nesting, digits, exponents and factorials are small enough for symbolic algebra."""
    return (
        max(_depths(text), default=0) <= MAX_NESTING
        and text.count("^") <= MAX_CARETS
        and not _HUGE.search(text)
        and all(_is_small_exponent(text[caret.end() :]) for caret in re.finditer(r"\^", text))
    )


def _is_small_exponent(text: str) -> bool:
    """`text` is what follows a caret; the exponent is its first group, or character."""
    exponent = text[: _group_end(text) + 1] if text.startswith(("{", "(")) else text[:1]
    try:
        return abs(evaluate(exponent)) <= MAX_EXPONENT
    except OverflowError:
        return False
    except (ParseError, ZeroDivisionError):
        return True
