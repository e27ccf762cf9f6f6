"""The chunked head against the plain computation, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vibethinker.logprobs import linear_logprobs
from vibethinker.ops.logprob_head import torch as reference


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    log_p = (hidden @ weight.T / temperature).log_softmax(-1)
    return log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients(chunk: int, temperature: float) -> None:
    torch.manual_seed(0)
    tokens, size, words = 23, 16, 50
    inputs = [torch.randn(tokens, size), torch.randn(words, size)]
    targets = torch.randint(words, (tokens,))
    upstream = torch.randn(2, tokens)
    grads = []
    for function in (
        lambda h, w: linear_logprobs(h, w, targets, temperature, chunk),
        lambda h, w: plain(h, w, targets, temperature),
    ):
        hidden, weight = (x.clone().requires_grad_() for x in inputs)
        logp, entropy = function(hidden, weight)
        (upstream[0] * logp + upstream[1] * entropy).sum().backward()
        grads.append((logp.detach(), entropy.detach(), hidden.grad, weight.grad))
    for ours, expected in zip(*grads, strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)


def test_double_precision_gradients_against_finite_differences() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(4, 5, requires_grad=True)
    weight = torch.randn(7, 5)
    targets = torch.tensor([0, 3, 6, 6])
    linear_logprobs(hidden, weight, targets)[0].sum().backward()
    step = 1e-6
    for i, j in ((0, 0), (3, 4)):
        moved = [hidden.detach().double().clone() for _ in range(2)]
        moved[0][i, j] += step
        moved[1][i, j] -= step
        up, down = (plain(m, weight.double(), targets, 1.0)[0].sum() for m in moved)
        assert hidden.grad is not None
        assert hidden.grad[i, j].item() == pytest.approx(((up - down) / (2 * step)).item(), abs=1e-4)


def test_no_targets_give_zero_gradient() -> None:
    hidden = torch.randn(0, 4, requires_grad=True)
    weight = torch.randn(6, 4, requires_grad=True)
    logp, _ = linear_logprobs(hidden, weight, torch.empty(0, dtype=torch.long))
    logp.sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.zeros(6, 4))


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(6, 4)
    linear_logprobs(hidden, weight, torch.zeros(3, dtype=torch.long))[0].sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_bfloat16_stays_close_and_returns_float32() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(64, 32), torch.randn(100, 32) * 0.1, torch.randint(100, (64,))
    exact, _ = linear_logprobs(hidden, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        half, entropy = linear_logprobs(hidden, weight, targets)
    assert half.dtype == entropy.dtype == torch.float32
    assert (half - exact).abs().mean() < 0.02


def test_refuses_zero_temperature() -> None:
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        linear_logprobs(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(1, dtype=torch.long), chunk=0)
    with pytest.raises(ValueError, match="temperature"):
        linear_logprobs(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(1, dtype=torch.long), temperature=0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_fused_kernels_are_the_plain_arithmetic(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(37, 64, device="cuda"), 0.3 * torch.randn(5001, 64, device="cuda")
    targets, upstream = torch.randint(5001, (37,), device="cuda"), torch.randn(2, 37, device="cuda")
    results = []
    for kernels in (None, reference):
        h, w = (x.clone().to(dtype).requires_grad_() for x in (hidden, weight))
        logp, entropy = linear_logprobs(h, w, targets, 0.7, 16, kernels)
        (upstream[0] * logp + upstream[1] * entropy).sum().backward()
        results.append((logp.detach(), entropy.detach(), h.grad, w.grad))
    for fused, plain_one in zip(*results, strict=True):
        assert fused is not None
        assert plain_one is not None
        assert (fused - plain_one).abs().max() <= tolerance * plain_one.abs().max()
