"""Settings of the Trainer that a fit on packed updates cannot take, and its horizon in optimizer steps."""

from __future__ import annotations

from typing import Any, Final

from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from vibethinker.training.options import replacement
from vibethinker.training.protocols import ProblemData

_UNSET_EPOCHS: Final = 1000  # what Lightning puts where neither steps nor epochs are given
_STRATEGIES: Final = (SingleDeviceStrategy, DDPStrategy)  # weights and gradients are whole; deepspeed's inherits ddp's
_PRECISIONS: Final = ("32-true", "bf16-mixed", "16-mixed")  # float32 master weights: others lose small updates


def check_trainer(trainer: Any) -> None:
    """Checks precision, strategy and gradient accumulation.

    Raises:
        ValueError: names the setting.
    """
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(replacement(["accumulate_grad_batches"]))
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):
        raise ValueError(f"GradientAccumulationScheduler: {replacement(['accumulate_grad_batches'])}")
    if str(trainer.precision) not in _PRECISIONS:
        raise ValueError(f"trainer.precision must be one of {', '.join(_PRECISIONS)}, got {trainer.precision}")
    if type(trainer.strategy) not in _STRATEGIES:
        kind = type(trainer.strategy).__name__
        raise ValueError(f"trainer.strategy must be ddp or one device, which keep weights whole, not {kind}")


def steps_of_epochs(trainer: Any, data: ProblemData | None) -> int:
    """Batches in `trainer.max_epochs` epochs of a finite train set: the horizon that the learning rate needs.

    Raises:
        ValueError: there is no such number; names the setting.
    """
    epochs = trainer.max_epochs
    if epochs is None or epochs < 1 or epochs == _UNSET_EPOCHS:
        raise ValueError("set trainer.max_steps or max_epochs: the learning rate needs to know its horizon")
    if data is None or not data.steps_per_epoch:
        raise ValueError("trainer.max_epochs needs a train set that ends: set trainer.max_steps")
    if trainer.limit_train_batches != 1.0:
        raise ValueError("trainer.max_epochs counts whole epochs: set trainer.max_steps, not limit_train_batches")
    return int(epochs * data.steps_per_epoch)
