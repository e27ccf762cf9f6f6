"""Training as a user runs it: `SFTModule` and `GRPOModule` under Lightning's `Trainer`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch

from parts.setting import PEAK_FLOPS, Setting, Tick
from vibethinker import GRPOModule, Problem, SFTModule
from vibethinker.datamodules import AlgebraDataModule
from vibethinker.evaluation.grading import GradedSamples
from vibethinker.training.options import Optimizer, Packing, Sampler

LEARNING_RATE = 1e-6
SFT_STEPS, SHORT_STEPS, LONG_STEPS = 8, 5, 2  # the first of them warms up
SFT_VARIANTS: dict[str, dict[str, Any]] = {
    "no recomputation": {"gradient_checkpointing": False},
    "recomputation": {"gradient_checkpointing": True},
}
COMPILED: dict[str, dict[str, Any]] = {"compiled, no recomputation": {"gradient_checkpointing": False, "compile": True}}


def every_second(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    """Half of a group is right, so that no group is dead and all rollouts are trained on."""
    return [float(index % 2) for index in range(len(completions))]


class Clock(pl.Callback):
    """When the device ends each optimizer step, and how long it spends in the last forward and backward before it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.ends: list[Tick] = []
        self._passes: list[tuple[Tick, Tick]] = []
        self._forward = setting.tick()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = pl_module.training_step

        def timed(*args: Any, **options: Any) -> Any:
            self._forward = self.setting.tick()
            return step(*args, **options)

        pl_module.training_step = timed  # type: ignore[method-assign]

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._passes.append((self._forward, self.setting.tick()))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == len(self.ends) + 1:
            self.ends.append(self.setting.tick())
            if len(self.ends) == 1:
                self.setting.forget_peak()

    @property
    def passes(self) -> list[float]:
        return [end - begin for begin, end in self._passes]

    @property
    def steps(self) -> list[float]:
        """Seconds from the end of a step to the end of the next, data and rollouts included."""
        return [end - begin for begin, end in itertools.pairwise(self.ends)]


def fit(setting: Setting, module: pl.LightningModule, data: str, batch: int, steps: int) -> tuple[Clock, pl.Trainer]:
    clock = Clock(setting)
    trainer = pl.Trainer(
        accelerator="gpu" if setting.cuda else "cpu",
        devices=1,
        precision="bf16-mixed",
        max_steps=steps,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    source = AlgebraDataModule(data=str(setting.folder / data), batch_size=batch)
    trainer.fit(module, datamodule=source)
    return clock, trainer


def sft(setting: Setting) -> None:
    _sft(setting, SFT_VARIANTS)


def sft_compiled(setting: Setting) -> None:
    _sft(setting, COMPILED)


def _sft(setting: Setting, variants: dict[str, dict[str, Any]]) -> None:
    scale = setting.scale
    tokens = scale.sequences * scale.sequence
    for name, options in variants.items():
        left = setting.allocated  # by the variant before this one
        module = SFTModule(
            setting.model,
            optimizer=Optimizer(learning_rate=LEARNING_RATE),
            sampler=Sampler(max_new_tokens=16),
            max_length=scale.sequence,
            instruction="",
            **options,
        )
        clock, _ = fit(setting, module, "shown.jsonl", scale.sequences, SFT_STEPS)
        step, passes = median(clock.steps), median(clock.passes[1:])
        flops = 3 * forward_flops(setting, [scale.sequence - 1] * scale.sequences)
        figures = {
            "step_ms": 1000 * step,
            "tokens_per_second": tokens / step,
            "passes_ms": 1000 * passes,
            "passes_tokens_per_second": tokens / passes,
            "optimizer_and_rest_ms": 1000 * (step - passes),
            "share_of_peak": flops / passes / PEAK_FLOPS,
            "gib": setting.peak - left,
            "repeats": len(clock.steps),
        }
        setting.report(**{name: figures}, tokens=tokens)
        del module, clock
        setting.free()


def forward_flops(setting: Setting, lengths: Sequence[int]) -> float:
    """2·N·T of the matrix products and 2·layers·width·Σ length² of causal attention; three times that with backward."""
    shape = setting.scale.model
    width, layers = shape["hidden_size"], shape["num_hidden_layers"]
    head = width // shape["num_attention_heads"]
    per_layer = width * (2 * width + 2 * head * shape["num_key_value_heads"] + 3 * shape["intermediate_size"])
    weights = layers * per_layer + shape["vocab_size"] * width
    return 2.0 * weights * sum(lengths) + 2.0 * layers * width * sum(length**2 for length in lengths)


def grpo(setting: Setting, new: int, steps: int) -> None:
    """Whole steps: weights into the replica, rollouts, reward, reference, update."""
    scale = setting.scale
    count = scale.prompts * scale.group
    module = GRPOModule(
        setting.model,
        group_size=scale.group,
        optimizer=Optimizer(learning_rate=LEARNING_RATE),
        packing=Packing(row_tokens=scale.row),
        sampler=Sampler(max_new_tokens=new, slots=count),
        max_length=scale.prompt + new,
        instruction="",
        reward=every_second,
    )
    module.sampling = replace(module.sampling, stop_token_ids=())  # every completion is as long as it may be
    clock, trainer = fit(setting, module, "asked.jsonl", scale.prompts, steps)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if logged["rollout/length"] != new or logged["rollout/dead_groups"]:
        raise RuntimeError(f"not the work that was meant: {logged}")
    step = median(clock.steps)
    setting.report(
        step_seconds=step,
        repeats=len(clock.steps),
        rollout_seconds=logged["rollout/seconds"],
        rollout_tokens_per_second=logged["rollout/tokens_per_second"],
        gib=setting.peak,
    )


def grpo_short(setting: Setting) -> None:
    grpo(setting, setting.scale.short, SHORT_STEPS)


def grpo_long(setting: Setting) -> None:
    grpo(setting, setting.scale.long, LONG_STEPS)


class Given(GRPOModule):
    """Trains on rollouts that are there: random tokens, one sequence as long as the context and a short one."""

    def rollout(self, problems: list[Problem]) -> tuple[GradedSamples, dict[str, float]]:
        generator = torch.Generator().manual_seed(0)
        words = self.policy.config.vocab_size
        prompt = torch.randint(2, words, (self.max_length - self.sampling.max_new_tokens,), generator=generator)
        lengths = [self.sampling.max_new_tokens, 16]
        completions = [torch.randint(2, words, (length,), generator=generator) for length in lengths]
        logprobs = [torch.full((length,), -torch.tensor(float(words)).log().item()) for length in lengths]
        samples = GradedSamples(
            problems,
            2,
            ["", ""],
            torch.tensor([lengths]),
            torch.ones(1, 2, dtype=torch.bool),
            [0],
            scores=torch.tensor([[1.0, 0.0]]),
            prompt_ids=[prompt] * 2,
            completion_ids=completions,
            logprobs=logprobs,
        )
        return samples, {}


def context(setting: Setting) -> None:
    """One GRPO update, reference and optimizer included, whose longest sequence fills the context."""
    scale = setting.scale
    module = Given(
        setting.model,
        group_size=2,
        optimizer=Optimizer(learning_rate=LEARNING_RATE),
        packing=Packing(row_tokens=scale.context),
        sampler=Sampler(max_new_tokens=scale.context - scale.prompt),
        max_length=scale.context,
        gradient_checkpointing=True,
        instruction="",
        reward=every_second,
    )
    clock, _ = fit(setting, module, "asked.jsonl", 1, 3)
    setting.report(tokens=scale.context, seconds=median(clock.steps), repeats=len(clock.steps), gib=setting.peak)
