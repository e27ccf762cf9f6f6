"""The optimizer, its learning rate, and the norm of its gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vibethinker.training.options import Optimizer


def warmup_cosine(step: int, total: int, warmup_ratio: float, floor: float) -> float:
    """Fraction of the peak learning rate: a linear rise over the first steps, then half a cosine down to `floor`.

    Unlike transformers' `get_cosine_with_min_lr_schedule_with_warmup` the first step is not lost on a rate of 0.

    Args:
        step: optimizer steps done.
        total: optimizer steps in all.
        warmup_ratio: fraction of them spent rising.
        floor: fraction of the peak at the end; 1 keeps it constant.
    """
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def schedule(optimizer: torch.optim.Optimizer, options: Optimizer, total: int) -> torch.optim.lr_scheduler.LambdaLR:
    """The learning rate of each of `total` optimizer steps."""
    lowest = options.learning_rate if options.min_learning_rate is None else options.min_learning_rate
    floor = lowest / options.learning_rate if options.learning_rate else 1.0
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, total, options.warmup_ratio, floor)
    )


def adamw(parameters: Sequence[nn.Parameter], options: Optimizer, *, fused: bool) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) that decays matrices alone.

    Args:
        parameters: those that are trained.
        options: learning rate, decay and moments.
        fused: one kernel on CUDA, which needs no copy of the weights; elsewhere PyTorch's default.
    """
    matrices, others = ([p for p in parameters if (p.ndim >= 2) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=options.learning_rate, betas=options.betas, eps=options.epsilon, fused=fused or None
    )


def clip_(optimizer: torch.optim.Optimizer, limit: float | None) -> Tensor:
    """Scales an optimizer's gradients down to a norm of `limit` where it is larger; returns the norm before, a scalar.

    No limit, or one that is not positive, leaves them as they are.
    """
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in trained])
    if limit and limit > 0:
        torch.nn.utils.clip_grads_with_norm_(trained, limit, norm)
    return norm
