"""Near duplicates by hand and against a comparison of all pairs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vibethinker.datamodules.prepare.duplicates import jaccard, near_duplicates, numbers, shingles

WORDS = st.lists(st.sampled_from(["a", "b", "c", "1", "2", "+"]), max_size=12).map(" ".join)


def test_similarity_by_hand() -> None:
    assert shingles("X+1 is", 2) == {("x", "+"), ("+", "1"), ("1", "is")}
    assert shingles("one", 3) == {("one",)}
    assert jaccard(shingles("a b c d", 2), shingles("a b c e", 2)) == 2 / 4
    assert numbers("3 apples, 12 pears, 3.5") == ("12", "3", "3", "5")


def anything(i: int, j: int) -> bool:
    return True


def test_near_duplicates_by_hand() -> None:
    texts = ["a b c d 7", "a b c e 7", "a b c d 8", "a b c d 7 x", "y z"]
    assert near_duplicates(texts, 0.5, 1, anything) == {1: (0, 4 / 6), 3: (0, 5 / 6)}
    assert near_duplicates(texts, 0.7, 1, anything) == {3: (0, 5 / 6)}
    assert near_duplicates(texts, 0.5, 1, lambda i, j: (i, j) != (0, 3)) == {1: (0, 4 / 6)}
    assert near_duplicates(texts, 0.5, 1, anything, fixed=2) == {3: (0, 5 / 6)}


@settings(max_examples=200)
@given(
    st.lists(WORDS, max_size=10),
    st.sampled_from([0.1, 0.5, 0.6, 2 / 3, 0.75, 0.8, 0.9, 1.0]),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 4),
)
def test_near_duplicates_are_those_that_comparing_all_pairs_finds(
    texts: list[str], similarity: float, size: int, fixed: int, modulus: int
) -> None:
    def same(i: int, j: int) -> bool:
        return (i + j) % modulus == 0

    expected: dict[int, tuple[int, float]] = {}
    for i in range(len(texts)):
        pairs = []
        for j in range(i):
            a, b = shingles(texts[i], size), shingles(texts[j], size)
            value = len(a & b) / len(a | b)
            if j not in expected and value >= similarity and numbers(texts[i]) == numbers(texts[j]) and same(j, i):
                pairs.append((value, -j))
        if pairs and i >= fixed:
            expected[i] = (-max(pairs)[1], max(pairs)[0])
    assert near_duplicates(texts, similarity, size, same, fixed) == expected
