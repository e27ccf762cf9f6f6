r"""Normalises answers to one spelling before they are compared or parsed.

Each rule handles something that symbolic parsing gets wrong or does not know: wrappers and spacing commands, commands
escaped twice, Unicode signs and widths, `12\,345`, degrees, currency, units, words.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from typing import Final, NamedTuple

MAX_CHARACTERS: Final = 1000  # what is longer is no answer


class Answer(NamedTuple):
    """A normalised answer. `text` is empty when there is none; `unit` is a canonical name, or empty."""

    text: str
    unit: str


_SIGNS: Final = {
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "−": "-", "–": "-", "⁄": "/", "±": r"\pm ",
    "√": r"\sqrt", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "°": r"^\circ ",
    "€": "", "£": "", "¥": "", "。": ".", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ",
    "≈": r"\approx ", "º": r"^\circ ", "⩽": r"\leq ", "⩾": r"\geq ",
}  # fmt: skip
_RAISED: Final = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_LOWERED: Final = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")


def _compiled(*rules: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in rules)


# Applied in this order, to text whose spaces are single.
_WRAPPERS: Final = _compiled(
    (r"(?<!\\)\\\\(?=(?:[dtc]?frac|sqrt|pi|text|cdot|times|left|right|infty)(?![a-z]))", r"\\"),  # escaped twice
    (r"\\?\$|\\[()\[\]]", ""),
    (r"\\(?:left|right|displaystyle|limits|[bB]igg?[lr]?)(?![A-Za-z])|\\!", ""),
    (r"(?<!\\)\\(?:[,;:> ]|q?quad(?![a-z]))|~", " "),
    (r"\{,\}", ","),
    (r"\*\*", "^"),
    (r"^([0-9.]+)[eE]([+-]?[0-9]+)$", r"\1\\cdot 10^{\2}"),
)
_SPELLINGS: Final = _compiled(
    (r"\\[dtc]frac(?![a-z])", r"\\frac"),
    (r"\\math(?:rm|bf|it)(?![a-z]) ?\{ ?([a-z0-9]) ?\}", r"\1"),
    (r"\\(?:textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)(?![a-z]) ?", r"\\text"),
    (r"(?<=[0-9)}a-z]) ?(?:\\text ?\{ ?or ?\}|\bor\b) ?(?=[^<>]*(?:[<>]|\\[lg]e))", r"\\cup "),  # x<1 or x>2
    (r"\\text ?\{([^{}A-Za-z]*)\}", r"\1"),
    (r"(\\text ?\{[^{}]*)\. ?\}$", r"\1}"),
    (r"^\\text ?\{([^{}]*,[^{}]*)\}$", r"\1"),
    (r"^(?:\(|\\text\{)([0-9A-Z]+)[)}] ?_", r"\1_"),
    (r"\\text ?\{ ?(?:or|and) ?\}|(?<=[0-9)}]) (?:or|and) ", ","),
    (r"(?<![\\A-Za-z])(frac|sqrt|pi|infty)(?![A-Za-z])", r"\\\1"),
    (r"\\sqrt ?\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"\\sqrt ?([0-9]+|[a-z])", r"\\sqrt{\1}"),
    (r"\\(?:[lr]?vert|mid)(?![A-Za-z])", "|"),
    (r"^\\(?:approx|simeq)(?![a-z])", ""),
    (r"\\varnothing(?![a-z])|\\\{ ?\\\}", r"\\emptyset"),
    (r"<=|\\leqslant|\\le(?![a-z])", r"\\leq"),
    (r">=|\\geqslant|\\ge(?![a-z])", r"\\geq"),
    (r"!=|\\ne(?![a-z])", r"\\neq"),
    (r"\\langle(?![a-z])", "("),
    (r"\\rangle(?![a-z])", ")"),
    (r"^\\text ?\{ ?[Nn]o (?:real )?solutions? ?\}$", r"\\emptyset"),
    (r"\\lbrace(?![a-z])", r"\\{"),
    (r"\\rbrace(?![a-z])", r"\\}"),
    (r"\^ ?(?:\{ ?\\circ ?\}|\\circ(?![a-z]))|\\degrees?(?![a-z])", ""),
    (r"\\?%|\\text ?\{ ?percent ?\}|\bpercent\b", "%"),
    (r" (?![A-Za-z0-9])|(?<![A-Za-z0-9]) ", ""),
    (r"^\{+([^{}]*)\}+$", r"\1"),
    (r"[.,;:\\]+$", ""),
)
_BASE_NAME: Final = re.compile(r"_ ?\{ ?\\text ?\{ ?([a-z]+) ?\} ?\}")
_BASE_NAMES: Final = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16",
}  # fmt: skip
_REPEATING: Final = re.compile(r"([0-9]{0,50})\.([0-9]{0,50}) ?\\overline ?\{ ?([0-9]{1,50}) ?\}")
_TRIGONOMETRY: Final = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_DEGREES: Final = re.compile(r"([0-9.]+) ?(?:\^ ?\{? ?\\circ(?![a-z]) ?\}?|\\degrees?(?![a-z]))")
_CURRENCY: Final = re.compile(r"^[\s$({-]*\\\$")
_THOUSANDS: Final = re.compile(r"(?<![0-9.,_])[0-9]{1,3}(?:[, ][0-9]{3})+(?![0-9]|,[0-9])")
_UNIT: Final = re.compile(
    r"(?P<body>.*(?:[0-9)}]|\\pi))(?:\\text\{(?P<text>[^{}]*)\}|(?<=[0-9}]) (?P<words>[a-z][a-z ]*[a-z])"
    r"|(?<=[0-9])(?P<short>[cmk]m|kg|mph))(?:\^\{?(?P<power>[23])\}?)?"
)
_NO_UNIT: Final = re.compile(r"\b(?:or|and|not|is|isn't|if|than|more|less|least|most|but|no)\b")  # `5 or more` is not 5
_UNITS: Final = {
    "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "millimetre": "mm", "meter": "m", "metre": "m",
    "kilometer": "km", "kilometre": "km", "inche": "in", "inch": "in", "foot": "ft", "feet": "ft", "second": "s",
    "sec": "s", "minute": "min", "hour": "h", "hr": "h", "gram": "g", "kilogram": "kg", "unit": "",
    "degree": "",
}  # fmt: skip


@lru_cache(maxsize=8192)
def normalize(text: str) -> Answer:
    """The normalised form of one answer, without its box; never raises."""
    spelt = _spell_out(text) if len(text) <= MAX_CHARACTERS else text  # one character may become eighteen
    if len(spelt) > MAX_CHARACTERS:
        return Answer("", "")
    currency = _CURRENCY.search(spelt)
    text = _rewrite(" ".join(spelt.split()), _WRAPPERS)
    if not re.search(r"[(\[]|\\\{", text):  # in brackets a comma separates
        text = _THOUSANDS.sub(lambda match: re.sub("[, ]", "", match[0]), text)
    text = _REPEATING.sub(_repeating, text)
    if _TRIGONOMETRY.search(text):  # where degrees are more than a unit
        text = _DEGREES.sub(r"(\1\\pi/180)", text)
    text = _BASE_NAME.sub(lambda match: f"_{{{_BASE_NAMES.get(match[1], match[1])}}}", text)
    answer = _split_unit(_rewrite(text, _SPELLINGS).strip())
    return answer._replace(unit="dollar") if currency and not answer.unit else answer


def _repeating(match: re.Match[str]) -> str:
    r"""`0.1\overline{6}` as the fraction it is."""
    fixed, period = match[2], match[3]
    value = Fraction(int((match[1] or "0") + fixed), 10 ** len(fixed))
    value += Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _rewrite(text: str, rules: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _spell_out(text: str) -> str:
    """Unicode signs as LaTeX; widths, vulgar fractions and raised digits unified; invisible characters removed."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda match: f"^{{{_compatible(match[0])}}}", text)
    text = _LOWERED.sub(lambda match: f"_{{{_compatible(match[0])}}}", text)
    return "".join(map(_spell_out_one, text))


def _spell_out_one(character: str) -> str:
    if character.isascii() or character in _SIGNS:
        return _SIGNS.get(character, character)
    if unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""
    name = unicodedata.name(character, "")
    if name.startswith("GREEK SMALL LETTER ") and name.count(" ") == 3:
        return f"\\{name.rpartition(' ')[2].lower()} "
    plain = _compatible(character)
    above, slash, below = plain.partition("⁄")
    return rf"\frac{{{above}}}{{{below}}}" if slash and below else plain


def _compatible(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("−", "-")


def _split_unit(text: str) -> Answer:
    match = _UNIT.fullmatch(text)
    if match is None:
        return Answer(text, "")
    phrase = (match["text"] or match["words"] or match["short"] or "").lower().replace("/", " per ")
    if _NO_UNIT.search(phrase):
        return Answer(text, "")
    power = match["power"] or ""
    names: list[str] = []
    for word in phrase.split():
        if word in ("square", "cubic"):
            power = "2" if word == "square" else "3"
        else:
            word = word if len(word) < 3 else word.removesuffix("s")
            names.append(_UNITS.get(word, word))
    unit = " ".join(filter(None, names))
    return Answer(match["body"], f"{unit}^{power}" if power and unit else unit)
