"""What makes a run folder resumable: one checkpoint that is complete, and a check of the options.

A `ModelCheckpoint` saves as soon as it is its turn, so what the first of several writes knows nothing of what the
others do at the same step, and the last steps of a run may be in none of them. `last.ckpt` comes after them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from vibethinker.callbacks.checkpoint_export import checkpoints_of
from vibethinker.utils.provenance import Provenance, leaves

CONFIG: Final = "config.yaml"
# What decides the weights a run ends with; anything else may change between two attempts.
_DECISIVE: Final = (
    *("model", "data", "seed_everything", "trainer.max_steps", "trainer.max_epochs", "trainer.precision"),
    *("trainer.gradient_clip_val", "trainer.gradient_clip_algorithm"),
)
_HARMLESS: Final = ("slots", "cache_gib", "row_tokens", "gradient_checkpointing", "fused_kernels", "compile")


def last_checkpoint(root: str | Path) -> Path:
    """Where a run folder keeps the checkpoint to go on from."""
    return Path(root) / "checkpoints" / "last.ckpt"


class ResumePoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` once every other checkpoint callback is done with a step.

    Args:
        every_n_train_steps: how often, besides whenever another checkpoint is due, at the end, and on one device when
            SIGTERM comes; 0 for those alone.
    """

    def __init__(self, every_n_train_steps: int = 100):
        if every_n_train_steps < 0:
            raise ValueError(f"resume.every_n_train_steps must not be negative, got {every_n_train_steps}")
        self.every_n_train_steps = every_n_train_steps
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        intervals = (self.every_n_train_steps, *(c._every_n_train_steps for c in checkpoints_of(trainer)))
        last_chance = trainer.received_sigterm and trainer.world_size == 1  # other ranks may be elsewhere by now
        if last_chance or any(interval and trainer.global_step % interval == 0 for interval in intervals):
            self._save(trainer)
        self._follow(trainer)

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        self._follow(trainer)

    def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        self._follow(trainer)

    def on_train_end(self, trainer: Trainer, *args: Any) -> None:
        self._save(trainer)

    def _follow(self, trainer: Trainer) -> None:
        if any(c._last_global_step_saved == trainer.global_step for c in checkpoints_of(trainer)):
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step > self._step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._step = trainer.global_step
            trainer.save_checkpoint(last_checkpoint(trainer.default_root_dir))


def check_same_run(root: str | Path, config: Mapping[str, Any]) -> None:
    """Refuses to go on with other options than a run began with.

    Raises:
        ValueError: one line that names the first option that differs.
    """
    saved = Path(root) / CONFIG
    if not saved.is_file() or not last_checkpoint(root).exists():
        return
    before, now = (Provenance(_decisive(c)) for c in (yaml.safe_load(saved.read_text("utf-8")), config))
    if difference := now.difference(before):
        raise ValueError(
            f"{root} holds a run with {difference}: go on with the old value, or choose another "
            "trainer.default_root_dir"
        )


def _decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide the weights, named as on the command line."""
    options = {option.replace(".init_args", ""): value for option, value in leaves(config)}
    return {
        option: value
        for option, value in options.items()
        if any(option == key or option.startswith(f"{key}.") for key in _DECISIVE)
        and not (option.startswith("model.") and option.rpartition(".")[2] in _HARMLESS)
    }
