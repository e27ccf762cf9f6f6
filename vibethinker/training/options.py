"""Options of training in groups that check themselves, and the names that options had before they were grouped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeVar

import torch

from vibethinker import objectives

_Group = TypeVar("_Group")


@dataclass(frozen=True)
class Optimizer:
    """AdamW (arXiv 1711.05101) and the schedule of its learning rate.

    Attributes:
        learning_rate: peak learning rate.
        min_learning_rate: learning rate at the end of the cosine; without it the rate stays at its peak after warm-up.
        warmup_ratio: fraction of the optimizer steps over which the rate rises linearly.
        weight_decay: decoupled weight decay, applied to matrices alone.
        betas: decay rates of the first and second moments.
        epsilon: added to the denominator; near the size of the gradients it turns the update towards plain gradient
            descent, which keeps rarely updated weights from taking full steps on noise.
    """

    learning_rate: float = 5e-5
    min_learning_rate: float | None = None
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        lowest = self.min_learning_rate
        if lowest is not None and not 0 <= lowest <= self.learning_rate:
            raise ValueError(f"optimizer.min_learning_rate must lie between 0 and learning_rate, got {lowest}")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"optimizer.warmup_ratio must lie between 0 and 1, got {self.warmup_ratio}")


@dataclass(frozen=True)
class Packing:
    """Packed rows, which an optimizer step goes through one after the other.

    Attributes:
        row_tokens: longest packed row in tokens, which bounds the memory of an update whatever the lengths are. A
            longer sequence is a row of its own; the prompt of a group counts once in each row that holds some of its
            completions. `auto` is as long as the memory estimate allows on a GPU, and 16,384 tokens on a CPU.
    """

    row_tokens: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.row_tokens != "auto" and self.row_tokens < 1:
            raise ValueError(f"packing.row_tokens must be at least 1, got {self.row_tokens}")


@dataclass(frozen=True)
class Sampler:
    """Sampling from the policy: in rollouts, validation, testing and probing.

    Attributes:
        max_new_tokens: longest completion in tokens.
        temperature: of sampling; in reinforcement learning also of every log-prob that the loss sees.
        slots: most sequences that are sampled at one time.
        cache_gib: GiB of the KV cache, which lowers `slots` to what it holds; by default four fifths of what a GPU has
            free when the first sequences are sampled.
    """

    max_new_tokens: int = 2048
    temperature: float = 1.0
    slots: int = 256
    cache_gib: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"sampler.temperature must be positive and finite, got {self.temperature}")


@dataclass(frozen=True)
class Objective:
    """The surrogate objective, and the terms that shape the reward beside the outcome.

    Attributes:
        sharpness: λ of the maximum-entropy weight; 0 is plain GRPO.
        target_pass_rate: p₀, the pass rate that is weighted most.
        surrogate: the clipped objective of PPO and GRPO, or a policy gradient with truncated importance correction.
        epsilon_low: how far the ratio may fall before the clipped objective stops it.
        epsilon_high: how far the ratio may rise before the clipped objective stops it.
        importance_cap: largest importance correction of the truncated objective.
        aggregation: mean over a rollout's tokens and then over rollouts (`sequence`), over all tokens (`token`), or a
            sum over tokens divided by the longest completion allowed (`constant`).
        long2short: coefficient of the shift from long to short correct rollouts; 0 leaves it out.
        overlong_buffer: tokens before `sampler.max_new_tokens` over which a penalty rises; 0 leaves it out.
        overlong_penalty: what a completion as long as `sampler.max_new_tokens` loses.
    """

    sharpness: float = 1.0
    target_pass_rate: float = 0.5
    surrogate: Literal["clipped", "truncated"] = "clipped"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    importance_cap: float = 2.0
    aggregation: objectives.Aggregation = "sequence"
    long2short: float = 0.0
    overlong_buffer: int = 0
    overlong_penalty: float = 1.0

    def __post_init__(self) -> None:
        objectives.max_entropy_weight(torch.zeros(1), self.sharpness, self.target_pass_rate)  # raises on bad values
        if not 0 <= self.overlong_penalty < math.inf:
            raise ValueError(f"objective.overlong_penalty must be finite and >= 0, got {self.overlong_penalty}")


@dataclass(frozen=True)
class KL:
    """The KL penalty in the reward, against a frozen reference model.

    Attributes:
        coefficient: β of the penalty; 0 builds and runs no reference.
        estimator: per-token estimator of the KL.
        reduction: mean or sum over a completion's tokens.
        reference: a frozen copy of the policy at the start, or its base weights with the adapter switched off; `auto`
            switches the adapter off where there is one.
    """

    coefficient: float = 0.001
    estimator: objectives.Estimator = "k1"
    reduction: Literal["mean", "sum"] = "mean"
    reference: Literal["auto", "copy", "adapter_off"] = "auto"

    def __post_init__(self) -> None:
        if self.coefficient < 0:
            raise ValueError(f"kl.coefficient must not be negative, got {self.coefficient}")


def options(kind: type[_Group], given: _Group | Mapping[str, Any]) -> _Group:
    """A group of options, built where it is given as a plain mapping."""
    return kind(**given) if isinstance(given, Mapping) else given


_GROUPS: Final = {"optimizer": Optimizer, "packing": Packing, "sampler": Sampler, "objective": Objective, "kl": KL}
_MOVED: Final = {
    **{field.name: f"{group}.{field.name}" for group, kind in _GROUPS.items() for field in fields(kind)},
    **{f"kl_{field.name}": f"kl.{field.name}" for field in fields(KL)},
}
_GONE: Final = {
    "micro_batches": "model.micro_batches is gone: packing.row_tokens bounds the memory of an update",
    "accumulate_grad_batches": "trainer.accumulate_grad_batches must be 1: packing.row_tokens bounds the memory of an "
    "update, and data.batch_size is what an optimizer step trains on",
}


def replacement(names: Iterable[str]) -> str | None:
    """The line that tells what replaces the first of these options of a model; `None` where none has been replaced."""
    for name in names:
        if name in _GONE:
            return _GONE[name]
        if name in _MOVED:
            return f"model.{name} is now model.{_MOVED[name]}"
    return None
