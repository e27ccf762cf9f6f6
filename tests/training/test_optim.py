"""The learning rate, the decay and the clipping by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vibethinker.training.optim import adamw, clip_, warmup_cosine
from vibethinker.training.options import Optimizer


def test_warmup_cosine_by_hand() -> None:
    rates = [warmup_cosine(step, total=10, warmup_ratio=0.2, floor=0.1) for step in range(11)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[6] == pytest.approx(0.55)  # half of the way down
    assert rates[10] == pytest.approx(0.1)
    assert rates == sorted(rates[:3]) + sorted(rates[3:], reverse=True)
    assert warmup_cosine(500, total=10, warmup_ratio=0.0, floor=1.0) == 1.0


def test_matrices_alone_decay() -> None:
    matrix, vector, idle = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, 2))
    optimizer = adamw([matrix, vector, idle], Optimizer(learning_rate=0.5, weight_decay=0.1), fused=False)
    matrix.grad, vector.grad = torch.zeros(2, 2), torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(matrix.data, torch.full((2, 2), 1 - 0.5 * 0.1))
    assert torch.equal(vector.data, torch.ones(2))
    assert torch.equal(idle.data, torch.ones(2, 2))  # without a gradient


@pytest.mark.parametrize("limit", [1.0, 10.0, None, 0.0, -1.0])
def test_clipping_is_by_the_norm_of_all(limit: float | None) -> None:
    left = [0.6, 0.8] if limit == 1.0 else [3.0, 4.0]
    one, other, idle = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    one.grad, other.grad = torch.tensor([3.0]), torch.tensor([4.0])
    norm = clip_(torch.optim.SGD([{"params": [one]}, {"params": [other, idle]}], lr=1.0), limit)
    assert norm.item() == pytest.approx(5.0)
    assert [p.grad.item() for p in (one, other) if p.grad is not None] == pytest.approx(left, abs=1e-5)
