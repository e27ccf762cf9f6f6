r"""The form of a completion, whatever its content."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from vibethinker.problems import Problem
from vibethinker.rewards.base import Outcome, Verifier
from vibethinker.rewards.code_blocks import fenced_blocks
from vibethinker.rewards.math.verifier import final_answer

Answer = Literal["box", "code", "any", "none"]

_THINK: Final = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
_BOX: Final = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")


class FormatReward(Verifier):
    r"""1 for a completion of the required form, else 0. A part of `model.shaping`: it does not check answers.

    Args:
        think: the completion begins with one closed `<think>…</think>`; the text after it is the answer. If false,
            `<think>` is ignored.
        answer: the required form of the answer: one closed `\boxed{…}` (`box`), one closed fenced code block (`code`),
            one of the two and none of the other (`any`), or no particular form (`none`).
    """

    def __init__(self, think: bool = False, answer: Answer = "box") -> None:
        if answer not in ("box", "code", "any", "none"):
            raise ValueError(f"FormatReward: answer must be box, code, any or none, got {answer!r}")
        if not think and answer == "none":
            raise ValueError("FormatReward: think=false with answer=none requires nothing")
        self.think, self.answer = think, answer

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        """Passed or malformed, with the defect as detail."""
        defects = map(self._defect, completions)
        return [Outcome(0.0, "malformed", defect) if defect else Outcome(1.0, "passed") for defect in defects]

    def _defect(self, text: str) -> str:
        """The first deviation from the required form; empty where there is none."""
        if self.think:
            thought = _THINK.fullmatch(text)
            if thought is None or any(tag in part for part in thought.groups() for tag in ("<think>", "</think>")):
                return "not one closed <think> at the beginning"
            text = thought[2]
        found, fenced = len(_BOX.findall(text)), fenced_blocks(text)
        boxes = None if found and final_answer(text) is None else found
        blocks = None if fenced is None else len(fenced)
        if self.answer == "box" and boxes != 1:
            return f"{_count(boxes, 'box')} instead of one"
        if self.answer == "code" and blocks != 1:
            return f"{_count(blocks, 'code block')} instead of one"
        if self.answer == "any" and {boxes, blocks} != {0, 1}:
            return f"{_count(boxes, 'box')} and {_count(blocks, 'code block')} instead of one of either"
        return ""


def _count(number: int | None, what: str) -> str:
    return f"an unclosed {what}" if number is None else f"{number} {what}{'es' if what == 'box' else 's'}"
