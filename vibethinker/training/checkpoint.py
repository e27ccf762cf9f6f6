"""Checkpoints of a run: which one is the last, which one is the best, and how both are written.

A run folder holds, and these alone decide:

    checkpoints/last.ckpt       to resume from: written by `LastCheckpoint` after all other checkpoint callbacks
    checkpoints/step=40.ckpt    of a `ModelCheckpoint`, whose `monitor` and `mode` decide which of its own is the best
    checkpoints/step=40/        the same weights as a Hugging Face folder, written by `FolderCheckpointIO`
    chosen.json                 {monitor: folder of its best}, written by `record_chosen` at the end of a fit

A checkpoint exists exactly when its `.ckpt` does: the folder is written before it and removed after it.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from vibethinker.utils.atomic import atomic_file, staged_folder, write_atomic

if TYPE_CHECKING:
    from vibethinker.training.policy_module import PolicyModule

CHOSEN: Final = "chosen.json"
_REMOVED: Final = ".dropped"  # suffix of a hidden folder that is being removed


def last_checkpoint(root: str | Path) -> Path:
    """Path of the checkpoint to resume from in a run folder."""
    return Path(root) / "checkpoints" / "last.ckpt"


def model_folder(checkpoint: str | Path) -> Path:
    """Path of the Hugging Face folder of a checkpoint: `…/step=40.ckpt` → `…/step=40`."""
    return Path(checkpoint).with_suffix("")


def model_checkpoints(trainer: Trainer) -> list[ModelCheckpoint]:
    """The trainer's `ModelCheckpoint`s, in the order in which they save."""
    return [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]


def record_chosen(trainer: Trainer) -> dict[str, Path]:
    """Writes `chosen.json`; returns the folder of the best model by the monitor that chose it."""
    root = Path(trainer.default_root_dir)
    best = {c.monitor: model_folder(c.best_model_path) for c in model_checkpoints(trainer) if c.best_model_path}
    chosen = {monitor: Path(os.path.relpath(folder, root)) for monitor, folder in best.items() if monitor}
    write_atomic(root / CHOSEN, json.dumps(chosen, indent=1, default=str))
    return {monitor: root / folder for monitor, folder in chosen.items()}


def leave_last_checkpoint(trainer: Trainer) -> None:
    """Has the `ModelCheckpoint`s leave `last.ckpt` to `LastCheckpoint`, and save once for each step."""
    for checkpoint in model_checkpoints(trainer):
        checkpoint.save_last = False
        # A step taken again after a kill saves the same weights under the same name, not as a second version.
        checkpoint._enable_version_counter = False


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` after every other checkpoint callback of a step.

    A `ModelCheckpoint` saves its own state before the ones after it have saved, and not at the last step of a run: none
    of its files could stand for all.

    Args:
        every_n_train_steps: training steps between saves, in addition to those of other checkpoints, the end of the run
            and, on one device, SIGTERM; 0 for these alone.
    """

    def __init__(self, every_n_train_steps: int = 100):
        if every_n_train_steps < 0:
            raise ValueError(f"resume.every_n_train_steps must not be negative, got {every_n_train_steps}")
        self.every_n_train_steps = every_n_train_steps
        self._saved_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts from the step that is resumed from."""
        self._saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Saves where this or another checkpoint is due, and before SIGTERM ends a run on one device."""
        intervals = (self.every_n_train_steps, *(c._every_n_train_steps for c in model_checkpoints(trainer)))
        last_chance = trainer.received_sigterm and trainer.world_size == 1  # other ranks may be at another step
        due = any(interval and trainer.global_step % interval == 0 for interval in intervals)
        self._save(trainer, always=last_chance or due)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves if another one has."""
        self._save(trainer, always=False)

    on_train_epoch_end = on_validation_end

    def on_train_end(self, trainer: Trainer, *args: Any) -> None:
        """Saves the last step."""
        self._save(trainer, always=True)

    def _save(self, trainer: Trainer, always: bool) -> None:
        step = trainer.global_step
        if not (always or any(c._last_global_step_saved == step for c in model_checkpoints(trainer))):
            return
        if step > self._saved_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._saved_step = step
            trainer.save_checkpoint(last_checkpoint(trainer.default_root_dir))


class FolderCheckpointIO(TorchCheckpointIO):
    """Writes and removes a checkpoint together with the policy's Hugging Face folder.

    Lightning's own writer builds the file in the system's temporary folder and moves it: between file systems that is a
    copy, and a kill leaves half of it. Here it is written beside the path, flushed and renamed.

    Args:
        module: the policy to export is its.
        dtype: of the exported weights.
        adapter_only: export the adapter instead of the merged model.
    """

    def __init__(self, module: PolicyModule, dtype: torch.dtype = torch.float32, adapter_only: bool = False):
        self.module, self.dtype, self.adapter_only = module, dtype, adapter_only
        self._pending: list[Path] = []  # checkpoints to remove
        self._exported: tuple[int, Path] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes the folder, then the `.ckpt`."""
        if "://" in str(path) or Path(path).suffix != ".ckpt":
            raise ValueError(f"{path}: HuggingFaceExport writes local files that end in .ckpt")
        path = Path(path)
        step, folder = checkpoint["global_step"], model_folder(path)
        self._pending = [pending for pending in self._pending if pending != path]
        if self._exported is None or self._exported[0] != step or not self._exported[1].is_dir():
            self.module.export(folder, self.dtype, adapter_only=self.adapter_only)
            self._exported = (step, folder)
        elif self._exported[1] != folder:  # checkpoints of the same step (a best one and the last one) share the files
            link_folder(self._exported[1], folder)
        with atomic_file(path) as file:
            torch.save(checkpoint, file)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Marks for removal: until `last.ckpt` is written, the one on disk still names this one as the best."""
        self._pending.append(Path(path))

    def remove_pending(self) -> None:
        """Removes what is marked, each folder hidden first: a kill leaves nothing that looks like a model."""
        for path in self._pending:
            folder, hidden = model_folder(path), path.with_name(f".{path.stem}{_REMOVED}")
            if folder.is_dir():
                shutil.rmtree(hidden, ignore_errors=True)
                folder.rename(hidden)
            super().remove_checkpoint(path)
            shutil.rmtree(hidden, ignore_errors=True)
        self._pending.clear()


def clear_removed(folder: str | Path) -> None:
    """Removes the hidden folders that a killed process has left behind."""
    for hidden in Path(folder).glob(f".*{_REMOVED}"):
        shutil.rmtree(hidden, ignore_errors=True)


def link_folder(source: Path, out: Path) -> None:
    """Makes `out` hold the same files as `source`, as hard links where the file system has them."""
    with staged_folder(out) as folder:
        shutil.copytree(source, folder, copy_function=_link_or_copy, dirs_exist_ok=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
