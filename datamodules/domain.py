"""Data modules: problems of one domain or a mix of several, made on the spot or read from files.

A batch is a list of `Problem`s. Turning text into tokens is the LightningModule's work, so the same data module serves
fine-tuning (`problem.solutions`) and reinforcement learning (`problem.prompt` and its answer).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any, overload

import lightning.pytorch as pl
import torch

from vibethinker.datamodules import generators
from vibethinker.datamodules.files import COLUMNS, load_problems, source_kind
from vibethinker.datamodules.sampling import ENDLESS, HeldOutLoader, TrainLoader, check_divisible
from vibethinker.problems import SPLITS, Problem, Split

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


class DomainDataModule(pl.LightningDataModule):
    """Problems of one domain or several, split into a train set and three held-out sets that share no prompt with it.

    Without `data` the problems come from the embedded generator, which is endless and has verified answers. Several
    domains take turns there, so each batch holds all of them in equal parts. A file's train set keeps the proportions
    of the file. Held-out sets take equal parts of each domain as long as it has problems left.

    Args:
        domain: name of the domain, or a list of names. With `data`, any name that the rows use.
        data: a JSONL or Parquet file, a folder of `train`, `probe`, `val` and `test` files, or the name of a hub data
            set (`owner/name` or `owner/name:configuration`). The embedded generator when left out. Held-out sets that
            no file is named after are cut from the training rows by a hash of the prompt, a tenth for each.
        fields: column name for each problem field (`prompt`, `answer`, `solutions`, `tests`, `domain`, `id`; for tests
            also `hidden_tests`, `setup`, `entry_point`, `starter`) whose column is not found by its usual name, for
            example `{"solutions": "generations"}`.
        difficulty: difficulty of embedded problems.
        batch_size: problems per global batch: all processes together, so that a configuration makes the same updates
            on any number of GPUs.
        train_size: number of training problems. Endless for embedded ones, all that the file has, when left out.
        probe_size: number of problems for checkpoint selection, over all domains; fewer if there are not as many.
        val_size: number of validation problems, in the same way.
        test_size: number of test problems, in the same way.
        seed: seed of the embedded training problems and of the shuffling. Held-out problems do not depend on it.
        shuffle: whether each pass through the training problems has a new order. Endless ones come as they are made.
    """

    tests_needed = False

    def __init__(
        self,
        domain: str | list[str],
        data: str | None = None,
        fields: dict[str, str] | None = None,
        difficulty: int = 2,
        batch_size: int = 64,
        train_size: int | None = None,
        probe_size: int = 64,
        val_size: int = 64,
        test_size: int = 256,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        super().__init__()
        self.domains = [domain] if isinstance(domain, str) else list(domain)
        self.data = data
        self.fields = dict(fields or {})
        self.difficulty = difficulty
        self.batch_size = batch_size
        self.sizes: dict[Split, int | None] = {
            "train": train_size,
            "probe": probe_size,
            "val": val_size,
            "test": test_size,
        }
        self.seed = seed
        self.shuffle = shuffle
        self._resume: Mapping[str, Any] | None = None
        self._held_out: dict[Split, list[Problem]] = {}
        self._check_options()

    def _check_options(self) -> None:
        numbers = {"batch_size": self.batch_size} | {
            f"{split}_size": size for split, size in self.sizes.items() if size is not None
        }
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

    def setup(self, stage: str) -> None:
        """Read the data, so that what is wrong with it shows before the model is loaded."""
        check_divisible(self.batch_size, self._world[1])
        self._resume = None
        if self.data is not None:
            _ = self._loaded

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

    def train_dataloader(self) -> TrainLoader:
        """Global batches of training problems; see `TrainLoader` for their order and for how to resume.

        A module with an attribute `slices_per_batch` gets each batch that many times in a row.
        """
        if getattr(self.trainer, "overfit_batches", 0):
            raise ValueError(f"overfit_batches repeats no batch here: set train_size={self.batch_size} instead")
        module = None if self.trainer is None else self.trainer.lightning_module
        rank, world_size = self._world
        loader = TrainLoader(
            self._train,
            self.batch_size,
            seed=self.seed,
            shuffle=self.shuffle and len(self._train) < ENDLESS,
            slices=getattr(module, "slices_per_batch", 1),
            rank=rank,
            world_size=world_size,
        )
        # A loader that is there already is one that the trainer wants to have made anew in the middle of training.
        if state := self.state_dict() or self._resume:
            loader.load_state_dict(state)
        return loader

    def val_dataloader(self) -> HeldOutLoader:
        """Global batches of the validation set."""
        return self._held_out_loader("val")

    def test_dataloader(self) -> HeldOutLoader:
        """Global batches of the test set."""
        return self._held_out_loader("test")

    def predict_dataloader(self) -> HeldOutLoader:
        """Global batches of the test set."""
        return self._held_out_loader("test")

    def transfer_batch_to_device(
        self, batch: list[Problem], device: torch.device, dataloader_idx: int
    ) -> list[Problem]:
        """Problems hold no tensors; Lightning's own way would try to rebuild each of these frozen records."""
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The place in the training data.

        Lightning also keeps the loader's own state, but drops it when an epoch has just ended and when the loader was
        made early (`estimated_stepping_batches`); this copy is always restored.
        """
        loader = None if self.trainer is None else self.trainer.train_dataloader
        return loader.state_dict() if isinstance(loader, TrainLoader) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a place in the training data for the next train loader."""
        self._resume = state_dict

    @property
    def _world(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

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

    def _held_out_loader(self, split: Split) -> HeldOutLoader:
        rank, world_size = self._world
        return HeldOutLoader(self.problems(split), self.batch_size, rank=rank, world_size=world_size)

    def _required(self, split: Split, problems: list[Problem]) -> list[Problem]:
        if not problems:
            names = ", ".join(self.domains)
            raise ValueError(
                f"{self.data}: no {split} problems of {names}; give more rows, or a {split} file in a folder"
            )
        return problems


class AlgebraDataModule(DomainDataModule):
    """Problems of algebra; the other options are those of `DomainDataModule`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(domain="algebra", **options)


class GeometryDataModule(DomainDataModule):
    """Problems of geometry; the other options are those of `DomainDataModule`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(domain="geometry", **options)


class CalculusDataModule(DomainDataModule):
    """Problems of calculus; the other options are those of `DomainDataModule`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(domain="calculus", **options)


class StatisticsDataModule(DomainDataModule):
    """Problems of statistics; the other options are those of `DomainDataModule`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(domain="statistics", **options)


class CodeDataModule(DomainDataModule):
    """Programming problems; the other options are those of `DomainDataModule`.

    With `data`, the columns of APPS, TACO, LiveCodeBench, MBPP and HumanEval are known by their usual names, and their
    tests by their content (`vibethinker.datamodules.layouts`). MBPP's own file needs `fields` for two of them,
    `{"prompt": "text", "solutions": "code"}`. A row without tests is an error.
    """

    tests_needed = True

    def __init__(self, **options: Any) -> None:
        super().__init__(domain="code", **options)


def _choose(problems: list[Problem], size: int | None) -> list[Problem]:
    """`size` of the problems at most, chosen by their text alone so that the order of a file is no bias."""
    if size is None or size >= len(problems):
        return problems
    return sorted(problems, key=lambda problem: hashlib.sha256(problem.prompt.encode()).digest())[:size]


def _take_turns(lists: Sequence[Sequence[Problem]]) -> list[Problem]:
    """The first of each list, the second of each, and so on; a list that is used up is passed over."""
    return [problem for problem in chain.from_iterable(zip_longest(*lists)) if problem is not None]
