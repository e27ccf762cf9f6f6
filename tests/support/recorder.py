"""A LightningModule that keeps what it was given. As a script: two processes train it and write that down."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from vibethinker.datamodules import DomainDataModule
from vibethinker.problems import Problem


def write_rows(path: Path, count: int) -> None:
    """Mostly algebra, one in four geometry, sorted by domain as real files are."""
    domains = sorted(["algebra", "algebra", "algebra", "geometry"][i % 4] for i in range(count))
    rows = [{"prompt": f"question {i}", "answer": str(i), "domain": name} for i, name in enumerate(domains)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Recorder(pl.LightningModule):
    """Learns nothing; keeps what it was given."""

    updates_per_rollout = 2

    def __init__(self, estimate: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.estimate = estimate
        self.train_ids: list[list[str]] = []
        self.val_ids: list[list[str]] = []

    def unaskable(self, problems: Sequence[Problem]) -> list[str]:
        return [""] * len(problems)

    def unusable_demonstrations(self, problems: Sequence[Problem]) -> list[list[str]] | None:
        return None

    def training_step(self, batch: list[Problem], batch_idx: int) -> torch.Tensor:
        self.train_ids.append([problem.id for problem in batch])
        return self.weight.sum() + torch.rand(())

    def validation_step(self, batch: list[Problem], batch_idx: int) -> None:
        self.val_ids.append([problem.id for problem in batch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.estimate:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(**({"default_root_dir": folder, "devices": 1} | quiet | options))  # type: ignore[arg-type]


def main(folder: Path) -> None:
    data = folder / "set.jsonl"
    if not data.exists():
        write_rows(data, 200)
    module = Recorder()
    two = trainer(
        folder,
        strategy="ddp",
        devices=2,
        max_steps=10,
        val_check_interval=10,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
    )
    two.fit(module, datamodule=DomainDataModule("algebra", data=str(data), batch_size=4, val_size=7))
    seen = {"train": module.train_ids, "val": module.val_ids}
    (folder / f"rank{two.global_rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
