"""The record that data modules produce, rollouts answer and rewards grade."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

INSTRUCTION: Final = "Please reason step by step, and put your final answer within \\boxed{}."
CODE_INSTRUCTION: Final = "Write the program in a ```python block."

Split = Literal["train", "probe", "val", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "probe", "val", "test")
_HELD_OUT_FRACTION: Final = 0.1  # of the problems, in each held-out split; train has the rest


@dataclass(frozen=True, slots=True)
class Problem:
    r"""A question, the answer or tests that grade a completion, and demonstrations.

    Attributes:
        id: unique within its source; stable across runs.
        domain: `algebra`, `geometry`, `calculus`, `statistics`, `code`, or any other name.
        prompt: the question as the user asks it, without instruction or chat markup.
        answer: the exact final answer (`None` if `tests` grade the completions).
        tests: test cases of a programming problem, in the three forms that `vibethinker.sandbox` runs.
        solutions: demonstrations, different paths to the same answer, each ending in `\boxed{answer}`, or in a code
            block if there are `tests`.
        source: origin of the problem (`embedded`, a file, a hub name).
    """

    id: str
    domain: str
    prompt: str
    answer: str | None = None
    tests: tuple[Mapping[str, Any], ...] | None = None
    solutions: tuple[str, ...] = ()
    source: str = ""

    @property
    def instruction(self) -> str:
        """The default instruction after the prompt of a problem of this kind."""
        return CODE_INSTRUCTION if self.tests else INSTRUCTION

    @property
    def expected(self) -> str:
        """The answer, or the first test in one line, for people to read."""
        if not self.tests:
            return str(self.answer)
        match dict(self.tests[0]):
            case {"call": name, "expected": value, **rest}:
                return f"{name}({', '.join(map(repr, rest.get('args', ())))}) = {value!r}, …"
            case {"input": given, "output": printed}:
                return f"{given!r} prints {printed!r}, …"
            case test:
                return f"{test.get('assert')}, …"

    def messages(self, instruction: str | None = None) -> list[dict[str, str]]:
        """The conversation for a chat template: one user message, the same for embedded and real data.

        Args:
            instruction: text after the prompt; the problem's own by default, none if empty.
        """
        instruction = self.instruction if instruction is None else instruction
        content = f"{self.prompt}\n{instruction}" if instruction else self.prompt
        return [{"role": "user", "content": content}]


def normalized_prompt(prompt: str) -> str:
    """The prompt without differences of case, width and white space: prompts that are then equal are one problem."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", prompt)).strip().casefold()


def split_of(prompt: str) -> Split:
    """The split of a problem, from a hash of its normalised prompt.

    It depends on the text alone, so no seed, order, size or source can put one problem into two splits.
    """
    digest = hashlib.sha256(normalized_prompt(prompt).encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    for index, name in enumerate(SPLITS[1:]):
        if position < (index + 1) * _HELD_OUT_FRACTION:
            return name
    return "train"
