"""Majority votes over final answers, clustered by mathematical equivalence.

This is cons@N of the VibeThinker evaluation, which clusters answers by their text instead.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from vibethinker.rewards.math.normalize import normalize
from vibethinker.rewards.math.rules import decide, number

MAX_SYMBOLIC: Final = 128  # comparisons by symbolic algebra for one problem; spellings beyond them count as different

Compare = Callable[[Sequence[tuple[str, str]]], list[bool]]
_Pair = tuple[int, int]


@dataclass(frozen=True)
class Cluster:
    """Samples of one problem whose final answers are equivalent.

    Attributes:
        answer: its most frequent spelling.
        samples: their indices, ascending.
        leaders: indices of those with that spelling.
    """

    answer: str
    samples: list[int]
    leaders: list[int]


@dataclass
class _Spelling:
    """One spelling of an answer and the indices of its samples; all spellings of a number count as one."""

    text: str
    samples: list[int] = field(default_factory=list)
    numeric: bool = False


def cluster_answers(answers: Sequence[Sequence[str | None]], compare: Compare) -> list[list[Cluster]]:
    """The clusters of each problem's answers, the largest first; of those that tie, the one seen first.

    Equivalence is not transitive (`5` is `5 cm` and `5 m`), so a spelling joins the most frequent spelling that it
    equals, and is never compared with other members. Plain numbers are told apart by value alone, equal texts without
    a comparison, and pairs that the exact rules do not decide go to `compare`, all problems together.

    Args:
        answers: [P][n] final answers; a sample without one is in no cluster.
        compare: true for each pair of equivalent answers, such as `vibethinker.rewards.MathReward.compare`.
    """
    spelt = [_spellings(own) for own in answers]
    verdicts: list[dict[_Pair, bool]] = []
    asked: list[tuple[int, _Pair]] = []
    for problem, spellings in enumerate(spelt):
        exact = {
            (later, earlier): decide(spellings[later].text, spellings[earlier].text)
            for later in range(len(spellings))
            for earlier in range(later)
            if not (spellings[later].numeric and spellings[earlier].numeric)
        }
        verdicts.append({pair: verdict for pair, verdict in exact.items() if verdict is not None})
        undecided = (pair for pair, verdict in exact.items() if verdict is None)
        asked += [(problem, pair) for pair in islice(undecided, MAX_SYMBOLIC)]
    texts = [(spelt[problem][later].text, spelt[problem][earlier].text) for problem, (later, earlier) in asked]
    for (problem, pair), verdict in zip(asked, compare(texts) if texts else [], strict=True):
        verdicts[problem][pair] = verdict
    return [_clusters(*both) for both in zip(spelt, verdicts, strict=True)]


def _spellings(answers: Sequence[str | None]) -> list[_Spelling]:
    """The different spellings, the most frequent first."""
    found: dict[Hashable, _Spelling] = {}
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        form, value = normalize(answer), None
        if not form.unit and not form.text.endswith("%"):
            with suppress(ArithmeticError):
                value = number(form.text)
        key: Hashable = value if value is not None else form if form.text else answer
        found.setdefault(key, _Spelling(answer, numeric=value is not None)).samples.append(index)
    return sorted(found.values(), key=lambda spelling: -len(spelling.samples))  # stable: first seen, first


def _clusters(spellings: Sequence[_Spelling], equal: dict[_Pair, bool]) -> list[Cluster]:
    members: dict[int, list[int]] = {}
    for later, spelling in enumerate(spellings):
        leader = next((earlier for earlier in members if equal.get((later, earlier))), later)
        members.setdefault(leader, []).extend(spelling.samples)
    clusters = [Cluster(spellings[k].text, sorted(v), spellings[k].samples) for k, v in members.items()]
    return sorted(clusters, key=lambda cluster: (-len(cluster.samples), cluster.samples[0]))


def majority(clusters: Sequence[Cluster], correct: Sequence[bool]) -> float:
    """Chance that the majority answer of one problem is right, when ties are broken at random.

    This is the fraction of right answers among the largest clusters; 0 where no sample has an answer. A cluster's
    answer is right if any of its leaders is among the `correct` samples [n].
    """
    if not clusters:
        return 0.0
    largest = max(len(cluster.samples) for cluster in clusters)
    tied = [cluster for cluster in clusters if len(cluster.samples) == largest]
    return sum(any(correct[index] for index in cluster.leaders) for cluster in tied) / len(tied)
