"""Problems of one domain or several, in four splits that share no prompt.

Without Lightning, whose import takes seconds that an evaluation need not pay.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any, ClassVar, overload

from vibethinker.datamodules import generators
from vibethinker.datamodules.loaders import ENDLESS, Epochs, Mixture, TrainStream
from vibethinker.datamodules.reading.fields import COLUMNS
from vibethinker.datamodules.reading.problem_files import Reader, load_problems, readers
from vibethinker.datamodules.reading.problem_stream import ProblemStream
from vibethinker.datamodules.reading.tables import open_set, source_kind
from vibethinker.datamodules.reading.unusable import MAX_UNUSABLE
from vibethinker.problems import SPLITS, Problem, Split, normalized_prompt

_HELD_OUT_SEED = 0  # the same for every run: results of different seeds are compared on the same problems


@dataclass(frozen=True, eq=False)
class GeneratedProblems(Sequence[Problem]):
    """A lazy train set: problem `i` is of domain `i % len(domains)` and a function of its index and the seed."""

    domains: Sequence[str]
    size: int
    difficulty: int
    seed: int

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        selected = range(self.size)[index]
        return self._make(selected) if isinstance(selected, int) else [self._make(i) for i in selected]

    def only(self, domains: Sequence[str]) -> GeneratedProblems:
        """The problems of some of the domains."""
        size = self.size
        if size < ENDLESS:
            size = sum(len(range(self.domains.index(name), self.size, len(self.domains))) for name in domains)
        return replace(self, domains=domains, size=size)

    def _make(self, index: int) -> Problem:
        number, domain = divmod(index, len(self.domains))
        return generators.generate(self.domains[domain], "train", number, difficulty=self.difficulty, seed=self.seed)


@dataclass(eq=False, repr=False)
class ProblemSource:
    """Problems of one domain or several, split into a train set and three held-out sets that share no prompt with it.

    Without `data` the embedded generators supply an endless number of problems with verified answers. With several
    domains, problem `i` is of domain `i % D`, so each batch holds all of them in equal parts. A file's train set keeps
    the proportions of the file. Held-out sets take equal parts of each domain as long as it has problems left.

    Args:
        domain: name of the domain, or a list of names. With `data`, any name that the rows use.
        data: a JSONL or Parquet file, a pattern of file names, a folder of `train`, `probe`, `val` and `test` files or
            shards of them (`train-00000-of-00003.parquet`), or the name of a hub data set (`owner/name` or
            `owner/name:configuration`). Or one of these for each domain. The embedded generator when left out.
            Held-out sets that no file is named after are cut from the training rows by a hash of the prompt, a tenth
            for each.
        fields: column name for each problem field (`prompt`, `answer`, `solutions`, `correct`, `tests`, `domain`, `id`;
            for tests also `hidden_tests`, `setup`, `entry_point`, `starter`) whose column is not found by its usual
            name, for example `{"solutions": "trace", "answer": "reward_model.ground_truth"}`. With a source for each
            domain, `math.solutions` is the field of that source alone.
        difficulty: difficulty of embedded problems.
        batch_size: problems per global batch: all processes together, so that a configuration makes the same updates
            on any number of GPUs.
        train_size: number of training problems. Endless for embedded ones, all that the file has, when left out.
        probe_size: number of problems for checkpoint selection, over all domains; fewer if there are not as many.
        val_size: number of validation problems, in the same way.
        test_size: number of test problems, in the same way.
        seed: seed of the embedded training problems and of the shuffling. Held-out problems do not depend on it.
        shuffle: shuffle the training problems anew in each epoch. Endless ones stay in the order of their index.
        weights: how much of the training each domain is, relative to their sum: exact to one problem after any number
            of them. Each domain is then an endless stream of its own. Without weights embedded domains alternate, and
            a file keeps its proportions.
        max_unusable: largest fraction of the rows that may be unusable, for whatever reason; they are counted, reported
            and left out. More of them are an error. With 0 the first one is.
        check_answers: count a row without tests as unusable if its answer cannot be read as mathematics (braces that do
            not match, a sentence). Turn it off where a reward of your own grades them.
        streaming: read the training rows during training, not all of them first. Held-out sets then come from files
            or splits of their own, and training rows with a prompt of these are left out.
        shuffle_buffer: rows that are read together and shuffled among themselves, with `streaming`.

    Raises:
        ValueError, FileNotFoundError: an option that cannot be, by its name.
    """

    domain: str | list[str]
    data: str | dict[str, str] | None = None
    fields: dict[str, str] | None = None
    difficulty: int = 2
    batch_size: int = 64
    train_size: int | None = None
    probe_size: int = 64
    val_size: int = 64
    test_size: int = 256
    seed: int = 0
    shuffle: bool = True
    weights: dict[str, float] | None = None
    max_unusable: float = MAX_UNUSABLE
    check_answers: bool = True
    streaming: bool = False
    shuffle_buffer: int = 10_000

    tests_needed: ClassVar = False  # True if a row of a file must have tests

    def __post_init__(self) -> None:
        super().__init__()  # the next class in the MRO, LightningDataModule for DomainDataModule
        self.domains = [self.domain] if isinstance(self.domain, str) else list(self.domain)
        self.sizes: dict[Split, int | None] = {split: getattr(self, f"{split}_size") for split in SPLITS}
        self._held_out: dict[Split, list[Problem]] = {}
        self._check_options()
        self._check_sources()
        self._check_weights()

    def _check_options(self) -> None:
        for option in ("batch_size", *(f"{split}_size" for split in SPLITS), "shuffle_buffer"):
            if (value := getattr(self, option)) is not None and value < 1:
                raise ValueError(f"{option} must be at least 1, not {value}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")
        if not self.domains or len(set(self.domains)) < len(self.domains):
            raise ValueError(f"domain must name one or more different domains, not {self.domains}")
        for split in SPLITS:
            if (size := self.sizes[split]) is not None and size < len(self.domains):
                raise ValueError(f"{split}_size={size} is fewer than the {len(self.domains)} domains")
        if not 0 <= self.max_unusable <= 1:
            raise ValueError(f"max_unusable must lie between 0 and 1, not {self.max_unusable}")
        if self.data is None and (unknown := [name for name in self.domains if name not in generators.FAMILIES]):
            raise ValueError(f"domain {unknown[0]!r} is not embedded; there are {', '.join(generators.FAMILIES)}")
        if self.data is None and self.difficulty not in generators.DIFFICULTIES:
            raise ValueError(f"difficulty={self.difficulty} is none of {', '.join(map(str, generators.DIFFICULTIES))}")

    def _check_sources(self) -> None:
        several = isinstance(self.data, Mapping)
        for name in self.fields or ():
            domain, _, field = name.rpartition(".") if several else ("", "", name)
            if field not in COLUMNS:
                raise ValueError(f"fields maps {name!r}, which is none of {', '.join(COLUMNS)}")
            if domain and domain not in self.domains:
                raise ValueError(f"fields maps {name!r}, and {domain!r} is none of {', '.join(self.domains)}")
        if isinstance(self.data, Mapping):
            if missing := [name for name in self.domains if name not in self.data]:
                raise ValueError(f"data names no source for domain {missing[0]!r}")
            if unknown := [name for name in self.data if name not in self.domains]:
                raise ValueError(f"data names a source for {unknown[0]!r}, which is none of {', '.join(self.domains)}")
        for source in self._sources:
            source_kind(source)
        if not self.streaming:
            return
        if self.data is None:
            raise ValueError("streaming needs data: embedded problems are generated one by one anyway")
        if self.sizes["train"] is not None:
            raise ValueError("train_size cannot be combined with streaming: the number of problems is not known")
        if several and len(self.domains) > 1 and self.weights is None:
            raise ValueError("streaming from several sources needs weights: their sizes are not known")

    def _check_weights(self) -> None:
        if self.weights is None:
            return
        if unknown := [name for name in self.weights if name not in self.domains]:
            raise ValueError(f"weights names {unknown[0]!r}, which is none of {', '.join(self.domains)}")
        if missing := [name for name in self.domains if name not in self.weights]:
            raise ValueError(f"weights has none for domain {missing[0]!r}; 0 leaves it out of training")
        for name, weight in self.weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"weights must not be negative, not {weight:g} for {name!r}")
        if not any(self.weights.values()):
            raise ValueError("weights are all zero: no domain would be trained on")

    @property
    def _sources(self) -> list[str]:
        return [] if self.data is None else [self.data] if isinstance(self.data, str) else list(self.data.values())

    @property
    def _name(self) -> str:
        return ", ".join(self._sources)

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of a split: held-out ones as a fixed list, generated training ones as a lazy sequence.

        Raises:
            ValueError: if there is no such split, no problem in it, or it is read as a stream.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
        if split == "train":
            return self._train
        if split not in self._held_out:
            self._held_out[split] = self._make_held_out(split)
        return self._held_out[split]

    def train_stream(self, train: Sequence[Problem] | None = None, *, shuffle: bool = True) -> TrainStream:
        """The endless stream of training problems, mixed by `weights` if there are any.

        Args:
            train: the problems; by default `problems("train")`.
            shuffle: shuffle anew in each epoch. Endless embedded problems stay in the order of their index.
        """
        if self.weights is None:
            return self._part_stream(self.domains, train, shuffle)
        return Mixture({name: self._part_stream([name], train, shuffle) for name in self.domains}, self.weights)

    def _part_stream(self, domains: Sequence[str], train: Sequence[Problem] | None, shuffle: bool) -> TrainStream:
        if self.streaming:
            return self._stream(domains, shuffle)
        if train is None:
            train = self._train
        if isinstance(train, GeneratedProblems):
            train = train.only(domains)
        elif domains != self.domains:
            train = self._required("train", [problem for problem in train if problem.domain in domains], domains)
        return Epochs(train, seed=self.seed, shuffle=shuffle and len(train) < ENDLESS)

    def _stream(self, domains: Sequence[str], shuffle: bool) -> ProblemStream:
        (reader,) = self._readers(domains)
        shards = open_set(reader.data, streaming=True).get("train")
        if not shards:
            raise ValueError(f"{reader.data}: no train file or split to stream")
        options: dict[str, Any] = {"seed": self.seed, "shuffle": shuffle, "block": self.shuffle_buffer}
        return ProblemStream(shards, reader, self._held_out_prompts, **options)

    def _readers(self, domains: Sequence[str]) -> list[Reader]:
        assert self.data is not None
        names = ("tests_needed", "max_unusable", "check_answers")
        return readers(self.data, domains, self.fields or {}, **{name: getattr(self, name) for name in names})

    @cached_property
    def _loaded(self) -> dict[Split, list[Problem]]:
        return load_problems(self._readers(self.domains), held_out_only=self.streaming)

    @cached_property
    def _held_out_prompts(self) -> Collection[str]:
        return {normalized_prompt(p.prompt) for problems in self._loaded.values() for p in problems}

    @cached_property
    def _train(self) -> Sequence[Problem]:
        size = self.sizes["train"]
        if self.streaming:
            raise ValueError("the training problems are read as a stream (streaming): there is no list of them")
        if self.data is None:
            return GeneratedProblems(self.domains, size or ENDLESS, difficulty=self.difficulty, seed=self.seed)
        return self._required("train", _choose(self._loaded["train"], size), self.domains)

    def _make_held_out(self, split: Split) -> list[Problem]:
        size = self.sizes[split]
        assert size is not None
        if self.data is not None:
            by_domain = [[p for p in self._loaded[split] if p.domain == name] for name in self.domains]
            chosen = _interleaved([_choose(problems, size) for problems in by_domain])[:size]
            return self._required(split, chosen, self.domains)
        by_domain = []
        for i, name in enumerate(self.domains):
            count = len(range(i, size, len(self.domains)))
            try:
                by_domain.append(generators.unique(name, split, count, difficulty=self.difficulty, seed=_HELD_OUT_SEED))
            except ValueError as error:
                raise ValueError(f"{split}_size={size}: {error}") from error
        return _interleaved(by_domain)

    def _required(self, split: Split, problems: list[Problem], domains: Sequence[str]) -> list[Problem]:
        if not problems:
            what = f"{self._name}: no {split} problems of {', '.join(domains)}"
            if self.streaming:
                raise ValueError(f"{what}; with streaming they come from a {split} file or split of their own")
            raise ValueError(f"{what}; give more rows, or a {split} file in a folder")
        return problems


def _choose(problems: list[Problem], size: int | None) -> list[Problem]:
    """At most `size` of the problems, chosen by a hash of their text, independently of their order."""
    if size is None or size >= len(problems):
        return problems
    return sorted(problems, key=lambda problem: hashlib.sha256(problem.prompt.encode()).digest())[:size]


def _interleaved(lists: Sequence[Sequence[Problem]]) -> list[Problem]:
    """The first of each list, the second of each, and so on; shorter lists end earlier."""
    return [problem for problem in chain.from_iterable(zip_longest(*lists)) if problem is not None]
