"""A fit of a few steps on two domains, as the tests of callbacks share it; as a script, the same on two processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from vibethinker import Problem, SFTModule
from vibethinker.callbacks import DiversityProbe, HuggingFaceExport
from vibethinker.datamodules import DomainDataModule

DOMAINS = ["algebra", "geometry"]


def odd_length(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    """A reward that a random model earns now and then."""
    return [float(len(text) % 2) for text in completions]


def sft(model: str, **options: Any) -> SFTModule:
    settings: dict[str, Any] = {"max_length": 448, "instruction": "", "reward": odd_length}
    settings["optimizer"] = {"learning_rate": 1e-3}
    settings["sampler"] = {"max_new_tokens": 8, "slots": 64}
    return SFTModule(model, **{**settings, **options})


def data(domains: Sequence[str] = DOMAINS, **options: Any) -> DomainDataModule:
    return DomainDataModule(list(domains), **{"batch_size": 4, "probe_size": 8, "difficulty": 1, **options})


def best(folder: Path, domain: str, k: int = 2, **options: Any) -> ModelCheckpoint:
    settings: dict[str, Any] = {"monitor": f"probe/{domain}/pass@{k}", "mode": "max", "every_n_train_steps": 2}
    return ModelCheckpoint(
        folder / domain, **{"filename": "{step}", "enable_version_counter": False, **settings, **options}
    )


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> pl.Trainer:
    settings: dict[str, Any] = {"max_steps": 6, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1}
    quiet = {"limit_val_batches": 0, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks), "logger": False}
    return pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**settings, **quiet, **options})


def fit(folder: Path, model: str, *callbacks: Callback, resume: Path | None = None, **options: Any) -> pl.Trainer:
    """Fits with a probe and exports, and the checkpoints given."""
    run = trainer(folder, DiversityProbe(2, n=4, k=2), HuggingFaceExport(), *callbacks, **options)
    run.fit(sft(model), datamodule=data(), ckpt_path=resume, weights_only=False)
    return run


def weights(run: pl.Trainer) -> dict[str, torch.Tensor]:
    assert isinstance(run.lightning_module, SFTModule)
    return run.lightning_module.policy.state_dict()


def assert_same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


class Lone(DiversityProbe):
    """A second probe of one trainer: with fewer problems than processes."""


def measure(out: Path, model: str, processes: int) -> None:
    """Writes what each rank measured of five problems, and of one, with weights that stay as they are."""
    probes = [DiversityProbe(1, problems=5, n=4, k=2), Lone(1, problems=1, n=4, k=2)]
    strategy = {"strategy": "ddp"} if processes > 1 else {}
    run = trainer(out, *probes, devices=processes, max_steps=1, logger=CSVLogger(out), **strategy)
    run.fit(sft(model, optimizer={"learning_rate": 0.0}), datamodule=data())
    logged = {k: v.item() for k, v in run.callback_metrics.items() if k.startswith("probe/")}
    content = {"records": [probe.record for probe in probes], "logged": logged}
    (out / f"rank{run.global_rank}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    measure(Path(sys.argv[1]), sys.argv[2], processes=2)
