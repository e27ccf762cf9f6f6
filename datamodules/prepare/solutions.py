"""Grades demonstrations: only those that box the answer of their problem are kept."""

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

RIGHT: Final = ("right", "answer appended")  # outcomes of solutions that are kept
_ANNOTATION: Final = re.compile(r"<<[^<>]*>>")
TIMEOUT: Final = 5.0  # seconds of CPU time for one answer; more than in training, where a step waits for it
_BATCH: Final = 64  # solutions graded together: enough for the workers of the reward


def with_right_solutions(
    problems: Sequence[Problem], options: Solutions, reward: MathReward
) -> tuple[list[Problem], Counter[str]]:
    """The problems with their right solutions only, each once, and the number of solutions by outcome.

    Solutions of problems with tests are programs and stay as they are.

    Args:
        problems: problems with different ids.
        options: changes to the solutions before they are graded.
        reward: grades the solutions; without fallbacks.

    Returns:
        Problems in order, and counts of `right`, `answer appended`, and the other kinds of outcome.
    """
    pairs: list[tuple[Problem, str]] = []
    for problem in problems:
        texts = [_ANNOTATION.sub("", text) if options.strip_annotations else text for text in problem.solutions]
        pairs += [(problem, text) for text in dict.fromkeys(texts) if not problem.tests]
    right: defaultdict[str, list[str]] = defaultdict(list)
    counts: Counter[str] = Counter()
    with MathReward(timeout=TIMEOUT, fallbacks=True) as lenient:
        for start in tracked(range(0, len(pairs), _BATCH), "Grading solutions"):
            batch = pairs[start : start + _BATCH]
            for (problem, text), outcome in zip(batch, reward.grade(*zip(*batch, strict=True)), strict=True):
                kind = "right" if outcome.kind == "passed" else outcome.kind
                if options.append_answer and final_answer(text) is None and lenient([problem], [text]) == [1.0]:
                    kind, text = "answer appended", f"{text.rstrip()}\nThe answer is \\boxed{{{problem.answer}}}."
                counts[kind] += 1
                if kind in RIGHT:
                    right[problem.id].append(text)
    return [p if p.tests else replace(p, solutions=tuple(right[p.id])) for p in problems], counts
