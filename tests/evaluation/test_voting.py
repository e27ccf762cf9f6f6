"""Majorities against enumeration, clusters against comparing everything with everything."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibethinker.evaluation.voting import MAX_SYMBOLIC, Cluster, cluster_answers, majority
from vibethinker.rewards import MathReward


@pytest.fixture(scope="module")
def reward() -> Iterator[MathReward]:
    with MathReward() as reward:
        yield reward


def never(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    return [False] * len(pairs)


def groups(clusters: Sequence[Cluster]) -> list[list[int]]:
    return [cluster.samples for cluster in clusters]


@given(st.lists(st.sampled_from([None, "1", "2", "3", "x"]), min_size=1, max_size=12), st.sampled_from(["1", "x"]))
def test_a_tie_is_worth_the_share_of_its_right_answers(answers: list[str | None], gold: str) -> None:
    """Draw one of the most frequent answers at random, many ways enumerated."""
    counts = Counter(answer for answer in answers if answer is not None)
    most = [answer for answer, count in counts.items() if count == max(counts.values())]
    expected = Fraction(sum(answer == gold for answer in most), len(most)) if most else 0
    (clusters,) = cluster_answers([answers], never)
    assert majority(clusters, [answer == gold for answer in answers]) == pytest.approx(float(expected))


def test_majority_by_hand() -> None:
    answers = ["1/2", "3", "0.5", None, "3.0", r"\frac{2}{4}", "4"]
    right = [True, False, True, False, False, True, False]
    (clusters,) = cluster_answers([answers], never)
    assert groups(clusters) == [[0, 2, 5], [1, 4], [6]]
    assert majority(clusters, right) == 1.0
    (tied,) = cluster_answers([answers[:5]], never)
    assert majority(tied, right[:5]) == 0.5
    assert majority([], [False, False]) == 0.0


def test_clusters_need_no_common_spelling(reward: MathReward) -> None:
    answers = [r"\sqrt{12}", r"2\sqrt{3}", "(1, 2)", "x+1", r"\left(1,2\right)", "1+x", "x=5", "5", r"\sqrt{13}"]
    by_hand = [[0, 1], [2, 4], [3, 5], [6, 7], [8]]
    assert sorted(groups(cluster_answers([answers], reward.compare)[0])) == by_hand
    equal = {p for p in combinations(range(9), 2) if reward.compare([(answers[p[1]], answers[p[0]])])[0]}
    assert equal == {(0, 1), (2, 4), (3, 5), (6, 7)}


def test_what_is_not_transitive_goes_by_the_most_frequent_spelling(reward: MathReward) -> None:
    """5 is 5 cm and is 5 m, which are not each other."""
    answers = [r"5\text{ m}", "5", r"5\text{ cm}", "5", "25%", "0.25"]
    assert groups(cluster_answers([answers], reward.compare)[0]) == [[0, 1, 2, 3], [4, 5]]
    assert groups(cluster_answers([[answers[0], answers[2]]], reward.compare)[0]) == [[0], [1]]


def test_a_comparison_that_hangs_counts_as_different() -> None:
    hanger = [f"f(x)+(x+y+{n})^{{3000}}" for n in (1, 2)]
    with MathReward(workers=1, timeout=0.2) as reward:
        clusters = cluster_answers([[hanger[0], "7", hanger[1], "7"]], reward.compare)[0]
        assert groups(clusters) == [[1, 3], [0], [2]]
        assert reward.timeouts > 0


def test_symbolic_comparisons_are_bounded() -> None:
    asked: list[tuple[str, str]] = []

    def compare(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        asked.extend(pairs)
        return [False] * len(pairs)

    garbage = [f"f(x)^{{{n}}}+y" for n in range(64)]
    assert len(cluster_answers([garbage, garbage], compare)[1]) == 64
    assert len(asked) == 2 * MAX_SYMBOLIC


def test_unreadable_answers_are_answers_of_their_own() -> None:
    answers = ["", "1/0", "x" * 2000, "1/0", "", None]
    assert groups(cluster_answers([answers], never)[0]) == [[0, 4], [1, 3], [2]]


def test_numbers_are_quick() -> None:
    """64 samples of 100 problems with up to 64 different numbers each: no comparison at all."""
    rng = random.Random(0)
    answers: list[list[str | None]] = [[str(rng.randrange(100)) for _ in range(64)] for _ in range(100)]
    start = time.process_time()
    found = cluster_answers(answers, never)
    assert time.process_time() - start < 5
    assert all(len(c) == len(set(a)) for c, a in zip(found, answers, strict=True))
