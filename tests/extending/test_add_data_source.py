"""A data source of one's own: any LightningDataModule whose batches are lists of `Problem`s."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from tests.support.fits import Recorder, sft
from vibethinker import Problem


class Sums(pl.LightningDataModule):
    """One-digit sums with their solutions."""

    def train_dataloader(self) -> DataLoader[Problem]:
        sums: Any = [
            Problem(f"{a}+{b}", "sums", f"{a}+{b}=?", str(a + b), solutions=(f"\\boxed{{{a + b}}}",))
            for a in range(4)
            for b in range(4)
        ]
        return DataLoader(sums, batch_size=4, collate_fn=list)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch  # Problems hold no tensors


def test_a_policy_is_trained_on_it(tiny_model: str) -> None:
    logged = Recorder()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_steps=3, accelerator="cpu", callbacks=[logged], enable_model_summary=False, **quiet)
    trainer.fit(sft(tiny_model), Sums())
    losses = [step["train/loss"] for step in logged.steps]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
