r"""Grades mathematics by the final answer of a completion.

The final answer is the last `\boxed{…}`. Numbers, words, lists and the like are compared exactly and at once
(`vibethinker.rewards.math.rules`); the rest by symbolic algebra in worker processes that can be killed
(`vibethinker.rewards.math.pool`), which start only when such an answer turns up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Final

from vibethinker.problems import Problem
from vibethinker.rewards.base import Outcome, Verifier
from vibethinker.rewards.math.normalize import normalize
from vibethinker.rewards.math.pool import Pair, SymbolicWorkers, Verdict
from vibethinker.rewards.math.rules import decide

MAX_BARE_ANSWER: Final = 200  # characters of a text without a box that may itself be an answer
MAX_DIFFERENT_BOXES: Final = 4  # spellings of one answer; a text with more is guessing

_BOX: Final = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(?:(\{)|([A-Za-z0-9]+))")
_BRACE: Final = re.compile(r"\\.|[{}]", re.DOTALL)
_STATED: Final = re.compile(r"\banswer\s*(?:is|:)[\s:]*", re.IGNORECASE)
_STATEMENT_END: Final = re.compile(r"\.(?:\s|$)|\n")
_OR: Final = re.compile(r"\s*(?:\\text\s*\{\s*or\s*\}|\bor\b)\s*")
_NUMBER: Final = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")


class MathReward(Verifier):
    r"""1 for a completion whose final answer equals the problem's, else 0.

    Only the text after the last `</think>` counts. A completion that boxes several different answers gets 0, and so
    does one without a box, unless `fallbacks` are on. Grades are the same in every run; an answer that takes longer
    than `timeout` is wrong and counted in `timeouts`. The worker processes start with the first answer that needs them.

    Args:
        workers: processes, at most, for answers that need symbolic algebra.
        timeout: seconds of CPU time for one such answer; how busy the machine is does not change a verdict.
        fallbacks: without a box, take what follows "answer is", else the last number. For evaluation of models that
            were not taught to box; in training it would reward numbers in passing.
    """

    def __init__(self, workers: int = 2, timeout: float = 0.5, fallbacks: bool = False) -> None:
        if workers < 1:
            raise ValueError(f"MathReward: workers must be at least 1, got {workers!r}")
        if not timeout > 0:
            raise ValueError(f"MathReward: timeout must be positive seconds, got {timeout!r}")
        self.fallbacks = fallbacks
        self._symbolic = SymbolicWorkers(workers, timeout)

    @property
    def timeouts(self) -> int:
        """Answers that ran out of time so far."""
        return self._symbolic.timeouts

    @property
    def crashes(self) -> int:
        """Answers that twice brought their process down so far."""
        return self._symbolic.crashes

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        """Outcomes 0.0 or 1.0 of `completions[i]` as an answer to `problems[i]`.

        Raises:
            ValueError: problems and completions differ in number, or a problem has no answer.
        """
        if len(problems) != len(completions):
            raise ValueError(f"MathReward: {len(problems)} problems for {len(completions)} completions")
        golds: list[str] = []
        for problem in problems:
            if problem.answer is None:
                raise ValueError(f"MathReward: problem {problem.id!r} ({problem.source}) has no answer to compare with")
            golds.append(problem.answer)
        answers = [_answers(text.rpartition("</think>")[2], self.fallbacks) for text in completions]
        compared = [given if len(given) <= MAX_DIFFERENT_BOXES else [] for given in answers]
        pairs = [(answer, gold) for given, gold in zip(compared, golds, strict=True) for answer in given]
        verdicts = dict(zip(pairs, self._verdicts(pairs), strict=True))
        return [
            _outcome(given, gold, [verdicts[answer, gold] for answer in own])
            for given, own, gold in zip(answers, compared, golds, strict=True)
        ]

    def compare(self, pairs: Sequence[Pair]) -> list[bool]:
        """True for each (prediction, gold) whose bare answers are equivalent, in order."""
        return [verdict is True for verdict in self._verdicts(pairs)]

    def _verdicts(self, pairs: Sequence[Pair]) -> list[Verdict]:
        bare = [(_unboxed(prediction), _one_form(_unboxed(gold))) for prediction, gold in pairs]
        verdicts: list[Verdict | None] = [decide(prediction, gold) for prediction, gold in bare]
        undecided = [index for index, verdict in enumerate(verdicts) if verdict is None]
        normalised = [(normalize(bare[index][0]).text, normalize(bare[index][1]).text) for index in undecided]
        for index, verdict in zip(undecided, self._symbolic.verdicts(normalised), strict=True):
            verdicts[index] = verdict
        return [verdict or False for verdict in verdicts]

    def close(self) -> None:
        """Ends the worker processes; they start again when needed."""
        self._symbolic.close()


def _outcome(given: Sequence[str], gold: str, verdicts: Sequence[Verdict]) -> Outcome:
    """The outcome of a completion from its different answers and the verdict on each."""
    if verdicts and all(verdict is True for verdict in verdicts):
        return Outcome(1.0, "passed")
    lost = next((verdict for verdict in verdicts if isinstance(verdict, str)), None)
    kind = lost or ("no answer" if not given else "several answers" if len(given) > 1 else "wrong")
    return Outcome(0.0, kind, f"{', '.join(given)} for {gold}" if given else "")


def is_equivalent(prediction_text: str, gold: str | Sequence[str]) -> bool:
    r"""True if a text's final answer equals `gold`, or one of several. Never raises because of a text, never hangs.

    The final answer is the last box; in a text without `\boxed`, the text itself if it is short enough to be a bare
    answer. A last box that is not closed (a truncated text) is no answer.

    >>> is_equivalent(r"So $x = \boxed{\sqrt{12}}$.", r"2\sqrt{3}")
    True
    >>> is_equivalent("0.5", ["2", r"\frac{1}{2}"])
    True
    >>> is_equivalent(r"\boxed{0.33}", r"\frac{1}{3}")
    False
    """
    return are_equivalent([prediction_text], [gold])[0]


def are_equivalent(prediction_texts: Sequence[str], golds: Sequence[str | Sequence[str]]) -> list[bool]:
    """`is_equivalent` of many texts, in order, several at a time.

    Raises:
        ValueError: the two differ in length.
    """
    pairs: list[Pair] = []
    owners: list[int] = []
    for index, (text, gold) in enumerate(zip(prediction_texts, golds, strict=True)):
        answer = final_answer(text)
        if answer is None and not re.search(r"\\boxed|\\fbox", text) and len(text) <= MAX_BARE_ANSWER:
            answer = text
        forms = [] if answer is None else [gold] if isinstance(gold, str) else gold
        pairs += [(answer or "", form) for form in forms]
        owners += [index] * len(forms)
    right = {owner for owner, verdict in zip(owners, _shared_reward().compare(pairs), strict=True) if verdict}
    return [index in right for index in range(len(prediction_texts))]


_shared_reward = cache(MathReward)


def final_answer(text: str, fallbacks: bool = False) -> str | None:
    r"""The content of the last `\boxed{…}`, else (with `fallbacks`) what the text states as its answer, else `None`."""
    answers = _answers(text, fallbacks)
    return answers[-1] if answers else None


def _answers(text: str, fallbacks: bool) -> list[str]:
    """Different boxed answers in order of their last appearance; empty when there is none or the last is unclosed."""
    boxes = _boxes(text)
    if boxes is None:
        return []
    last_seen = {normalize(box).text or box: box for box in reversed(boxes)}
    answers = [last_seen[key] for key in reversed(last_seen)]
    if answers or not fallbacks:
        return answers
    stated = list(_STATED.finditer(text))
    if stated:
        return [_STATEMENT_END.split(text[stated[-1].end() :], maxsplit=1)[0].strip()]
    return _NUMBER.findall(text)[-1:]


def _boxes(text: str) -> list[str] | None:
    """Contents of the outermost boxes; `None` when the last one is never closed."""
    boxes: list[str] = []
    position = 0
    while match := _BOX.search(text, position):
        position = match.end()
        if not match[1]:
            boxes.append(match[2])
            continue
        depth = 1
        for brace in _BRACE.finditer(text, position):
            depth += (brace[0] == "{") - (brace[0] == "}")
            if depth == 0:
                boxes.append(text[position : brace.start()])
                position = brace.end()
                break
        else:
            return None
    return boxes


def _unboxed(answer: str) -> str:
    """The content of the last box: a gold answer may come with its box, and a box may contain another."""
    boxes = _boxes(answer)
    return boxes[-1] if boxes else answer


def _one_form(gold: str) -> str:
    """The first of several forms of one value, `1/2 or 0.5`; else the gold itself, as of `2 or 3`."""
    if "or" not in gold:
        return gold
    first, *others = _OR.split(gold)
    return first if others and all(decide(other, first) for other in others) else gold
