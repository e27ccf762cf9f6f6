"""Protocols between data modules and LightningModules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from vibethinker.problems import Problem, Split


@runtime_checkable
class HeldOutData(Protocol):
    """A data module with held-out problems, as a probe needs it."""

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of a split."""
        ...


@runtime_checkable
class ProblemData(HeldOutData, Protocol):
    """A data module that describes its train set, as a LightningModule uses it.

    A data module without these can still be fitted from, by `trainer.max_steps` and without a probe.

    Attributes:
        batch_size: problems of a global batch, over all ranks.
        streaming: True where training problems are read as training goes on, unchecked.
        max_unusable: largest fraction of the problems that may be left out.
    """

    batch_size: int
    streaming: bool
    max_unusable: float

    @property
    def steps_per_epoch(self) -> int | None:
        """Global batches of an epoch; `None` where the train set has no known end."""
        ...


@runtime_checkable
class ProblemConsumer(Protocol):
    """A LightningModule that trains on problems, as a data module sees it.

    Attributes:
        updates_per_rollout: optimizer steps on each batch.
    """

    updates_per_rollout: int

    def unaskable(self, problems: Sequence[Problem]) -> list[str]:
        """For each problem why it cannot be sampled from, empty where it can."""
        ...

    def unusable_demonstrations(self, problems: Sequence[Problem]) -> list[list[str]] | None:
        """For each solution of each problem why it cannot be trained on, empty where it can.

        `None` where the module does not train on solutions.
        """
        ...
