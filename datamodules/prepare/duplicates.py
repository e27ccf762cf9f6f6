"""Near duplicates: the same numbers, and shingles with a Jaccard similarity, |A ∩ B| / |A ∪ B|, of a threshold or more.

Exact, without comparing all pairs: only texts with the same numbers are compared, and sets of at least similarity θ
have one of their |A| − ⌈θ|A|⌉ + 1 rarest shingles in common, so only those are indexed.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from vibethinker.problems import normalized_prompt
from vibethinker.utils.meter import tracked

_TOKEN: Final = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")
_NUMBER: Final = re.compile(r"\d+")

Shingles = frozenset[tuple[str, ...]]


def shingles(text: str, size: int) -> Shingles:
    """All runs of `size` words, numbers and single signs; the whole text when it has fewer."""
    tokens = _TOKEN.findall(normalized_prompt(text))
    return frozenset(tuple(tokens[i : i + size]) for i in range(max(1, len(tokens) - size + 1)))


def jaccard(a: Shingles, b: Shingles) -> float:
    """|A ∩ B| / |A ∪ B|."""
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def numbers(text: str) -> tuple[str, ...]:
    """The numbers of a text, sorted, each as often as it stands there: problems of one template differ in them."""
    return tuple(sorted(_NUMBER.findall(normalized_prompt(text))))


def near_duplicates(
    texts: Sequence[str], similarity: float, size: int, same: Callable[[int, int], bool], fixed: int = 0
) -> dict[int, tuple[int, float]]:
    """Which texts to leave out so that no two of those that stay are near duplicates.

    Texts are taken in order, and each is compared with those before it that stay.

    Args:
        texts: to compare.
        similarity: θ, in (0, 1].
        size: of a shingle.
        same: whether texts `i` and `j` count as one, similar as they are; asked of similar pairs only.
        fixed: how many of the first stay whatever they are.

    Returns:
        For each text that is left out, the most similar one that stays, and their similarity.
    """
    blocks: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, text in enumerate(texts):
        blocks[numbers(text)].append(place)
    left_out: dict[int, tuple[int, float]] = {}
    for block in tracked([block for block in blocks.values() if len(block) > 1], "Near duplicates"):
        sets = {place: shingles(texts[place], size) for place in block}
        left_out |= _left_out(sets, similarity, same, fixed)
    return left_out


def _left_out(
    sets: Mapping[int, Shingles], similarity: float, same: Callable[[int, int], bool], fixed: int
) -> dict[int, tuple[int, float]]:
    frequency = Counter(shingle for own in sets.values() for shingle in own)
    index: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    left_out: dict[int, tuple[int, float]] = {}
    for i, own in sets.items():
        rarest = sorted(own, key=lambda shingle: (frequency[shingle], shingle))
        rarest = rarest[: len(own) - math.ceil(similarity * len(own) - 1e-9) + 1]
        if i >= fixed:
            candidates = sorted({j for shingle in rarest for j in index[shingle]})
            close = [(j, jaccard(own, sets[j])) for j in candidates]
            found = [(j, value) for j, value in close if value >= similarity and same(j, i)]
            if found:
                left_out[i] = max(found, key=lambda pair: pair[1])
                continue
        for shingle in rarest:
            index[shingle].append(i)
    return left_out
