"""A policy that is loaded, sampled from, evaluated and exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torchmetrics import MeanMetric

from vibethinker.evaluation.grading import GradedSamples, extract_answers, grade, sample
from vibethinker.evaluation.summary import problem_metrics
from vibethinker.models.export import export
from vibethinker.models.loading import BaseDtype, Lora, load_model
from vibethinker.models.prompts import prompt_ids
from vibethinker.models.quantization import Quantization
from vibethinker.models.source import ModelSource, load_tokenizer
from vibethinker.problems import Problem
from vibethinker.rewards import DispatchReward, Reward
from vibethinker.rewards.base import as_verifier
from vibethinker.rollout import RolloutEngine, Sampling
from vibethinker.rollout.scheduler import Progress
from vibethinker.training.distributed import gather
from vibethinker.training.options import Sampler, options, replacement
from vibethinker.utils.seeding import stable_seed


class SampledPolicy(pl.LightningModule):
    """A policy that `validate`, `test` and `predict` sample from.

    Args:
        model: Hugging Face folder or hub name; `nano` is the model inside this package.
        sampler: sampling in rollouts, validation, testing and probing.
        lora: train a low-rank adapter instead of the full weights.
        quantization: keep the frozen base in 4 or 8 bits, `4bit-double` with quantized scales; needs `lora`. A
            checkpoint that is quantized already needs none.
        base_dtype: precision of a frozen base; `auto` is bfloat16 on CUDA and float32 on CPU.
        context_length: longest sequence the model is made for, in place of what its config.json says; exported folders
            carry it on.
        rope_theta: base of the rotary embedding, in place of what config.json says; a longer context usually wants a
            larger one.
        max_length: longest prompt plus completion in tokens.
        instruction: what is appended to every problem's text; by default what its kind asks for, a boxed answer or a
            fenced program.
        reward: grades completions: the short name of a class of rewards with its options, or the path of a function
            `(problems, completions) -> list of outcomes in [0, 1]`. `DispatchReward` by default: problems with tests by
            running code, all others by exact mathematical equivalence.
        seed: of everything that is sampled.

    Raises:
        ValueError: names the option, and for one of an older version what replaces it.
    """

    def __init__(
        self,
        model: str,
        sampler: Sampler = Sampler(),
        lora: Lora | None = None,
        quantization: Quantization | None = None,
        base_dtype: BaseDtype = "auto",
        context_length: int | None = None,
        rope_theta: float | None = None,
        max_length: int = 4096,
        instruction: str | None = None,
        reward: Reward | None = None,
        seed: int = 0,
        **unknown: Any,
    ):
        if unknown:
            name = next(iter(unknown))
            raise ValueError(replacement(unknown) or f"{type(self).__name__} has no option {name!r}")
        super().__init__()
        self.sampler = options(Sampler, sampler)
        if (longest := self.sampler.max_new_tokens) >= max_length:
            raise ValueError(f"sampler.max_new_tokens {longest} leaves no room for a prompt in max_length {max_length}")
        self.source = ModelSource.of(model, context_length, rope_theta)
        if max_length > (context := self.source.context_length):
            raise ValueError(
                f"max_length {max_length} is longer than the context of {model!r}, {context} tokens; "
                "context_length extends it, but for longrope"
            )
        self.lora, self.quantization, self.base_dtype = lora, quantization, base_dtype
        self.max_length, self.instruction, self.seed = max_length, instruction, seed
        self.sampling = Sampling(temperature=self.sampler.temperature, max_new_tokens=longest)
        self.reward = as_verifier(reward or DispatchReward(), "reward")
        self.tokenizer = load_tokenizer(self.source)
        self.policy = load_model(self.source, lora=lora, quantization=quantization, base_dtype=base_dtype)
        self.sync_seconds = 0.0  # of the last copy of the weights to the sampler
        self._engine: RolloutEngine | None = None
        self._means: dict[str, MeanMetric] = {}

    def unaskable(self, problems: Sequence[Problem]) -> list[str]:
        """For each problem why it cannot be sampled from, empty where its prompt leaves room for a completion."""
        room = self.max_length - self.sampling.max_new_tokens
        lengths = map(len, prompt_ids(self.tokenizer, problems, self.instruction))
        reason = f"prompt longer than max_length less max_new_tokens = {room}"
        return [reason if length > room else "" for length in lengths]

    @property
    def engine(self) -> RolloutEngine:
        """Built at first use, on the device that the policy is on by then."""
        if self._engine is None:
            self._engine = RolloutEngine(
                self.policy, max_length=self.max_length, slots=self.sampler.slots, cache_gib=self.sampler.cache_gib
            )
        return self._engine

    def sample_and_grade(
        self,
        problems: Sequence[Problem],
        n: int,
        seeds: Sequence[int],
        sampling: Sampling | None = None,
        progress: Progress | None = None,
    ) -> GradedSamples:
        """Samples from the weights as they are now and grades the completions.

        Args:
            problems: to sample from.
            n: completions of each.
            seeds: one for each problem.
            sampling: the module's own by default.
            progress: called with completions done and in all.
        """
        self.sync_seconds = self.engine.sync(self.policy)
        try:
            samples = sample(
                self.engine,
                self.tokenizer,
                problems,
                n=n,
                sampling=sampling or self.sampling,
                seeds=seeds,
                instruction=self.instruction,
                progress=progress,
            )
            return grade(samples, self.reward)
        finally:
            if self.device.type == "cuda":
                self.engine.release()  # updates need the memory of the KV cache

    def export(self, folder: str | Path, dtype: torch.dtype | None = None, *, adapter_only: bool = False) -> Path:
        """Writes the policy as a Hugging Face folder, float32 by default, or its adapter alone."""
        return export(self.policy, self.tokenizer, folder, dtype, adapter_only=adapter_only)

    # Validation, test and prediction

    def on_validation_epoch_start(self) -> None:
        """Forgets the means of the last epoch."""
        self._means = {}

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: list[Problem], batch_idx: int) -> None:
        """Samples one answer to every problem."""
        self._count("val", batch, n=1, ks=(1,))

    def test_step(self, batch: list[Problem], batch_idx: int) -> None:
        """Samples eight answers to every problem."""
        self._count("test", batch, n=8, ks=(1, 8))

    def predict_step(self, batch: list[Problem], batch_idx: int) -> list[str]:
        """One completion of every problem."""
        return list(self.sample_and_grade(batch, 1, [stable_seed(self.seed, p.id) for p in batch]).completions)

    def on_validation_epoch_end(self) -> None:
        """Logs means over the problems of all ranks; a rank without a domain's problems takes part with none."""
        for key in sorted({key for keys in gather(list(self._means)) for key in keys}):
            mean = self._means.setdefault(key, MeanMetric().to(self.device))
            mean.update(torch.empty(0))
            self.log(key, mean.compute(), prog_bar=key.count("/") == 1 and key.endswith("pass@1"), sync_dist=True)

    on_test_epoch_end = on_validation_epoch_end

    def _count(self, split: str, batch: list[Problem], n: int, ks: Sequence[int]) -> None:
        samples = self.sample_and_grade(batch, n, [stable_seed(self.seed, split, p.id) for p in batch])
        for problem, metrics in zip(batch, problem_metrics(extract_answers(samples), ks), strict=True):
            for name, value in metrics.items():
                for key in (f"{split}/{name}", f"{split}/{problem.domain}/{name}"):
                    self._means.setdefault(key, MeanMetric().to(self.device)).update(value)
