"""Validation and test: how often the policy is right, over all problems and in every domain."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from torchmetrics import MeanMetric

from vibethinker.evaluation.grading import GradedSamples, extract_answers
from vibethinker.evaluation.summary import problem_metrics
from vibethinker.problems import Problem
from vibethinker.training.distributed import gather
from vibethinker.utils.seeding import stable_seed


class HeldOut(pl.LightningModule):
    """A module that is validated, tested and asked by sampling from it. Says how in `sample_and_grade`."""

    seed: int

    def __init__(self) -> None:
        super().__init__()
        self._means: dict[str, MeanMetric] = {}

    def sample_and_grade(self, problems: Sequence[Problem], n: int, seeds: Sequence[int]) -> GradedSamples:
        """Samples `n` completions of every problem and grades them."""
        raise NotImplementedError("a HeldOut subclass defines sample_and_grade")

    def on_validation_epoch_start(self) -> None:
        self._means = {}

    def on_test_epoch_start(self) -> None:
        self._means = {}

    def validation_step(self, batch: list[Problem], batch_idx: int) -> None:
        self._count("val", batch, n=1, ks=(1,))

    def test_step(self, batch: list[Problem], batch_idx: int) -> None:
        self._count("test", batch, n=8, ks=(1, 8))

    def predict_step(self, batch: list[Problem], batch_idx: int) -> list[str]:
        return list(self.sample_and_grade(batch, 1, [stable_seed(self.seed, p.id) for p in batch]).completions)

    def on_validation_epoch_end(self) -> None:
        self._log_means()

    def on_test_epoch_end(self) -> None:
        self._log_means()

    def _count(self, split: str, batch: list[Problem], n: int, ks: Sequence[int]) -> None:
        samples = self.sample_and_grade(batch, n, [stable_seed(self.seed, split, p.id) for p in batch])
        for problem, metrics in zip(batch, problem_metrics(extract_answers(samples), ks), strict=True):
            for name, value in metrics.items():
                for key in (f"{split}/{name}", f"{split}/{problem.domain}/{name}"):
                    self._means.setdefault(key, MeanMetric().to(self.device)).update(value)

    def _log_means(self) -> None:
        """Means over the problems of all ranks; a rank without a domain's problems takes part with none."""
        for key in sorted({key for keys in gather(list(self._means)) for key in keys}):
            mean = self._means.setdefault(key, MeanMetric().to(self.device))
            mean.update(torch.empty(0))
            self.log(key, mean.compute(), prog_bar=key.count("/") == 1 and key.endswith("pass@1"), sync_dist=True)
