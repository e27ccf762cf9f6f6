"""Data modules: problems of one domain or a mix of several, made on the spot or read from files.

A batch is a list of `Problem`s. Turning text into tokens is the LightningModule's work, so the same data module serves
fine-tuning (`problem.solutions`) and reinforcement learning (`problem.prompt` and its answer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch

from vibethinker.datamodules.loaders import ENDLESS, HeldOutLoader, TrainLoader, check_divisible
from vibethinker.datamodules.reading.files import MAX_UNUSABLE
from vibethinker.datamodules.reading.unusable import askable, learnable
from vibethinker.datamodules.splits import ProblemSource
from vibethinker.problems import Problem, Split


class DomainDataModule(ProblemSource, pl.LightningDataModule):
    """Problems of one domain or several, split into a train set and three held-out sets that share no prompt with it.

    Without `data` the problems come from the embedded generator, which is endless and has verified answers. Several
    domains take turns there, so each batch holds all of them in equal parts. A file's train set keeps the proportions
    of the file. Held-out sets take equal parts of each domain as long as it has problems left.

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
        shuffle: whether each pass through the training problems has a new order. Endless ones come as they are made.
        weights: how much of the training each domain is, relative to their sum: exact to one problem after any number
            of them. Each domain is then an endless stream of its own. Without weights embedded domains take turns, and
            a file keeps its proportions.
        max_unusable: share of the rows that may be unusable, for whatever reason; they are counted, told and left out.
            More of them are an error. With 0 the first one is.
        check_answers: whether an answer that cannot be read as mathematics (braces that do not match, a sentence) makes
            a row without tests unusable. Turn it off where a reward of your own judges them.
        streaming: read the training rows as training goes on, not all of them first. Held-out sets then come from files
            or splits of their own, and what stands in them is passed over.
        shuffle_buffer: rows that are read together and shuffled among themselves, with `streaming`.
    """

    def __init__(
        self,
        domain: str | list[str],
        data: str | dict[str, str] | None = None,
        fields: dict[str, str] | None = None,
        difficulty: int = 2,
        batch_size: int = 64,
        train_size: int | None = None,
        probe_size: int = 64,
        val_size: int = 64,
        test_size: int = 256,
        seed: int = 0,
        shuffle: bool = True,
        weights: dict[str, float] | None = None,
        max_unusable: float = MAX_UNUSABLE,
        check_answers: bool = True,
        streaming: bool = False,
        shuffle_buffer: int = 10_000,
    ) -> None:
        super().__init__(
            domain,
            data,
            fields,
            difficulty,
            train_size,
            probe_size,
            val_size,
            test_size,
            seed,
            weights,
            max_unusable,
            check_answers,
            streaming,
            shuffle_buffer,
        )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size, self.shuffle = batch_size, shuffle
        self._learnable: list[Problem] | None = None
        self._resume: Mapping[str, Any] | None = None

    def setup(self, stage: str) -> None:
        """Read the data, so that what is wrong with it shows before the model is loaded.

        A module with a method `unaskable` is asked which problems of a set read from files it cannot ask, one with a
        method `refusals` which of the training solutions it cannot learn from; they count as unusable.

        Raises:
            ValueError: naming the option, or what is unusable.
        """
        check_divisible(self.batch_size, self._world[1])
        self._resume = self._learnable = None
        if self.data is None:
            return
        _ = self._loaded
        self._held_out.clear()  # made anew where the module is known
        refusals = getattr(self._module, "refusals", None)
        if stage == "fit" and self.streaming:
            self.feed().take(range(1), range(1))
        elif stage == "fit" and refusals is not None:
            self._learnable = learnable(self._train, refusals(self._train), self.max_unusable, self._name)
        elif stage == "fit":
            self._learnable = self._askable(self._train, "train")

    @property
    def _module(self) -> Any:
        return getattr(self.trainer, "lightning_module", None)

    def _askable(self, problems: Sequence[Problem], split: Split) -> list[Problem]:
        if not hasattr(self._module, "unaskable"):
            return list(problems)
        return askable(problems, self._module.unaskable(problems), self.max_unusable, f"{self._name}, {split}")

    def _make_held_out(self, split: Split) -> list[Problem]:
        if self.data is not None:
            self._loaded[split] = self._askable(self._loaded[split], split)
        return super()._make_held_out(split)

    @property
    def steps_per_epoch(self) -> int | None:
        """Global batches in a pass through the train set; `None` where that has no end, or none that is known."""
        size = ENDLESS if self.streaming else self.feed(self._learnable).size
        return None if size >= ENDLESS else -(-size // self.batch_size)

    def train_dataloader(self) -> TrainLoader:
        """Global batches of training problems; see `TrainLoader` for their order and for how to resume.

        A module with an attribute `turns_per_batch` gets each batch that many times in a row.
        """
        if getattr(self.trainer, "overfit_batches", 0):
            raise ValueError(f"overfit_batches repeats no batch here: set train_size={self.batch_size} instead")
        rank, world_size = self._world
        loader = TrainLoader(
            self.feed(self._learnable, shuffle=self.shuffle),
            self.batch_size,
            turns=getattr(self._module, "turns_per_batch", 1),
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

    def _held_out_loader(self, split: Split) -> HeldOutLoader:
        rank, world_size = self._world
        return HeldOutLoader(self.problems(split), self.batch_size, rank=rank, world_size=world_size)


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
    tests by their content (`vibethinker.datamodules.reading.layouts`). MBPP's own file needs `fields` for two of them,
    `{"prompt": "text", "solutions": "code"}`. A row without tests is an error.
    """

    tests_needed = True

    def __init__(self, **options: Any) -> None:
        super().__init__(domain="code", **options)
