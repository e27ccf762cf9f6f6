"""Benchmark contamination by common n-grams of the prompts, as in VibeThinker-1.5B (2511.06221 §3.5).

Departures: the number of n-grams that must be shared is an option, and prompts shorter than one are compared whole.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from vibethinker.problems import normalized_prompt

# Chinese and Japanese have no spaces between words: there each character is one.
_WORDS: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


@dataclass(frozen=True, slots=True)
class Match:
    """The problem of a benchmark file with the most n-grams in common with a prompt."""

    benchmark: str  # the file
    id: str  # of the problem there
    shared: int  # number of different n-grams in common
    ngram: str  # the first of them; the whole prompt if it is shorter than one


def ngrams(text: str, n: int) -> list[str]:
    """The different n-grams of a text in their order: case and signs removed, words joined by single spaces.

    A text of fewer than `n` words is one n-gram, with its signs: they are most of the content of a short problem.
    """
    normalized = normalized_prompt(text)
    words = _WORDS.findall(normalized)
    if len(words) < n:
        return [normalized]
    return list(dict.fromkeys(" ".join(words[i : i + n]) for i in range(len(words) - n + 1)))


class BenchmarkIndex:
    """The n-grams of all benchmark problems, each with the problems that have it.

    Args:
        n: words of an n-gram.
        min_shared: n-grams that a prompt must share with a problem to match it; all of them if either has fewer.
    """

    def __init__(self, n: int = 10, min_shared: int = 1) -> None:
        self.n, self.min_shared = n, min_shared
        self._problems: list[tuple[str, str, int]] = []  # file, id, number of n-grams
        self._indices: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, benchmark: str, problem_id: str, prompt: str) -> None:
        """Adds one problem of a benchmark file."""
        found = ngrams(prompt, self.n)
        for ngram in found:
            self._indices[ngram].append(len(self._problems))
        self._problems.append((benchmark, problem_id, len(found)))

    def matches(self, prompt: str) -> list[Match]:
        """The best match in each benchmark file, most n-grams in common first; earlier problems first where equal."""
        found = ngrams(prompt, self.n)
        shared: dict[int, list[str]] = {}
        for ngram in found:
            for index in self._indices.get(ngram, ()):
                shared.setdefault(index, []).append(ngram)
        best: dict[str, Match] = {}
        for index, common in sorted(shared.items(), key=lambda item: (-len(item[1]), item[0])):
            benchmark, problem_id, size = self._problems[index]
            if len(common) >= min(self.min_shared, len(found), size):
                best.setdefault(benchmark, Match(benchmark, problem_id, len(common), common[0]))
        return list(best.values())
