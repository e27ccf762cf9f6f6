"""The optimizer, its learning rate, and the norm of its gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def warmup_cosine(step: int, total: int, warmup_ratio: float, floor: float) -> float:
    """Share of the peak learning rate: a linear rise over the first steps, then half a cosine down to `floor`.

    Args:
        step: optimizer steps done.
        total: optimizer steps in all.
        warmup_ratio: share of them spent rising.
        floor: share of the peak at the end; 1 keeps it constant.
    """
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def adamw(
    parameters: Sequence[nn.Parameter],
    learning_rate: float,
    *,
    weight_decay: float,
    betas: tuple[float, float],
    epsilon: float,
    fused: bool,
) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) that decays matrices alone.

    Args:
        parameters: what is trained.
        learning_rate: at its peak.
        weight_decay: decoupled from the gradient.
        betas: decays of the moments.
        epsilon: added to the denominator.
        fused: one kernel on CUDA, which needs no copy of the weights; elsewhere PyTorch's default.
    """
    matrices, others = ([p for p in parameters if (p.ndim >= 2) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=epsilon, fused=fused or None)


def clip_(optimizer: torch.optim.Optimizer, limit: float | None) -> Tensor:
    """Scales an optimizer's gradients down to a norm of `limit` where it is larger; gives the norm before, a scalar.

    No limit, or one that is not positive, leaves them as they are.
    """
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in trained])
    if limit and limit > 0:
        torch.nn.utils.clip_grads_with_norm_(trained, limit, norm)
    return norm
