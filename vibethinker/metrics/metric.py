"""Pass@K as a torchmetrics metric, based on `vibethinker.metrics.functional.pass_at_k`."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from vibethinker.metrics.functional import pass_at_k


class PassAtK(Metric):
    """Mean pass@k over problems; each update may bring any number of samples n ≥ k per problem.

    Args:
        k: samples allowed per problem, at least 1.

    Example:
        >>> metric = PassAtK(k=2)
        >>> metric.update(torch.tensor([[True, False, False, False], [True, True, True, True]]))
        >>> metric.compute()
        tensor(0.7500)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    k: int
    total: Tensor  # [] float32, sum of pass@k
    problems: Tensor  # [] int64

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(k, Integral) or k < 1:
            raise ValueError(f"PassAtK: k must be a whole number >= 1, got {k!r}")
        self.k = int(k)
        # Sums, not lists: a rank without a problem still has a state to reduce.
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("problems", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, correct: Tensor) -> None:
        """Adds problems; `correct`, bool [P, n], is true where a sample solved its problem."""
        if correct.ndim != 2 or correct.dtype != torch.bool:
            raise ValueError(f"PassAtK: correct must be bool [P, n], got {correct.dtype} {list(correct.shape)}")
        n = correct.shape[1]
        if n < self.k:
            raise ValueError(f"PassAtK: k={self.k} needs at least as many samples per problem, got n={n}")
        self.total += math.fsum(pass_at_k(n, c, self.k) for c in correct.sum(1).tolist())
        self.problems += correct.shape[0]

    def compute(self) -> Tensor:
        """The mean over problems, a float32 scalar in [0, 1]; NaN if there was no problem."""
        return self.total / self.problems
