"""Problems of one domain or several, in four splits that share no prompt.

Without Lightning, whose import takes seconds that an evaluation need not pay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import chain, zip_longest
from typing import overload

from vibethinker.datamodules import generators
from vibethinker.datamodules.files import COLUMNS, load_problems, source_kind
from vibethinker.problems import SPLITS, Problem, Split

ENDLESS = 10**9  # problems in an unbounded train set; finite because a loader without a length is prefetched
_HELD_OUT_SEED = 0  # the same for every run: results of different seeds are compared on the same problems


class GeneratedProblems(Sequence[Problem]):
    """A train set that is made as it is read: problem `i` is of domain `i % D`, a function of its index and the seed.

    Args:
        domains: the `D` domains that take turns.
        size: number of problems.
        difficulty: of each problem.
        seed: seed of the problems.
    """

    def __init__(self, domains: Sequence[str], size: int, *, difficulty: int, seed: int) -> None:
        self.domains = tuple(domains)
        self.size = size
        self.difficulty = difficulty
        self.seed = seed

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        picked = range(self.size)[index]
        return self._make(picked) if isinstance(picked, int) else [self._make(i) for i in picked]

    def _make(self, index: int) -> Problem:
        turn, place = divmod(index, len(self.domains))
        return generators.generate(self.domains[place], "train", turn, difficulty=self.difficulty, seed=self.seed)


class ProblemSource:
    """Made on the spot or read from files; the options are those of `DomainDataModule`."""

    tests_needed = False  # whether a row of a file must have tests

    def __init__(
        self,
        domain: str | list[str],
        data: str | None = None,
        fields: dict[str, str] | None = None,
        difficulty: int = 2,
        train_size: int | None = None,
        probe_size: int = 64,
        val_size: int = 64,
        test_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()  # of what is next in line, as LightningDataModule for DomainDataModule
        self.domains = [domain] if isinstance(domain, str) else list(domain)
        self.data = data
        self.fields = dict(fields or {})
        self.difficulty = difficulty
        self.sizes: dict[Split, int | None] = {
            "train": train_size,
            "probe": probe_size,
            "val": val_size,
            "test": test_size,
        }
        self.seed = seed
        self._held_out: dict[Split, list[Problem]] = {}
        self._check_options()

    def _check_options(self) -> None:
        numbers = {f"{split}_size": size for split, size in self.sizes.items() if size is not None}
        for option, value in numbers.items():
            if value < 1:
                raise ValueError(f"{option} must be at least 1, not {value}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")
        if not self.domains or len(set(self.domains)) < len(self.domains):
            raise ValueError(f"domain must name one or more different domains, not {self.domains}")
        for split in SPLITS:
            if (size := self.sizes[split]) is not None and size < len(self.domains):
                raise ValueError(f"{split}_size={size} is fewer than the {len(self.domains)} domains")
        if unknown := [field for field in self.fields if field not in COLUMNS]:
            raise ValueError(f"fields maps {unknown[0]!r}, which is none of {', '.join(COLUMNS)}")
        if self.data is not None:
            source_kind(self.data)
        elif unknown := [name for name in self.domains if name not in generators.DOMAINS]:
            raise ValueError(f"domain {unknown[0]!r} is not embedded; there are {', '.join(generators.DOMAINS)}")
        elif self.difficulty not in generators.DIFFICULTIES:
            raise ValueError(f"difficulty={self.difficulty} is none of {', '.join(map(str, generators.DIFFICULTIES))}")

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of a split: held-out ones as a fixed list, generated training ones as a lazy sequence.

        Raises:
            ValueError: if there is no such split, or no problem in it.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
        if split == "train":
            return self._train
        if split not in self._held_out:
            self._held_out[split] = self._make_held_out(split)
        return self._held_out[split]

    @cached_property
    def _loaded(self) -> dict[Split, list[Problem]]:
        assert self.data is not None
        return load_problems(self.data, self.domains, self.fields, tests_needed=self.tests_needed)

    @cached_property
    def _train(self) -> Sequence[Problem]:
        size = self.sizes["train"]
        if self.data is None:
            return GeneratedProblems(self.domains, size or ENDLESS, difficulty=self.difficulty, seed=self.seed)
        return self._required("train", _choose(self._loaded["train"], size))

    def _make_held_out(self, split: Split) -> list[Problem]:
        size = self.sizes[split]
        assert size is not None
        if self.data is not None:
            by_domain = [[p for p in self._loaded[split] if p.domain == name] for name in self.domains]
            return self._required(split, _take_turns([_choose(problems, size) for problems in by_domain])[:size])
        by_domain = []
        for place, name in enumerate(self.domains):
            count = len(range(place, size, len(self.domains)))
            try:
                made = generators.unique(name, split, count, difficulty=self.difficulty, seed=_HELD_OUT_SEED)
            except ValueError as error:
                raise ValueError(f"{split}_size={size}: {error}") from error
            by_domain.append(made)
        return _take_turns(by_domain)

    def _required(self, split: Split, problems: list[Problem]) -> list[Problem]:
        if not problems:
            names = ", ".join(self.domains)
            raise ValueError(
                f"{self.data}: no {split} problems of {names}; give more rows, or a {split} file in a folder"
            )
        return problems


def _choose(problems: list[Problem], size: int | None) -> list[Problem]:
    """`size` of the problems at most, chosen by their text alone so that the order of a file is no bias."""
    if size is None or size >= len(problems):
        return problems
    return sorted(problems, key=lambda problem: hashlib.sha256(problem.prompt.encode()).digest())[:size]


def _take_turns(lists: Sequence[Sequence[Problem]]) -> list[Problem]:
    """The first of each list, the second of each, and so on; a list that is used up is passed over."""
    return [problem for problem in chain.from_iterable(zip_longest(*lists)) if problem is not None]
