"""Near duplicates: the same numbers, and shingles whose Jaccard similarity |A ∩ B| / |A ∪ B| reaches a threshold.

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
    """All runs of `size` words, numbers and single signs; the whole text if it has fewer."""
    tokens = _TOKEN.findall(normalized_prompt(text))
    return frozenset(tuple(tokens[i : i + size]) for i in range(max(1, len(tokens) - size + 1)))


def jaccard(a: Shingles, b: Shingles) -> float:
    """|A ∩ B| / |A ∪ B|."""
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def numbers(text: str) -> tuple[str, ...]:
    """The numbers of a text, sorted, with repetitions: problems of one template differ in them."""
    return tuple(sorted(_NUMBER.findall(normalized_prompt(text))))


def near_duplicates(
    texts: Sequence[str], similarity: float, size: int, same: Callable[[int, int], bool], fixed: int = 0
) -> dict[int, tuple[int, float]]:
    """The texts to remove so that no two of the others are near duplicates.

    Each text is compared with the earlier ones that are kept; each to remove comes with the most similar of those, and
    their similarity.

    Args:
        texts: the texts to compare.
        similarity: θ, in (0, 1].
        size: tokens of a shingle.
        same: returns True if the similar texts `i` and `j` are duplicates.
        fixed: number of first texts that are kept in any case.
    """
    blocks: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        blocks[numbers(text)].append(i)
    removed: dict[int, tuple[int, float]] = {}
    for block in tracked([block for block in blocks.values() if len(block) > 1], "Near duplicates"):
        sets = {i: shingles(texts[i], size) for i in block}
        removed |= _near_duplicates(sets, similarity, same, fixed)
    return removed


def _near_duplicates(
    sets: Mapping[int, Shingles], similarity: float, same: Callable[[int, int], bool], fixed: int
) -> dict[int, tuple[int, float]]:
    frequency = Counter(shingle for own in sets.values() for shingle in own)
    index: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    removed: dict[int, tuple[int, float]] = {}
    for i, own in sets.items():
        rarest = sorted(own, key=lambda shingle: (frequency[shingle], shingle))
        rarest = rarest[: len(own) - math.ceil(similarity * len(own) - 1e-9) + 1]
        if i >= fixed:
            candidates = sorted({j for shingle in rarest for j in index[shingle]})
            close = [(j, jaccard(own, sets[j])) for j in candidates]
            found = [(j, value) for j, value in close if value >= similarity and same(j, i)]
            if found:
                removed[i] = max(found, key=lambda pair: pair[1])
                continue
        for shingle in rarest:
            index[shingle].append(i)
    return removed
