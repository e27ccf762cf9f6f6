"""Embedded problems: endless, seeded, with exact answers and at least two different solutions each.

A problem is a pure function of (domain, split, difficulty, seed, index), so every index is reached at once and a
resumed run sees the same problems. The split depends on a canonical key of the mathematical problem, so another
wording, another order of symmetric data, another seed or difficulty never puts a problem into a second split.
"""

from __future__ import annotations

from typing import Final

from vibethinker.datamodules.generators import algebra, calculus, geometry, statistics
from vibethinker.datamodules.generators import programming as code
from vibethinker.datamodules.generators.family import Draft, Family, LevelRandom
from vibethinker.problems import SPLITS, Problem, Split, split_of

__all__ = ["DIFFICULTIES", "DOMAINS", "FAMILIES", "Draft", "Family", "LevelRandom", "generate", "register", "unique"]

FAMILIES: Final[dict[str, tuple[Family, ...]]] = {
    "algebra": algebra.FAMILIES,
    "geometry": geometry.FAMILIES,
    "calculus": calculus.FAMILIES,
    "statistics": statistics.FAMILIES,
    "code": code.FAMILIES,
}
DOMAINS: Final[tuple[str, ...]] = tuple(FAMILIES)  # those of this library
DIFFICULTIES: Final = (1, 2, 3, 4)


def register(domain: str, *families: Family) -> None:
    """Adds a domain of your own: data modules, recipes and the command line then take its name.

    Each family is a function from a random generator (with its `difficulty`) to a `Draft`.
    """
    if domain in FAMILIES or not families:
        raise ValueError(f"domain {domain!r}: needs a name of its own and at least one family")
    FAMILIES[domain] = families


def generate(domain: str, split: Split, index: int, *, difficulty: int = 2, seed: int = 0) -> Problem:
    """The problem at an index of an endless stream. Families alternate, so every slice is balanced.

    Args:
        domain: a key of `FAMILIES`.
        split: the split of every problem of the stream.
        index: from 0.
        difficulty: one of `DIFFICULTIES`.
        seed: seed of the stream.

    Raises:
        ValueError: unknown domain, split or difficulty, or a negative index.
    """
    for option, value, allowed in (
        ("domain", domain, tuple(FAMILIES)),
        ("split", split, SPLITS),
        ("difficulty", difficulty, DIFFICULTIES),
    ):
        if value not in allowed:
            raise ValueError(f"{option}={value!r}: must be one of {', '.join(map(str, allowed))}")
    if index < 0:
        raise ValueError(f"index={index}: must not be negative")
    family = FAMILIES[domain][index % len(FAMILIES[domain])]
    rng = LevelRandom(f"{domain}/{split}/{difficulty}/{seed}/{index}", difficulty=difficulty)
    while True:
        draft = family(rng)
        identity = f"{domain}/{family.__name__}/{','.join(map(str, draft.key))}"
        if split_of(identity) == split:
            break
    if draft.tests:
        programs = tuple("\n".join(("```python", *lines, "```")) for lines in draft.solutions)
        return Problem(identity, domain, draft.prompt, None, draft.tests, programs, "embedded")
    answer = str(draft.answer)
    solutions = tuple("\n".join((*steps, f"\\boxed{{{answer}}}")) for steps in draft.solutions)
    return Problem(identity, domain, draft.prompt, answer, solutions=solutions, source="embedded")


def unique(domain: str, split: Split, count: int, *, difficulty: int = 2, seed: int = 0) -> list[Problem]:
    """The first `count` distinct problems of a stream: a fixed held-out set.

    Args:
        domain: a key of `FAMILIES`.
        split: the split.
        count: number of problems.
        difficulty: one of `DIFFICULTIES`.
        seed: seed of the stream.

    Raises:
        ValueError: an option as in `generate`, or the stream has (almost) no further distinct problem.
    """
    found: dict[str, Problem] = {}
    patience = 1000  # problems without a new one; a stream with one new problem in 100 fails once in 20,000 sets
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
