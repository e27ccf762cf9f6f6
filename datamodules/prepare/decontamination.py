"""Which problems stand in a benchmark: common n-grams of the prompts, as in VibeThinker-1.5B (2511.06221 §3.5).

Departures: how often an n-gram must be shared is an option, and what is too short to hold one is compared whole.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vibethinker.problems import normalized_prompt

# Chinese and Japanese have no spaces between words: there each character is one.
_WORDS: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


@dataclass(frozen=True, slots=True)
class Match:
    """The problem of a benchmark file that has most in common with a prompt.

    Attributes:
        benchmark: the file.
        id: of the problem there.
        shared: different n-grams in common.
        ngram: the first of them; all of a prompt that is too short to hold one.
    """

    benchmark: str
    id: str
    shared: int
    ngram: str


def ngrams(text: str, n: int) -> list[str]:
    """The different n-grams of a text in their order: case and signs removed, words joined by single spaces.

    A text of fewer than `n` words has one, itself, signs included: they are most of what a short problem says.
    """
    normalized = normalized_prompt(text)
    words = _WORDS.findall(normalized)
    if len(words) < n:
        return [normalized]
    return list(dict.fromkeys(" ".join(words[i : i + n]) for i in range(len(words) - n + 1)))


class BenchmarkIndex:
    """All n-grams of benchmark problems, and where each stands.

    Args:
        n: words of an n-gram.
        min_shared: how many of a problem's n-grams a prompt must hold to match it; all of them if it has fewer, or if
            the prompt has.
    """

    def __init__(self, n: int = 10, min_shared: int = 1) -> None:
        self.n, self.min_shared = n, min_shared
        self._problems: list[tuple[str, str, int]] = []  # file, id, number of n-grams
        self._places: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, benchmark: str, problem_id: str, prompt: str) -> None:
        """Takes in one problem of a benchmark file."""
        found = ngrams(prompt, self.n)
        for ngram in found:
            self._places[ngram].append(len(self._problems))
        self._problems.append((benchmark, problem_id, len(found)))

    def matches(self, prompt: str) -> list[Match]:
        """The best match in each benchmark file, the one with most in common first; earlier ones where equal."""
        found = ngrams(prompt, self.n)
        shared: dict[int, list[str]] = {}
        for ngram in found:
            for place in self._places.get(ngram, ()):
                shared.setdefault(place, []).append(ngram)
        matches = []
        for place, common in shared.items():
            benchmark, problem_id, size = self._problems[place]
            if len(common) >= min(self.min_shared, len(found), size):
                matches.append((-len(common), place, Match(benchmark, problem_id, len(common), common[0])))
        return list(_first_of_each_file(match for _, _, match in sorted(matches, key=lambda m: m[:2])))


def _first_of_each_file(matches: Iterable[Match]) -> Iterable[Match]:
    seen: set[str] = set()
    for match in matches:
        if match.benchmark not in seen:
            seen.add(match.benchmark)
            yield match
