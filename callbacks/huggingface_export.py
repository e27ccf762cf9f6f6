"""A Hugging Face folder beside each checkpoint."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from vibethinker.models.export import check_adapter
from vibethinker.training.checkpoint import FolderCheckpointIO, clear_removed, model_checkpoints
from vibethinker.training.policy_module import PolicyModule


class HuggingFaceExport(Callback):
    """Writes the policy as a Hugging Face folder beside each `.ckpt`: `step=40.ckpt` gets `step=40/`.

    Both are written atomically, and removed together when `ModelCheckpoint` keeps only its best. With `save_last=True`
    there is a `last.ckpt` to resume from at any moment after the first save.

    Args:
        dtype: of the weights in the folder; float32 loses nothing for fusion and further training.
        adapter_only: write the adapter alone, as PEFT does, instead of the merged model. It takes a hundredth of the
            space, and every command that takes a model merges it; its base has to stay where it is.

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
        """Replaces Lightning's checkpoint writer."""
        if not isinstance(pl_module, PolicyModule):
            raise ValueError(f"HuggingFaceExport needs a PolicyModule to export, not {type(pl_module).__name__}")
        current = type(trainer.strategy.checkpoint_io)
        if current not in (TorchCheckpointIO, FolderCheckpointIO):
            raise ValueError(f"HuggingFaceExport replaces Lightning's checkpoint writer: leave out {current.__name__}")
        if self.adapter_only:
            check_adapter(pl_module.policy)
        self._io = FolderCheckpointIO(pl_module, getattr(torch, self.dtype), self.adapter_only)
        trainer.strategy.checkpoint_io = self._io
        checkpoints = model_checkpoints(trainer)
        if any(c.save_last for c in checkpoints) and not checkpoints[-1].save_last:
            raise ValueError(
                "save_last belongs to the last ModelCheckpoint: its file holds the choices of those before"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Clears what a killed process has left behind."""
        for checkpoint in model_checkpoints(trainer):
            # A resumed ModelCheckpoint does not know that it has saved at this step, and would save again.
            checkpoint._last_global_step_saved = trainer.global_step
            if trainer.is_global_zero and checkpoint.dirpath:
                clear_removed(checkpoint.dirpath)

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """Removes the checkpoints that the step before has replaced."""
        self._io.remove_pending()

    on_train_end = on_train_batch_start
