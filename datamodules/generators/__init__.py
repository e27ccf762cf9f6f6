"""The embedded problems: endless, seeded, exact, each with several genuinely different solutions.

A problem is a pure function of (domain, split, difficulty, seed, index), so any place of any stream is reached at once
and a resumed run sees the same problems. The split hangs on a canonical key of the mathematical problem, so neither
another phrasing, nor another order of symmetric data, nor another seed or difficulty can carry it into a second split.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from vibethinker.datamodules.generators import algebra, calculus, geometry, statistics
from vibethinker.datamodules.generators import programming as code
from vibethinker.datamodules.generators.generator import Draft, Family
from vibethinker.problems import SPLITS, Problem, Split, split_of

__all__ = ["DIFFICULTIES", "DOMAINS", "FAMILIES", "Draft", "Family", "generate", "unique"]

FAMILIES: Final[Mapping[str, tuple[Family, ...]]] = MappingProxyType(
    {
        "algebra": algebra.FAMILIES,
        "geometry": geometry.FAMILIES,
        "calculus": calculus.FAMILIES,
        "statistics": statistics.FAMILIES,
        "code": code.FAMILIES,
    }
)
DOMAINS: Final[tuple[str, ...]] = tuple(FAMILIES)
DIFFICULTIES: Final = (1, 2, 3, 4)


def generate(domain: str, split: Split, index: int, *, difficulty: int = 2, seed: int = 0) -> Problem:
    """The problem at place `index` of an endless stream; families take turns, so every slice is balanced.

    Raises:
        ValueError: unknown domain, split or difficulty, or a negative index.
    """
    for option, value, allowed in (
        ("domain", domain, DOMAINS),
        ("split", split, SPLITS),
        ("difficulty", difficulty, DIFFICULTIES),
    ):
        if value not in allowed:
            raise ValueError(f"{option}={value!r}: must be one of {', '.join(map(str, allowed))}")
    if index < 0:
        raise ValueError(f"index={index}: must not be negative")
    family = FAMILIES[domain][index % len(FAMILIES[domain])]
    rng = random.Random(f"{domain}/{split}/{difficulty}/{seed}/{index}")
    while True:
        draft = family(rng, difficulty)
        identity = f"{domain}/{family.__name__}/{','.join(map(str, draft.key))}"
        if split_of(identity) == split:
            return _problem(domain, identity, draft)


def unique(domain: str, split: Split, count: int, *, difficulty: int = 2, seed: int = 0) -> list[Problem]:
    """The first `count` distinct problems of a stream: a fixed held-out set.

    Raises:
        ValueError: the options of `generate`, or the stream has (as good as) no further distinct problem.
    """
    found: dict[str, Problem] = {}
    patience = 1000  # draws without a new problem; a stream with one new problem in 100 fails once in 20,000 sets
    index = last_new = 0
    while len(found) < count:
        problem = generate(domain, split, index, difficulty=difficulty, seed=seed)
        if found.setdefault(problem.id, problem) is problem:
            last_new = index
        elif index - last_new > patience:
            raise ValueError(
                f"count={count}: {domain}/{split} at difficulty {difficulty} has only {len(found)} problems"
            )
        index += 1
    return list(found.values())


def _problem(domain: str, identity: str, draft: Draft) -> Problem:
    if draft.tests:
        programs = tuple("\n".join(("```python", *lines, "```")) for lines in draft.solutions)
        return Problem(identity, domain, draft.prompt, None, draft.tests, programs, "embedded")
    answer = str(draft.answer)
    solutions = tuple("\n".join((*steps, f"\\boxed{{{answer}}}")) for steps in draft.solutions)
    return Problem(identity, domain, draft.prompt, answer, solutions=solutions, source="embedded")
