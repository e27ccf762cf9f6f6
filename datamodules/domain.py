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
from vibethinker.datamodules.reading.unusable import askable, learnable
from vibethinker.datamodules.splits import ProblemSource
from vibethinker.problems import Problem, Split
from vibethinker.training.protocols import ProblemConsumer


class DomainDataModule(ProblemSource, pl.LightningDataModule):
    """Batches of problems for training and evaluation; the options are those of `ProblemSource`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._learnable: list[Problem] | None = None
        self._resume: Mapping[str, Any] | None = None

    def setup(self, stage: str) -> None:
        """Read the data, so that what is wrong with it shows before the model is loaded.

        A `ProblemConsumer` is asked which problems of a set read from files it cannot sample from, and which of the
        training solutions it cannot train on; they count as unusable.

        Raises:
            ValueError: naming the option, or what is unusable.
        """
        check_divisible(self.batch_size, self._world[1])
        self._resume = self._learnable = None
        if self.data is None:
            return
        _ = self._loaded
        self._held_out.clear()  # made anew where the module is known
        if stage != "fit":
            return
        if self.streaming:
            self.train_stream().take(range(1), range(1))
            return
        module = self._module
        unusable = None if module is None else module.unusable_demonstrations(self._train)
        if unusable is None:
            self._learnable = self._askable(self._train, "train")
        else:
            self._learnable = learnable(self._train, unusable, self.max_unusable, self._name)

    @property
    def _module(self) -> ProblemConsumer | None:
        module: Any = None if self.trainer is None else self.trainer.lightning_module
        return module if isinstance(module, ProblemConsumer) else None

    def _askable(self, problems: Sequence[Problem], split: Split) -> list[Problem]:
        if (module := self._module) is None:
            return list(problems)
        return askable(problems, module.unaskable(problems), self.max_unusable, f"{self._name}, {split}")

    def _make_held_out(self, split: Split) -> list[Problem]:
        if self.data is not None:
            self._loaded[split] = self._askable(self._loaded[split], split)
        return super()._make_held_out(split)

    @property
    def steps_per_epoch(self) -> int | None:
        """Global batches in a pass through the train set; `None` where that has no end, or none that is known."""
        size = ENDLESS if self.streaming else self.train_stream(self._learnable).size
        return None if size >= ENDLESS else -(-size // self.batch_size)

    def train_dataloader(self) -> TrainLoader:
        """Global batches of training problems; see `TrainLoader` for their order and for how to resume.

        A `ProblemConsumer` gets each batch once for each of its optimizer steps on it.
        """
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            raise ValueError(f"overfit_batches repeats no batch here: set train_size={self.batch_size} instead")
        rank, world_size = self._world
        module = self._module
        loader = TrainLoader(
            self.train_stream(self._learnable, shuffle=self.shuffle),
            self.batch_size,
            repeats=1 if module is None else module.updates_per_rollout,
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

    predict_dataloader = test_dataloader

    def transfer_batch_to_device(
        self, batch: list[Problem], device: torch.device, dataloader_idx: int
    ) -> list[Problem]:
        """Problems hold no tensors; Lightning's own way would try to rebuild each of these frozen records."""
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position in the training data.

        Lightning also keeps the loader's own state, but drops it when an epoch has just ended and when the loader was
        made early (`estimated_stepping_batches`); this copy is always restored.
        """
        loader = None if self.trainer is None else self.trainer.train_dataloader
        return loader.state_dict() if isinstance(loader, TrainLoader) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps a position in the training data for the next train loader."""
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
