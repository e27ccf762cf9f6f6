"""Checkpoints that appear whole or not at all, each with a Hugging Face folder beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from vibethinker.models.export import check_adapter
from vibethinker.training.policy_module import PolicyModule
from vibethinker.utils.atomic import atomic_file
from vibethinker.utils.staging import staged_folder

_DROPPED = ".dropped"


def folder_of(checkpoint: str | Path) -> Path:
    """Where the Hugging Face folder of a checkpoint is: `…/step=40.ckpt` → `…/step=40`."""
    return Path(checkpoint).with_suffix("")


def checkpoints_of(trainer: pl.Trainer) -> list[ModelCheckpoint]:
    """The trainer's `ModelCheckpoint`s."""
    return [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]


def share_folder(source: Path, out: Path) -> None:
    """Makes `out` hold the same files as `source`, as hard links where the file system has them."""
    with staged_folder(out) as folder:
        shutil.copytree(source, folder, copy_function=_link_or_copy, dirs_exist_ok=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class FolderCheckpointIO(TorchCheckpointIO):
    """Writes and removes a checkpoint together with the policy's Hugging Face folder.

    Lightning's own writer builds the file in the system's temporary folder and moves it over: between file systems that
    is a copy, and a kill leaves half of it. Here it is written beside its place, flushed and renamed. The folder comes
    before the `.ckpt`, and goes after it: where there is a checkpoint, there is its folder.

    Args:
        module: whose policy is exported.
        dtype: of the exported weights.
        adapter_only: export the adapter instead of the merged model.
    """

    def __init__(self, module: PolicyModule, dtype: torch.dtype = torch.float32, adapter_only: bool = False):
        self.module, self.dtype, self.adapter_only = module, dtype, adapter_only
        self._dropped: list[Path] = []
        self._exported: tuple[int, Path] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path) or Path(path).suffix != ".ckpt":
            raise ValueError(f"{path}: HuggingFaceExport writes local files that end in .ckpt")
        path = Path(path)
        self._dropped = [dropped for dropped in self._dropped if dropped != path]
        self._export(checkpoint["global_step"], folder_of(path))
        with atomic_file(path) as file:
            torch.save(checkpoint, file)

    def _export(self, step: int, folder: Path) -> None:
        """Checkpoints of the same step (a best one and the last one) share the files of one export."""
        if self._exported is not None and self._exported[0] == step and self._exported[1].is_dir():
            if self._exported[1] != folder:
                share_folder(self._exported[1], folder)
            return
        self.module.export(folder, self.dtype, adapter_only=self.adapter_only)
        self._exported = (step, folder)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Marks for removal: until `last.ckpt` is written, the one on disk still names this one as the best."""
        self._dropped.append(Path(path))

    def remove_dropped(self) -> None:
        """Takes them out of sight first: a kill half-way leaves nothing that looks like a model."""
        for path in self._dropped:
            folder, hidden = folder_of(path), path.with_name(f".{path.stem}{_DROPPED}")
            if folder.is_dir():
                shutil.rmtree(hidden, ignore_errors=True)
                folder.rename(hidden)
            super().remove_checkpoint(path)
            shutil.rmtree(hidden, ignore_errors=True)
        self._dropped.clear()


class HuggingFaceExport(Callback):
    """Writes the policy as a Hugging Face folder beside each `.ckpt`: `step=40.ckpt` gets `step=40/`.

    Both are written atomically, and go together when `ModelCheckpoint` keeps only its best. With `save_last=True` there
    is a `last.ckpt` to resume from at any moment after the first save.

    Args:
        dtype: of the weights in the folder; float32 loses nothing for fusion and further training.
        adapter_only: write the adapter alone, as PEFT does, instead of the merged model. It takes a hundredth of the
            room, and whatever takes a model merges it; its base has to stay where it is.

    Raises:
        ValueError: at setup, if `last.ckpt` would not hold the choices of every `ModelCheckpoint`, another checkpoint
            plugin is in use, or there is no adapter to write alone.
    """

    def __init__(self, dtype: Literal["float32", "bfloat16", "float16"] = "float32", adapter_only: bool = False):
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"HuggingFaceExport: dtype must be float32, bfloat16 or float16, got {dtype!r}")
        if adapter_only and dtype != "float32":
            raise ValueError("HuggingFaceExport: an adapter alone is float32; leave dtype out")
        self.dtype, self.adapter_only = dtype, adapter_only

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, PolicyModule):
            raise ValueError(f"HuggingFaceExport needs a PolicyModule to export, not {type(pl_module).__name__}")
        current = type(trainer.strategy.checkpoint_io)
        if current not in (TorchCheckpointIO, FolderCheckpointIO):
            raise ValueError(f"HuggingFaceExport replaces Lightning's checkpoint writer: leave out {current.__name__}")
        if self.adapter_only:
            check_adapter(pl_module.policy)
        io = FolderCheckpointIO(pl_module, getattr(torch, self.dtype), self.adapter_only)
        trainer.strategy.checkpoint_io = io
        checkpoints = checkpoints_of(trainer)
        if any(c.save_last for c in checkpoints) and not checkpoints[-1].save_last:
            raise ValueError(
                "save_last belongs to the last ModelCheckpoint: its file holds the choices of those before"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Resumed, a ModelCheckpoint has forgotten that it saved at this step, and would do so again between two
        # micro-batches of the next one.
        for checkpoint in checkpoints_of(trainer):
            checkpoint._last_global_step_saved = trainer.global_step
            if trainer.is_global_zero and checkpoint.dirpath:
                for hidden in Path(checkpoint.dirpath).glob(f".*{_DROPPED}"):  # of a process that was killed
                    shutil.rmtree(hidden, ignore_errors=True)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._remove_dropped(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._remove_dropped(trainer)

    def _remove_dropped(self, trainer: pl.Trainer) -> None:
        assert isinstance(trainer.strategy.checkpoint_io, FolderCheckpointIO)
        trainer.strategy.checkpoint_io.remove_dropped()
