"""Benchmark n-grams by hand and against a slow reference."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vibethinker.datamodules.prepare.decontamination import BenchmarkIndex, Match, ngrams

WORDS = st.lists(st.sampled_from(["a", "b", "c", "1", "2", "+"]), max_size=12).map(" ".join)


def test_ngrams_by_hand() -> None:
    assert ngrams("Let $x_1 = 2$.\nFind X!", 3) == ["let x 1", "x 1 2", "1 2 find", "2 find x"]
    assert ngrams("Is it so? Is it so?", 3) == ["is it so", "it so is", "so is it"]
    assert ngrams("  What is\n$2+3$? ", 10) == ["what is $2+3$?"]
    assert ngrams("求和 of n", 4) == ["求 和 of n"]
    assert ngrams("ＡＢ ½ x", 3) == ngrams("ab 1⁄2 x", 3)


def test_matches_by_hand() -> None:
    index = BenchmarkIndex(n=3)
    index.add("a", "a/0", "one two three four")
    index.add("a", "a/1", "zero one two three four five")
    index.add("b", "b/0", "two THREE, four!")
    index.add("b", "b/1", "2 + 3")
    assert index.matches("one two three four five") == [
        Match("a", "a/1", 3, "one two three"),
        Match("b", "b/0", 1, "two three four"),
    ]
    assert index.matches("one two four three") == []
    assert [match.id for match in index.matches("2  +  3")] == ["b/1"]  # two words: `+` is none
    assert index.matches("2 - 3") == []
    short = BenchmarkIndex(n=10)
    short.add("b", "b/1", "Compute $2 + 3$.")
    assert [match.id for match in short.matches("COMPUTE  $2 + 3$.")] == ["b/1"]
    assert short.matches("Compute $2 - 3$.") == []
    assert short.matches("Compute $2 + 3$. Then add one to what came out of it, and so on.") == []


def test_a_match_may_need_several_ngrams_but_never_more_than_there_are() -> None:
    index = BenchmarkIndex(n=3, min_shared=3)
    index.add("a", "long", "one two three four five six seven")
    index.add("a", "brief", "eight nine ten eleven")
    assert index.matches("one two three four") == [Match("a", "long", 2, "one two three")]  # all that it has
    assert index.matches("one two three and five six seven and so on") == []
    assert index.matches("one two three four five and five six seven") == [Match("a", "long", 4, "one two three")]
    assert [m.shared for m in index.matches("so eight nine ten eleven it is")] == [2]  # all of the benchmark's


@given(st.lists(WORDS, max_size=6), WORDS, st.integers(1, 4), st.integers(1, 3))
def test_the_index_finds_what_comparing_all_finds(benchmark: list[str], prompt: str, n: int, least: int) -> None:
    def grams(text: str) -> set[str]:
        words = [word for word in text.split() if word != "+"]
        return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)} or {f"whole: {text.strip()}"}

    index = BenchmarkIndex(n, least)
    for number, text in enumerate(benchmark):
        index.add("file", str(number), text)
    common = [grams(prompt) & grams(text) for text in benchmark]
    enough = [
        len(shared) >= min(least, len(grams(prompt)), len(grams(text)))
        for shared, text in zip(common, benchmark, strict=True)
    ]
    sizes = [len(shared) if good else 0 for shared, good in zip(common, enough, strict=True)]
    found = index.matches(prompt)
    assert [(m.id, m.shared) for m in found] == ([(str(sizes.index(max(sizes))), max(sizes))] if any(sizes) else [])
