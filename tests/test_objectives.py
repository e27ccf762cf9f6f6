"""Each objective against numbers worked out by hand and against a slow reference in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vibethinker.objectives import (
    alive_groups,
    clipped_surrogate,
    group_advantages,
    kl_penalty,
    long2short,
    max_entropy_weight,
    overlong,
    sequence_weights,
    truncated_surrogate,
)

rates = st.floats(0.0, 1.0)


def test_weight_at_never_half_and_always_solved() -> None:
    weight = max_entropy_weight(torch.tensor([0.0, 0.5, 1.0]), sharpness=2.0)
    # KL(Bern(0) || Bern(1/2)) = KL(Bern(1) || Bern(1/2)) = ln 2, so the weight is exp(-2 ln 2) = 1/4
    torch.testing.assert_close(weight, torch.tensor([0.25, 1.0, 0.25]))


def test_weight_with_another_target() -> None:
    # KL(Bern(0.25) || Bern(0.75)) = 0.25 ln(1/3) + 0.75 ln 3 = 0.5 ln 3
    weight = max_entropy_weight(torch.tensor(0.25), sharpness=1.0, target=0.75)
    torch.testing.assert_close(weight, torch.tensor(3.0**-0.5))


@given(rates, st.floats(0.0, 10.0), st.floats(0.01, 0.99))
def test_weight_is_a_weight(rate: float, sharpness: float, target: float) -> None:
    weight = max_entropy_weight(torch.tensor([rate]), sharpness, target).item()
    assert 0.0 < weight <= 1.0 + 1e-6
    if sharpness == 0:
        assert weight == 1.0


@pytest.mark.parametrize("target", [0.0, 1.0, -0.5])
def test_weight_refuses_a_target_that_cannot_be_reached(target: float) -> None:
    with pytest.raises(ValueError, match="target"):
        max_entropy_weight(torch.tensor([0.5]), 1.0, target)


def test_weight_refuses_negative_sharpness() -> None:
    with pytest.raises(ValueError, match="sharpness"):
        max_entropy_weight(torch.tensor([0.5]), -1.0)


def test_advantages_by_hand() -> None:
    correct = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    # mean 1/4, sample deviation 1/2: (3/4)/(1/2) and (-1/4)/(1/2)
    expected = torch.tensor([[1.5, -0.5, -0.5, -0.5], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(group_advantages(correct, correct), expected, atol=1e-5, rtol=0)


def test_dead_groups_get_exactly_nothing_even_with_noise_in_the_reward() -> None:
    correct = torch.zeros(2, 4)
    rewards = correct - 1e-3 * torch.rand(2, 4)
    assert torch.equal(group_advantages(rewards, correct), torch.zeros(2, 4))


def slow_advantages(rewards: list[float], correct: list[float], sharpness: float) -> list[float]:
    size = len(rewards)
    if len(set(correct)) == 1:
        return [0.0] * size
    mean = sum(rewards) / size
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (size - 1))
    p = sum(correct) / size
    divergence = sum(x * math.log(x / 0.5) for x in (p, 1 - p) if x > 0)
    return [math.exp(-sharpness * divergence) * (r - mean) / (deviation + 1e-6) for r in rewards]


@given(st.lists(st.tuples(st.booleans(), st.floats(-0.1, 0.1)), min_size=2, max_size=8), st.floats(0.0, 4.0))
def test_advantages_against_a_slow_reference(rollouts: list[tuple[bool, float]], sharpness: float) -> None:
    correct = [float(c) for c, _ in rollouts]
    rewards = [float(c) + noise for c, noise in rollouts]
    result = group_advantages(torch.tensor([rewards]), torch.tensor([correct]), sharpness)
    expected = torch.tensor([slow_advantages(rewards, correct, sharpness)])
    torch.testing.assert_close(result, expected, atol=2e-4, rtol=2e-4)


def test_zero_sharpness_is_grpo() -> None:
    torch.manual_seed(0)
    correct = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    rewards = correct + 0.01 * torch.randn(2, 3)
    grpo = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)
    assert torch.equal(group_advantages(rewards, correct, sharpness=0.0), grpo)


def test_the_weight_sees_correctness_and_not_the_shaped_reward() -> None:
    correct = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    plain = group_advantages(correct, correct, sharpness=1.0)
    scaled = group_advantages(100 * correct, correct, sharpness=1.0)
    torch.testing.assert_close(plain, scaled, atol=1e-4, rtol=1e-4)


def test_advantages_refuse_shapes_that_do_not_match() -> None:
    with pytest.raises(ValueError, match=r"\[P, G\]"):
        group_advantages(torch.zeros(2, 3), torch.zeros(3, 2))


def test_alive_groups() -> None:
    assert alive_groups(torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])).tolist() == [False, True, False]


def test_kl_estimators_by_hand() -> None:
    logp, ref = torch.log(torch.tensor([0.5])), torch.log(torch.tensor([0.25]))
    torch.testing.assert_close(kl_penalty(logp, ref, "k1"), torch.tensor([math.log(2)]))
    torch.testing.assert_close(kl_penalty(logp, ref, "k2"), torch.tensor([math.log(2) ** 2 / 2]))
    torch.testing.assert_close(kl_penalty(logp, ref, "k3"), torch.tensor([0.5 + math.log(2) - 1]))


def test_kl_estimators_estimate_the_kl() -> None:
    torch.manual_seed(0)
    p, q = torch.randn(16).log_softmax(-1), torch.randn(16).log_softmax(-1)
    exact = (p.exp() * (p - q)).sum()
    tokens = torch.multinomial(p.exp(), 200_000, replacement=True)
    for estimator in ("k1", "k3"):
        torch.testing.assert_close(kl_penalty(p[tokens], q[tokens], estimator).mean(), exact, atol=0.02, rtol=0)


@given(st.floats(-1e4, 1e4))
def test_k3_is_finite_and_never_negative(difference: float) -> None:
    value = kl_penalty(torch.tensor([difference]), torch.zeros(1), "k3")
    assert value.isfinite().all()
    assert value.item() >= 0


def test_kl_refuses_an_unknown_estimator() -> None:
    with pytest.raises(ValueError, match="k1, k2 or k3"):
        kl_penalty(torch.zeros(1), torch.zeros(1), "k4")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.5, 1.0, -1.2),  # clipped from above
        (1.5, -1.0, 1.5),  # a bad token that became likelier keeps its full gradient
        (0.5, -1.0, 0.8),  # clipped from below
        (0.5, 1.0, -0.5),
    ],
)
def test_surrogate_by_hand(ratio: float, advantage: float, loss: float) -> None:
    logp = torch.tensor([math.log(ratio)], requires_grad=True)
    result = clipped_surrogate(logp, torch.zeros(1), torch.tensor([advantage]))
    torch.testing.assert_close(result, torch.tensor([loss]))
    result.sum().backward()
    assert logp.grad is not None
    flat = loss != -ratio * advantage
    assert (logp.grad.item() == 0.0) is flat


def test_surrogate_with_unequal_clips() -> None:
    logp = torch.log(torch.tensor([1.25, 0.75]))
    loss = clipped_surrogate(logp, torch.zeros(2), torch.tensor([1.0, -1.0]), epsilon_low=0.1, epsilon_high=0.28)
    torch.testing.assert_close(loss, torch.tensor([-1.25, 0.9]))


def test_on_policy_gradient_is_the_policy_gradient() -> None:
    old = torch.randn(5)
    advantage = torch.randn(5)
    for surrogate in (clipped_surrogate, truncated_surrogate):
        logp = old.clone().requires_grad_()
        surrogate(logp, old, advantage).sum().backward()
        torch.testing.assert_close(logp.grad, -advantage)


def test_truncated_correction_is_capped_and_keeps_its_gradient() -> None:
    logp = torch.tensor([math.log(8.0), math.log(0.5)], requires_grad=True)
    truncated_surrogate(logp, torch.zeros(2), torch.ones(2), cap=2.0).sum().backward()
    torch.testing.assert_close(logp.grad, torch.tensor([-2.0, -0.5]))


@pytest.mark.parametrize("aggregation", ["sequence", "token", "constant"])
def test_aggregations_against_loops(aggregation: str) -> None:
    losses = [torch.randn(n) for n in (3, 1, 7)]
    expected = {
        "sequence": sum(x.mean() for x in losses) / 3,
        "token": torch.cat(losses).mean(),
        "constant": sum(x.sum() for x in losses) / (3 * 10),
    }[aggregation]
    lengths = torch.tensor([len(x) for x in losses])
    weights = sequence_weights(lengths, aggregation, sequences=3, tokens=11, max_new_tokens=10)  # type: ignore[arg-type]
    result = sum(w * x.sum() for w, x in zip(weights, losses, strict=True))
    torch.testing.assert_close(result, expected)


def test_aggregation_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="aggregation"):
        sequence_weights(torch.ones(1), "mean", sequences=1, tokens=1, max_new_tokens=1)  # type: ignore[arg-type]


def test_long2short_by_hand() -> None:
    correct = torch.tensor([1.0, 1.0, 0.0])
    # 1/L = 1, 1/2; mean 3/4; deviations ±1/4, so the shifts are ±coefficient and the wrong one keeps its reward
    result = long2short(correct, correct, torch.tensor([1, 2, 1]), coefficient=0.2)
    torch.testing.assert_close(result, torch.tensor([1.2, 0.8, 0.0]))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5000)), min_size=1, max_size=12))
def test_long2short_moves_reward_and_makes_none(rollouts: list[tuple[bool, int]]) -> None:
    correct = torch.tensor([[float(c) for c, _ in rollouts]])
    lengths = torch.tensor([[length for _, length in rollouts]])
    shift = long2short(correct, correct, lengths) - correct
    assert shift.isfinite().all()
    assert abs(shift.sum().item()) < 1e-4
    assert shift.abs().max().item() <= 0.2 + 1e-5
    assert (shift[correct == 0] == 0).all()


@given(st.integers(2, 8), st.integers(1, 40_000))
def test_long2short_leaves_equal_lengths_alone(size: int, length: int) -> None:
    correct = torch.ones(1, size)
    assert torch.equal(long2short(correct, correct, torch.full((1, size), length)), correct)


def test_long2short_sees_close_long_lengths() -> None:
    correct = torch.ones(2)
    result = long2short(correct, correct, torch.tensor([60_000, 60_003]))
    torch.testing.assert_close(result, torch.tensor([1.2, 0.8]))


def test_overlong_by_hand() -> None:
    # limit 10, buffer 4: nothing up to 6, then a quarter per token, and never more than 1
    lengths = torch.tensor([[1, 6, 7], [8, 10, 12]])
    torch.testing.assert_close(overlong(lengths, 10, 4), torch.tensor([[0.0, 0.0, -0.25], [-0.5, -1.0, -1.0]]))
    torch.testing.assert_close(overlong(torch.tensor([9, 10]), 10, 1), torch.tensor([0.0, -1.0]))


@pytest.mark.parametrize("buffer", [0, -1, 11])
def test_overlong_refuses_a_buffer_that_cannot_be(buffer: int) -> None:
    with pytest.raises(ValueError, match="overlong buffer"):
        overlong(torch.ones(1), 10, buffer)
