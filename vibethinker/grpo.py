r"""Group-relative policy optimization with the maximum-entropy weights of MGPO: the signal phase.

    problems → rollouts → outcomes → rewards (outcome + shaping − β·KL) → advantages → packed rows → loss

The outcome is correctness, what `reward` says. What is optimised is the sum of named terms: the outcome, every part of
`shaping`, the overlong penalty, Long2Short, and the KL. Terms other than the outcome move advantages within a group and
nothing else: pass rates, maximum-entropy weights, dead groups, probes and evaluation are made of outcomes.

GRPO is arXiv 2402.03300 (section 4.1), MGPO arXiv 2511.06221 (2606.16140, section 2.2.1). Departures: the KL penalty is
part of the reward, so it is measured on the captured rollout log-probs and carries no gradient of its own; groups whose
outcomes are all equal leave the loss and its denominators; the ratio is taken against the log-probs captured while
sampling.
"""

from __future__ import annotations

import time
from functools import reduce
from itertools import islice
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from vibethinker import objectives
from vibethinker.evaluation.grading import GradedSamples
from vibethinker.models.reference import AdapterOff, FrozenCopy
from vibethinker.packed.packing import PackedRow, pack
from vibethinker.packed.partition import partition_groups
from vibethinker.problems import Problem
from vibethinker.rewards import Part
from vibethinker.rewards.base import counted, outcomes
from vibethinker.rewards.composite import weighted
from vibethinker.training.options import KL, Objective, options
from vibethinker.training.policy_module import PolicyModule
from vibethinker.training.update import Update, UpdateRow
from vibethinker.utils.seeding import stable_seed

_TERMS = {"outcome", "overlong", "long2short", "kl"}
_TRUNCATED_WARNING = 0.1


