r"""Group-relative policy optimization with the maximum-entropy weights of MGPO: the signal phase.

    problems → rollouts → outcomes → rewards (outcome + shaping − β·KL) → advantages → packed slices → loss

The outcome is correctness, what `reward` says. What is optimised is the sum of named terms: the outcome, every part of
`shaping`, the overlong penalty, Long2Short, and the KL. Terms other than the outcome move advantages within a group and
nothing else: pass rates, maximum-entropy weights, dead groups, probes and evaluation are made of outcomes.

GRPO is arXiv 2402.03300 (section 4.1), MGPO arXiv 2511.06221 (2606.16140, section 2.2.1). Departures: the KL penalty is
part of the reward, so it is measured on the captured rollout log-probs and carries no gradient of its own; groups whose
outcomes are all equal leave the loss and its denominators; the ratio is taken against the log-probs captured while
sampling.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import reduce
from typing import Any, Literal

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from vibethinker import objectives
from vibethinker.evaluation.grading import GradedSamples
from vibethinker.models.reference import AdapterOff, FrozenCopy
from vibethinker.packed.packing import PackedRow, Slice, pack
from vibethinker.packed.partition import partition_groups
from vibethinker.problems import Problem
from vibethinker.rewards import Part
from vibethinker.rewards.base import counted, outcomes
from vibethinker.rewards.composite import weighted
from vibethinker.training.policy_module import PolicyModule
from vibethinker.utils.seeding import stable_seed

_TERMS = {"outcome", "overlong", "long2short", "kl"}
_TRUNCATED_WARNING = 0.1


class GRPOModule(PolicyModule):
    """Reinforcement learning from verified answers, on-policy by default.

    Args:
        model: Hugging Face folder or hub name; `nano` is the model inside this package.
        group_size: rollouts of each problem (G).
        updates_per_rollout: optimizer steps on each batch of rollouts (μ in GRPO); 1 is on-policy.
        temperature: of sampling, and of every log-prob the loss sees.
        sharpness: λ of the maximum-entropy weight; 0 is plain GRPO.
        target_pass_rate: p₀, the pass rate that is weighted most.
        kl_coefficient: β of the KL penalty in the reward; 0 builds and runs no reference.
        kl_estimator: per-token estimator of the KL.
        kl_reduction: mean or sum over a completion's tokens.
        reference: a frozen copy of the policy at the start, or its base weights with the adapter switched off;
            `auto` switches the adapter off where there is one.
        surrogate: the clipped objective of PPO and GRPO, or a policy gradient with truncated importance correction.
        epsilon_low: how far the ratio may fall before the clipped objective stops it.
        epsilon_high: how far the ratio may rise.
        importance_cap: largest importance correction of the truncated objective.
        aggregation: mean over a rollout's tokens and then over rollouts (`sequence`), over all tokens (`token`), or a
            sum over tokens divided by the longest completion allowed (`constant`).
        long2short: coefficient of the shift from long to short correct rollouts; 0 leaves it out.
        shaping: rewards by name that are added to the outcome, each with its weight:
            `{format: {reward: FormatReward, weight: 0.2}}`. The mean of each is logged as `train/reward/<name>`.
        overlong_buffer: tokens before `max_new_tokens` over which a penalty rises; 0 leaves it out.
        overlong_penalty: what a completion as long as `max_new_tokens` loses.
        log_completions_every_n_steps: how often sample completions are written to TensorBoard; 0 for never.
    """

    def __init__(
        self,
        model: str,
        group_size: int = 16,
        updates_per_rollout: int = 1,
        temperature: float = 1.0,
        sharpness: float = 1.0,
        target_pass_rate: float = 0.5,
        kl_coefficient: float = 0.001,
        kl_estimator: objectives.Estimator = "k1",
        kl_reduction: Literal["mean", "sum"] = "mean",
        reference: Literal["auto", "copy", "adapter_off"] = "auto",
        surrogate: Literal["clipped", "truncated"] = "clipped",
        epsilon_low: float = 0.2,
        epsilon_high: float = 0.2,
        importance_cap: float = 2.0,
        aggregation: objectives.Aggregation = "sequence",
        long2short: float = 0.0,
        shaping: dict[str, Part] | None = None,
        overlong_buffer: int = 0,
        overlong_penalty: float = 1.0,
        log_completions_every_n_steps: int = 10,
        **kwargs: Any,
    ):
        every = log_completions_every_n_steps
        for name, value, least in (
            ("group_size", group_size, 2),
            ("updates_per_rollout", updates_per_rollout, 1),
            ("log_completions_every_n_steps", every, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        if kl_coefficient < 0:
            raise ValueError(f"kl_coefficient must not be negative, got {kl_coefficient}")
        lora = kwargs.get("lora")
        if lora is not None and lora.dropout > 0:
            raise ValueError("lora.dropout must be 0 in reinforcement learning: it puts the first ratio off 1")
        objectives.max_entropy_weight(torch.zeros(1), sharpness, target_pass_rate)  # refuses what it cannot take
        super().__init__(model, **kwargs)
        self.group_size, self.updates, self.temperature = group_size, updates_per_rollout, temperature
        self.sampling = replace(self.sampling, temperature=temperature)
        self.sharpness, self.target_pass_rate = sharpness, target_pass_rate
        self.kl_coefficient, self.kl_estimator, self.kl_reduction = kl_coefficient, kl_estimator, kl_reduction
        self.surrogate, self.epsilon_low, self.epsilon_high = surrogate, epsilon_low, epsilon_high
        self.importance_cap, self.aggregation = importance_cap, aggregation
        self.long2short, self.log_completions_every_n_steps = long2short, every
        self.shaping = weighted(shaping or {}, "shaping")
        self.overlong_buffer, self.overlong_penalty = overlong_buffer, overlong_penalty
        self._check_shaping()
        if reference == "auto":
            reference = "copy" if lora is None else "adapter_off"
        self.reference: FrozenCopy | AdapterOff | None = None
        if kl_coefficient > 0:
            self.reference = FrozenCopy(self.policy) if reference == "copy" else AdapterOff(self.policy)

    def _check_shaping(self) -> None:
        if taken := _TERMS & self.shaping.keys():
            raise ValueError(f"shaping: {min(taken)!r} is the name of a term that is there already")
        longest = self.sampling.max_new_tokens
        if not 0 <= self.overlong_buffer <= longest:
            raise ValueError(f"overlong_buffer must be 0 to max_new_tokens={longest}, got {self.overlong_buffer}")
        if not 0 <= self.overlong_penalty < math.inf:
            raise ValueError(f"overlong_penalty must be finite and not negative, got {self.overlong_penalty}")

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if isinstance(self.reference, FrozenCopy):
            self.reference.to(self.device, self.engine.dtype)
            self.speed_up_(self.reference.model)

    def prepare(self, problems: list[Problem]) -> list[list[Slice]]:
        samples = self.rollout(problems)
        penalty = self.kl(samples)
        terms = self.terms(samples, penalty)
        rewards = reduce(torch.add, terms.values())
        advantages = objectives.group_advantages(rewards, samples.scores, self.sharpness, self.target_pass_rate)
        self.note(samples, terms, penalty)
        return self.slices(samples, advantages) * self.updates

    def terms(self, samples: GradedSamples, penalty: Tensor | None) -> dict[str, Tensor]:
        """The terms of the reward by name, each [P, G]; the outcome first, and those that are off left out."""
        outcome = samples.scores
        terms = {"outcome": outcome}
        for name, (reward, weight) in self.shaping.items():
            found = outcomes(reward, samples.problem_of_each, samples.completions, f"shaping.{name}", shaping=True)
            terms[name] = weight * torch.tensor([o.score for o in found]).view(outcome.shape)
        if self.overlong_buffer:
            penalties = objectives.overlong(samples.lengths, self.sampling.max_new_tokens, self.overlong_buffer)
            terms["overlong"] = self.overlong_penalty * penalties
        if self.long2short:
            shift = objectives.long2short(torch.zeros_like(outcome), outcome, samples.lengths, self.long2short)
            terms["long2short"] = shift
        if penalty is not None:
            terms["kl"] = -self.kl_coefficient * penalty
        return terms

    def rollout(self, problems: list[Problem]) -> GradedSamples:
        """Samples a group for each problem from the current weights; the seeds do not depend on ranks."""
        step, first = self.trainer.global_step, self.trainer.global_rank * len(problems)
        seeds = [stable_seed(self.seed, step, first + i, p.id) for i, p in enumerate(problems)]
        before, start = counted(self.reward), time.perf_counter()
        samples = self.sample_and_grade(problems, self.group_size, seeds)
        seconds = time.perf_counter() - start
        ranks = self.trainer.world_size  # means over ranks are logged: what is a count is made one again
        self._figures = {
            **{f"reward/{name}": float((n - before[name]) * ranks) for name, n in counted(self.reward).items()},
            "reward/seconds": samples.reward_seconds,
            "rollout/seconds": seconds,
            "rollout/sync_seconds": self.sync_seconds,
            "rollout/tokens_per_second": samples.lengths.sum().item() * ranks / samples.sampling_seconds,
        }
        return samples

    def kl(self, samples: GradedSamples) -> Tensor | None:
        """KL to the reference of every rollout [P, G], from the captured log-probs; `None` without a reference."""
        if self.reference is None:
            return None
        lengths = samples.lengths.flatten()
        rows = [row for rows in self._partition(samples, list(range(len(lengths)))) for row in rows if row]
        found = []
        with torch.no_grad(), self.trainer.precision_plugin.forward_context(), self.reference() as model:
            for part in rows:
                row = self._pack(samples, part)
                found.append(self.logprobs(model, row.to(self.device))[0])
        order = torch.tensor([i for part in rows for i in part])
        sampled = torch.cat([samples.logprobs[i] for i in order.tolist()])
        penalty = objectives.kl_penalty(sampled, torch.cat(found).cpu(), self.kl_estimator)
        result = torch.zeros(len(lengths)).index_add(0, order.repeat_interleave(lengths[order]), penalty)
        if self.kl_reduction == "mean":
            result = result / lengths
        return result.view(samples.scores.shape)

    def slices(self, samples: GradedSamples, advantages: Tensor) -> list[list[Slice]]:
        """The rollouts of groups that carry a signal as the packed rows of every micro-batch."""
        lengths = samples.lengths.flatten()
        alive = objectives.alive_groups(samples.scores).repeat_interleave(self.group_size)
        kept = alive.nonzero()[:, 0].tolist()
        totals = self.all_reduce_sum(torch.tensor([float(len(kept)), float(lengths[alive].sum())])).tolist()
        weights = objectives.sequence_weights(
            lengths,
            self.aggregation,
            sequences=int(totals[0]),
            tokens=int(totals[1]),
            max_new_tokens=self.sampling.max_new_tokens,
        )

        def packed(chosen: list[int]) -> Slice:
            row = self._pack(samples, chosen)
            per_token = {
                "weight": weights[chosen][row.owner],
                "advantage": advantages.flatten()[chosen][row.owner],
                "old_logprob": torch.cat([torch.empty(0), *(samples.logprobs[i] for i in chosen)]),
            }
            return Slice(row, per_token)

        return [[packed(part) for part in rows] for rows in self._partition(samples, kept)]

    def _partition(self, samples: GradedSamples, chosen: list[int]) -> list[list[list[int]]]:
        prompts, completions = ([len(ids[i]) for i in chosen] for ids in (samples.prompt_ids, samples.completion_ids))
        group = [i // samples.n for i in chosen]
        parts = partition_groups(prompts, completions, group, self.micro_batches, self.row_tokens)
        return [[[chosen[i] for i in row] for row in rows] for rows in parts]

    @staticmethod
    def _pack(samples: GradedSamples, chosen: list[int]) -> PackedRow:
        prompts, completions = ([ids[i] for i in chosen] for ids in (samples.prompt_ids, samples.completion_ids))
        return pack(prompts, completions, [i // samples.n for i in chosen])

    def token_loss(self, logp: Tensor, entropy: Tensor, per_token: dict[str, Tensor]) -> Tensor:
        old, advantage = per_token["old_logprob"], per_token["advantage"]
        ratio = torch.exp(logp.detach() - old)
        if self.surrogate == "truncated":
            clipped = ratio > self.importance_cap
            loss = objectives.truncated_surrogate(logp, old, advantage, self.importance_cap)
        else:
            clipped = torch.where(advantage > 0, ratio > 1 + self.epsilon_high, ratio < 1 - self.epsilon_low)
            loss = objectives.clipped_surrogate(logp, old, advantage, self.epsilon_low, self.epsilon_high)
        figures = {"ratio": ratio.sum(), "clipped": clipped.float().sum(), "entropy": entropy.detach().sum()}
        self.add(**figures, targets=float(len(logp)))
        return loss

    # Figures

    def note(self, samples: GradedSamples, terms: dict[str, Tensor], penalty: Tensor | None) -> None:
        """Keeps the figures of a batch of rollouts, which each of its updates logs."""
        rates = samples.scores.mean(-1)
        weight = objectives.max_entropy_weight(rates, self.sharpness, self.target_pass_rate)
        truncated = 1.0 - samples.finished.float().mean().item()
        self._figures |= {
            "train/reward": reduce(torch.add, terms.values()).mean().item(),
            **{f"train/reward/{name}": term.mean().item() for name, term in terms.items()},
            **{f"train/reward/outcome/{name}": mean for name, mean in getattr(self.reward, "part_means", {}).items()},
            "train/pass_rate": rates.mean().item(),
            "train/entropy_weight": weight.mean().item(),
            "rollout/length": samples.lengths.float().mean().item(),
            "rollout/truncated": truncated,
            "rollout/dead_groups": (~objectives.alive_groups(samples.scores)).sum().item() * self.trainer.world_size,
        }
        if penalty is not None:
            self._figures["train/kl"] = penalty.mean().item()
        if truncated > _TRUNCATED_WARNING:
            rank_zero_warn(
                f"more than {_TRUNCATED_WARNING:.0%} of the completions of a step were cut at "
                f"max_new_tokens={self.sampling.max_new_tokens}; "
                "a cut completion has no answer and earns nothing",
                category=RuntimeWarning,
            )
        if (every := self.log_completions_every_n_steps) and self.trainer.global_step % every < self.updates:
            self._log_completions(samples)

    def _log_completions(self, samples: GradedSamples) -> None:
        """The first problem with its first four completions, as TensorBoard text."""
        lines = [f"**{samples.problems[0].prompt}** (answer: {samples.problems[0].expected})"]
        for text, score in list(zip(samples.completions[samples.group(0)], samples.scores[0].tolist(), strict=True))[
            :4
        ]:
            lines.append(f"\n`{score:.2f}`\n\n````\n{text}\n````")  # a completion may hold a fence of three
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("rollout/completions", "\n".join(lines), self.trainer.global_step)

    def log_update(self) -> None:
        super().log_update()
        targets = self._sums["targets"]
        if targets > 0:
            self.log("train/ratio_mean", self._sums["ratio"] / targets)
            self.log("train/clip_fraction", self._sums["clipped"] / targets)
            self.log("train/entropy", self._sums["entropy"] / targets)
