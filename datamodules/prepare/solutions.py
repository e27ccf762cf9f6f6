r"""Demonstrations verified: each must box the answer of its problem, which is what training asks for."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from vibethinker.datamodules.prepare.settings import Solutions
from vibethinker.problems import Problem
from vibethinker.rewards import MathReward
from vibethinker.rewards.math.verifier import final_answer
from vibethinker.utils.meter import tracked

RIGHT: Final = ("right", "answer appended")  # fates of solutions that stay
_ANNOTATION: Final = re.compile(r"<<[^<>]*>>")
TIMEOUT: Final = 5.0  # seconds of CPU for one answer: no training step waits for it
_BATCH: Final = 64  # solutions judged together: enough for the reward's workers


def with_box(solution: str, answer: str) -> str:
    r"""The solution and one sentence more.

    >>> print(with_box("Half of 6 is 3.\n", "3"))
    Half of 6 is 3.
    The answer is \boxed{3}.
    """
    return f"{solution.rstrip()}\nThe answer is \\boxed{{{answer}}}."


def verified(problems: Sequence[Problem], options: Solutions, reward: MathReward) -> tuple[list[Problem], Counter[str]]:
    """The problems with their right solutions alone, each once; and how many solutions met which fate.

    Solutions of problems with tests are programs and stay as they are.

    Args:
        problems: with any solutions; their ids differ.
        options: what is done to a solution first.
        reward: judges; one without fallbacks.

    Returns:
        Problems in order, and counts of `right`, `answer appended`, and the other kinds of outcome.
    """
    pairs = [(problem, text) for problem in problems if not problem.tests for text in _texts(problem, options)]
    right: defaultdict[str, list[str]] = defaultdict(list)
    counts: Counter[str] = Counter()
    with MathReward(timeout=TIMEOUT, fallbacks=True) as lenient:
        for start in tracked(range(0, len(pairs), _BATCH), "Verifying solutions"):
            batch = pairs[start : start + _BATCH]
            for (problem, text), outcome in zip(batch, reward.grade(*zip(*batch, strict=True)), strict=True):
                fate = "right" if outcome.kind == "passed" else outcome.kind
                if options.append_answer and final_answer(text) is None and lenient([problem], [text]) == [1.0]:
                    fate, text = "answer appended", with_box(text, str(problem.answer))
                counts[fate] += 1
                if fate in RIGHT:
                    right[problem.id].append(text)
    made = [p if p.tests else replace(p, solutions=tuple(right[p.id])) for p in problems]
    return made, counts


def _texts(problem: Problem, options: Solutions) -> list[str]:
    strip = options.strip_annotations
    return list(dict.fromkeys(_ANNOTATION.sub("", text) if strip else text for text in problem.solutions))