class GRPOModule(PolicyModule):
    """Reinforcement learning from verified answers, on-policy by default.

    Args:
        model: Hugging Face folder or hub name; `nano` is the model inside this package.
        group_size: rollouts of each problem (G).
        updates_per_rollout: optimizer steps on each batch of rollouts (μ in GRPO); more than 1 is off-policy.
        objective: the surrogate objective and the terms of the reward.
        kl: the KL penalty in the reward.
        shaping: rewards by name that are added to the outcome, each with its weight:
            `{format: {reward: FormatReward, weight: 0.2}}`. The mean of each is logged as `train/reward/<name>`.
        log_completions_every_n_steps: how often sample completions are written to TensorBoard; 0 for never.
        **kwargs: options of `PolicyModule`.
    """

    def __init__(
        self,
        model: str,
        group_size: int = 16,
        updates_per_rollout: int = 1,
        objective: Objective = Objective(),
        kl: KL = KL(),
        shaping: dict[str, Part] | None = None,
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
        lora = kwargs.get("lora")
        if lora is not None and lora.dropout > 0:
            raise ValueError("lora.dropout must be 0 in reinforcement learning: it puts the first ratio off 1")
        objective, kl = options(Objective, objective), options(KL, kl)
        super().__init__(model, **kwargs)
        self.group_size, self.updates_per_rollout = group_size, updates_per_rollout
        self.objective, self.kl, self.log_completions_every_n_steps = objective, kl, every
        self.shaping = weighted(shaping or {}, "shaping")
        if taken := _TERMS & self.shaping.keys():
            raise ValueError(f"shaping: {min(taken)!r} is the name of a term that is there already")
        buffer, longest = objective.overlong_buffer, self.sampling.max_new_tokens
        if not 0 <= buffer <= longest:
            raise ValueError(f"objective.overlong_buffer must be 0 to max_new_tokens={longest}, got {buffer}")
        if kl.coefficient > 0:
            copied = kl.reference == "copy" or (kl.reference == "auto" and lora is None)
            self.reference = FrozenCopy(self.policy) if copied else AdapterOff(self.policy)

    @property
    def temperature(self) -> float:
        """Of sampling, and of every log-prob that the loss sees."""
        return self.sampler.temperature

    def on_fit_start(self) -> None:
        """Moves the reference to the device as well, in the precision that is sampled with."""
        super().on_fit_start()
        if isinstance(self.reference, FrozenCopy):
            self.reference.to(self.device, self.engine.dtype)
            self.speed_up_(self.reference.model)

    def prepare(self, problems: list[Problem]) -> Update:
        """Samples and grades rollouts, and packs those of groups that carry a signal."""
        samples, metrics = self.rollout(problems)
        alive = objectives.alive_groups(samples.scores).repeat_interleave(self.group_size)
        rows, others = (self.packed(samples, kept.nonzero()[:, 0].tolist()) for kept in (alive, ~alive))
        penalty = self.kl_to_reference(samples, rows + others)
        terms = self.terms(samples, penalty)
        rewards = reduce(torch.add, terms.values())
        advantages = objectives.group_advantages(
            rewards, samples.scores, self.objective.sharpness, self.objective.target_pass_rate
        )
        return Update(
            self.update_rows(samples, rows, alive, advantages), metrics | self.metrics(samples, terms, penalty)
        )

    def terms(self, samples: GradedSamples, penalty: Tensor | None) -> dict[str, Tensor]:
        """The terms of the reward by name, each [P, G]; the outcome first, and those that are off left out."""
        outcome = samples.scores
        terms = {"outcome": outcome}
        for name, (reward, weight) in self.shaping.items():
            found = outcomes(reward, samples.problem_of_each, samples.completions, f"shaping.{name}", shaping=True)
            terms[name] = weight * torch.tensor([o.score for o in found]).view(outcome.shape)
        if buffer := self.objective.overlong_buffer:
            penalties = objectives.overlong(samples.lengths, self.sampling.max_new_tokens, buffer)
            terms["overlong"] = self.objective.overlong_penalty * penalties
        if coefficient := self.objective.long2short:
            shift = objectives.long2short(torch.zeros_like(outcome), outcome, samples.lengths, coefficient)
            terms["long2short"] = shift
        if penalty is not None:
            terms["kl"] = -self.kl.coefficient * penalty
        return terms

    def rollout(self, problems: list[Problem]) -> tuple[GradedSamples, dict[str, float]]:
        """Samples a group for each problem from the current weights, with metrics; seeds do not depend on ranks."""
        step, first = self.trainer.global_step, self.trainer.global_rank * len(problems)
        seeds = [stable_seed(self.seed, step, first + i, p.id) for i, p in enumerate(problems)]
        before, start = counted(self.reward), time.perf_counter()
        samples = self.sample_and_grade(problems, self.group_size, seeds)
        seconds = time.perf_counter() - start
        ranks = self.trainer.world_size  # means over ranks are logged: a sum is multiplied to become one again
        return samples, {
            **{f"reward/{name}": float((n - before[name]) * ranks) for name, n in counted(self.reward).items()},
            "reward/seconds": samples.reward_seconds,
            "rollout/seconds": seconds,
            "rollout/sync_seconds": self.sync_seconds,
            "rollout/tokens_per_second": samples.lengths.sum().item() * ranks / samples.sampling_seconds,
        }

    def packed(self, samples: GradedSamples, kept: list[int]) -> list[tuple[list[int], PackedRow]]:
        """The rollouts of some indices as packed rows, each with the indices in its order."""
        prompts, completions = samples.prompt_ids, samples.completion_ids
        group = [i // samples.n for i in kept]
        lengths = [len(prompts[i]) for i in kept], [len(completions[i]) for i in kept]
        packed = []
        for row in partition_groups(*lengths, group, self.row_tokens):
            own = [kept[i] for i in row]
            sequences = [prompts[i] for i in own], [completions[i] for i in own]
            packed.append((own, pack(*sequences, group=[i // samples.n for i in own])))
        return packed

    def kl_to_reference(self, samples: GradedSamples, rows: list[tuple[list[int], PackedRow]]) -> Tensor | None:
        """KL to the reference of every rollout [P, G], from the captured log-probs; `None` without a reference."""
        if self.reference is None:
            return None
        lengths = samples.lengths.flatten()
        rows = [(indices, row) for indices, row in rows if indices]
        with torch.no_grad(), self.trainer.precision_plugin.forward_context(), self.reference() as model:
            reference = torch.cat([self.logprobs(model, row.to(self.device))[0] for _, row in rows]).cpu()
        order = torch.tensor([i for indices, _ in rows for i in indices])
        sampled = torch.cat([samples.logprobs[i] for i in order.tolist()])
        penalty = objectives.kl_penalty(sampled, reference, self.kl.estimator)
        result = torch.zeros(len(lengths)).index_add(0, order.repeat_interleave(lengths[order]), penalty)
        if self.kl.reduction == "mean":
            result = result / lengths
        return result.view(samples.scores.shape)

    def update_rows(
        self, samples: GradedSamples, rows: list[tuple[list[int], PackedRow]], alive: Tensor, advantages: Tensor
    ) -> list[UpdateRow]:
        """Packed rows with what the loss needs.

        Args:
            samples: rollouts and grades.
            rows: those of groups that carry a signal.
            alive: bool [P·G], which these are.
            advantages: [P, G].
        """
        lengths = samples.lengths.flatten()
        totals = self.all_reduce_sum(torch.tensor([float(alive.sum()), float(lengths[alive].sum())])).tolist()
        weights = objectives.sequence_weights(
            lengths,
            self.objective.aggregation,
            sequences=int(totals[0]),
            tokens=int(totals[1]),
            max_new_tokens=self.sampling.max_new_tokens,
        )
        return [
            UpdateRow(
                row,
                {
                    "weight": weights[indices][row.owner],
                    "advantage": advantages.flatten()[indices][row.owner],
                    "old_logprob": torch.cat([torch.empty(0), *(samples.logprobs[i] for i in indices)]),
                },
            )
            for indices, row in rows
        ]

    def token_loss(self, logp: Tensor, entropy: Tensor, per_token: dict[str, Tensor]) -> Tensor:
        """The surrogate objective of each target, to minimise."""
        old, advantage, options = per_token["old_logprob"], per_token["advantage"], self.objective
        ratio = torch.exp(logp.detach() - old)
        if options.surrogate == "truncated":
            clipped = ratio > options.importance_cap
            loss = objectives.truncated_surrogate(logp, old, advantage, options.importance_cap)
        else:
            low, high = options.epsilon_low, options.epsilon_high
            clipped = torch.where(advantage > 0, ratio > 1 + high, ratio < 1 - low)
            loss = objectives.clipped_surrogate(logp, old, advantage, low, high)
        self.stats.add(ratio=ratio.sum(), clipped=clipped.float().sum(), entropy=entropy.detach().sum())
        self.stats.add(targets=float(len(logp)))
        return loss

    # Metrics

    def metrics(self, samples: GradedSamples, terms: dict[str, Tensor], penalty: Tensor | None) -> dict[str, float]:
        """Metrics of a batch of rollouts, which each optimizer step on it logs.

        Args:
            samples: rollouts and grades.
            terms: of the reward, each [P, G].
            penalty: KL to the reference [P, G], if there is one.
        """
        rates = samples.scores.mean(-1)
        weight = objectives.max_entropy_weight(rates, self.objective.sharpness, self.objective.target_pass_rate)
        truncated = 1.0 - samples.finished.float().mean().item()
        if truncated > _TRUNCATED_WARNING:
            rank_zero_warn(
                f"more than {_TRUNCATED_WARNING:.0%} of the completions of a step were cut at "
                f"max_new_tokens={self.sampling.max_new_tokens}; "
                "a cut completion has no answer and earns nothing",
                category=RuntimeWarning,
            )
        every, step = self.log_completions_every_n_steps, self.trainer.global_step
        if every and step % every < self.updates_per_rollout:
            self._log_completions(samples)
        return {
            "train/reward": reduce(torch.add, terms.values()).mean().item(),
            **{f"train/reward/{name}": term.mean().item() for name, term in terms.items()},
            **{f"train/reward/outcome/{name}": mean for name, mean in self.reward.part_means.items()},
            "train/pass_rate": rates.mean().item(),
            "train/entropy_weight": weight.mean().item(),
            "rollout/length": samples.lengths.float().mean().item(),
            "rollout/truncated": truncated,
            "rollout/dead_groups": (~objectives.alive_groups(samples.scores)).sum().item() * self.trainer.world_size,
            **({} if penalty is None else {"train/kl": penalty.mean().item()}),
        }

    def _log_completions(self, samples: GradedSamples) -> None:
        """The first problem with its first four completions, as TensorBoard text."""
        lines = [f"**{samples.problems[0].prompt}** (answer: {samples.problems[0].expected})"]
        completions = zip(samples.completions[samples.group(0)], samples.scores[0].tolist(), strict=True)
        for text, score in islice(completions, 4):
            lines.append(f"\n`{score:.2f}`\n\n````\n{text}\n````")  # a completion may hold a fence of three
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("rollout/completions", "\n".join(lines), self.trainer.global_step)

    def log_update(self, totals: dict[str, Tensor]) -> None:
        """Logs ratio, clipped fraction and entropy (nats) as well, means over the tokens of the update."""
        super().log_update(totals)
        if (targets := totals["targets"]) > 0:
            self.log("train/ratio_mean", totals["ratio"] / targets)
            self.log("train/clip_fraction", totals["clipped"] / targets)
            self.log("train/entropy", totals["entropy"] / targets)
