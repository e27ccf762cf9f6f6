"""Fits of a few steps on eight made-up problems, as the tests of the modules share them; as a script, on two ranks."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from vibethinker import GRPOModule, Problem, SFTModule
from vibethinker.datamodules.loaders import Epochs, HeldOutLoader, TrainLoader
from vibethinker.evaluation.grading import GradedSamples
from vibethinker.rewards import Part
from vibethinker.rollout import RolloutEngine
from vibethinker.training.policy_module import PolicyModule

PROBLEMS = [
    Problem(
        id=f"p{i}", domain="algebra", prompt="+" * (3 * i % 11), answer="1", solutions=("ab" * (i + 1), f"c{i}" * 9)
    )
    for i in range(8)
]
GRPO = TypeVar("GRPO", bound=GRPOModule)
SHAPE: dict[str, Any] = {
    "max_length": 64,
    "instruction": "",
    "packing": {"row_tokens": 96},
    "optimizer": {"learning_rate": 1e-2},
    "sampler": {"max_new_tokens": 10, "slots": 64},
}


def odd(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    """A reward that a random model earns half of the time."""
    return [float(len(text) % 2) for text in completions]


def odd_in_front(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    """The same for the first half of every batch of four; nobody solves the rest."""
    return [r * (int(p.id[1:]) % 4 < 2) for p, r in zip(problems, odd(problems, completions), strict=True)]


def length(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    """A shaping term; not an outcome."""
    return [float(len(text)) for text in completions]


def hopeless(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    return [0.0] * len(completions)


GROUPS: dict[str, Any] = {"group_size": 6, "reward": odd, "kl": {"coefficient": 0.1}}
SHAPED: dict[str, Any] = {
    "shaping": {"length": Part(length, 0.1)},
    "objective": {"overlong_buffer": 6, "long2short": 0.2},
}


def merged(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Options over their defaults, a group's one by one."""
    groups = {
        k: {**v, **given[k]} for k, v in defaults.items() if isinstance(v, dict) and isinstance(given.get(k), dict)
    }
    return {**defaults, **given, **groups}


class _PlainDescent:
    """Gradient descent instead of AdamW, which makes much of the last bit of a gradient close to zero."""

    def configure_optimizers(self: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            [p for p in self.policy.parameters() if p.requires_grad], lr=self.optimizer.learning_rate
        )


class PlainSFT(_PlainDescent, SFTModule):
    pass


class PlainGRPO(_PlainDescent, GRPOModule):
    """Keeps what it sampled, in float32 on a GPU too: a bfloat16 logit depends on the rows beside it."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.judged: list[GradedSamples] = []

    @property
    def engine(self) -> RolloutEngine:
        if self._engine is None:
            self._engine = RolloutEngine(self.policy, max_length=self.max_length, slots=64, dtype=torch.float32)
        return self._engine

    def rollout(self, problems: list[Problem]) -> tuple[GradedSamples, dict[str, float]]:
        judged, metrics = super().rollout(problems)
        self.judged.append(judged)
        return judged, metrics


def sft(model: str, kind: type[SFTModule] = SFTModule, **options: Any) -> SFTModule:
    return kind(model, **merged(SHAPE, options))


def grpo(model: str, **options: Any) -> GRPOModule:
    return _various(GRPOModule(model, **merged(SHAPE | GROUPS, options)))


def plain_grpo(model: str, **options: Any) -> PlainGRPO:
    return _various(PlainGRPO(model, **merged(SHAPE | GROUPS, options)))


def _various(module: GRPO) -> GRPO:
    """A random model hardly ever draws its end-of-sequence token: with forty of them lengths differ."""
    module.sampling = replace(module.sampling, stop_token_ids=tuple(range(0, 240, 6)))
    return module


class Fixed(pl.LightningDataModule):
    """The eight problems in their order, four at a time."""

    def __init__(self, batch_size: int = 4):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> TrainLoader:
        trainer: Any = self.trainer
        repeats, ranks = trainer.lightning_module.updates_per_rollout, {"rank": trainer.global_rank}
        ranks["world_size"] = trainer.world_size
        return TrainLoader(Epochs(PROBLEMS, shuffle=False), self.batch_size, repeats=repeats, **ranks)

    def val_dataloader(self) -> HeldOutLoader:
        return HeldOutLoader(PROBLEMS[:3], self.batch_size)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch


class Recorder(Callback):
    """What was logged at each optimizer step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.seen = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if trainer.global_step > self.seen:
            self.seen = trainer.global_step
            self.steps.append({k: v.item() for k, v in trainer.callback_metrics.items()})


def fit(
    module: PolicyModule, *callbacks: Callback, steps: int = 2, resume: Path | None = None, **options: Any
) -> Recorder:
    """Fits, on the processor unless told otherwise; returns what was logged."""
    recorder = Recorder()
    settings: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "logger": False, "log_every_n_steps": 1}
    settings["num_sanity_val_steps"] = 0
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    run = pl.Trainer(max_steps=steps, callbacks=[*callbacks, recorder], **{**settings, **quiet, **options})
    run.fit(module, datamodule=Fixed(), ckpt_path=resume, weights_only=True)
    return recorder


class SaveAt(Callback):
    """Saves once, after a given number of optimizer steps."""

    def __init__(self, step: int, path: Path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


def weights(module: PolicyModule) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.policy.named_parameters()}


def assert_same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


CASES = {
    "sft": lambda model: sft(model, PlainSFT),
    "sft-rows": lambda model: sft(model, PlainSFT, packing={"row_tokens": 32}),
    "grpo": lambda model: plain_grpo(model, updates_per_rollout=2),
    "grpo-rows": lambda model: plain_grpo(model, packing={"row_tokens": 32}, reward=odd_in_front),
    "grpo-dead-rank": lambda model: plain_grpo(model, reward=odd_in_front),
    "grpo-all-dead": lambda model: plain_grpo(model, reward=hopeless),
    "grpo-shaped": lambda model: plain_grpo(model, **SHAPED),
    "grpo-one-row": lambda model: plain_grpo(model, packing={"row_tokens": 10_000}),
}


def run_case(name: str, model: str, out: Path, resume: Path | None = None, **options: Any) -> None:
    """Four steps, a checkpoint after three; what rank 0 ends with goes to `out`."""
    module = CASES[name](model)
    recorder = fit(module, SaveAt(3, out / f"{name}.ckpt"), steps=4, resume=resume, **options)
    if module.global_rank == 0:
        torch.save(weights(module), out / f"{name}.weights")
        (out / f"{name}.json").write_text(json.dumps(recorder.steps))


if __name__ == "__main__":
    model, out = sys.argv[1], Path(sys.argv[2])
    on_two: dict[str, Any] = {"accelerator": sys.argv[3], "devices": 2, "strategy": "ddp"}
    for case in CASES:
        run_case(case, model, out, **on_two)
    (out / "again").mkdir(exist_ok=True)
    run_case("grpo", model, out / "again", resume=out / "grpo.ckpt", **on_two)
