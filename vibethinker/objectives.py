r"""The objectives of the signal phase as pure functions, all in float32.

Shapes: `P` prompts, `G` rollouts of each, `N` sequences, any shape of tokens.

Sources: group advantages and the clipped surrogate are GRPO (arXiv 2402.03300, section 4.1); the maximum-entropy
weight is MGPO (arXiv 2511.06221; 2606.16140, section 2.2.1); Long2Short is 2606.16140, section 2.2.2; the asymmetric
clip, the token-level mean and the overlong penalty are DAPO (arXiv 2503.14476, section 3; the penalty is its equation
13); the constant denominator is Dr. GRPO (arXiv 2503.20783); the KL estimators are J. Schulman, "Approximating KL
divergence" (2020); the truncated ratio is CISPO (arXiv 2506.13585, section 3.1).

Departures from the papers: groups whose outcomes are all equal get advantage 0 and leave the denominators (with a KL
term in the reward their advantage would be noise divided by a tiny deviation); the KL penalty sits in the reward
instead of the loss.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Float32, Shaped
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]
Aggregation = Literal["sequence", "token", "constant"]

STD_FLOOR = 1e-6
LOG_RATIO_LIMIT = 20.0  # k3 grows like exp: beyond this a float32 sum of squares is no longer finite


def max_entropy_weight(
    pass_rate: Float[Tensor, "*shape"], sharpness: float, target: float = 0.5
) -> Float32[Tensor, "*shape"]:
    r"""How much a prompt teaches, in (0, 1]: 1 at the target pass rate, falling towards always and never solved.

    $w(p) = \exp(-\lambda\,[\,p \ln\frac{p}{p_0} + (1-p) \ln\frac{1-p}{1-p_0}\,])$, with $0 \ln 0 = 0$.

    Args:
        pass_rate: any shape, in [0, 1].
        sharpness: λ ≥ 0; 0 gives 1 everywhere, which is GRPO.
        target: p₀, strictly between 0 and 1.
    """
    if not 0.0 < target < 1.0:
        raise ValueError(f"target must lie strictly between 0 and 1, got {target}")
    if sharpness < 0.0:
        raise ValueError(f"sharpness must not be negative, got {sharpness}")
    p = pass_rate.float()
    q = 1.0 - p
    divergence = torch.xlogy(p, p / target) + torch.xlogy(q, q / (1.0 - target))
    return torch.exp(-sharpness * divergence)


def alive_groups(correct: Shaped[Tensor, "P G"]) -> Bool[Tensor, " P"]:
    """Which groups carry a signal: their outcomes differ. [P, G] → bool [P]."""
    return correct.amax(-1) != correct.amin(-1)


def group_advantages(
    rewards: Shaped[Tensor, "P G"], correct: Shaped[Tensor, "P G"], sharpness: float = 0.0, target: float = 0.5
) -> Float32[Tensor, "P G"]:
    r"""Advantage of each rollout over its group, weighted by how undecided the policy is about the prompt.

    $A_i = w(\bar c)\,\frac{R_i - \mathrm{mean}_G R}{\mathrm{std}_G R + \epsilon}$, with the sample standard deviation.
    The weight uses correctness, never the shaped reward.

    Args:
        rewards: [P, G], outcome with every shaping term.
        correct: [P, G], outcome alone, in [0, 1].
        sharpness: λ of `max_entropy_weight`; 0 is GRPO.
        target: p₀ of `max_entropy_weight`.

    Returns:
        [P, G] float32; exactly 0 in groups whose outcomes are all equal.
    """
    if rewards.shape != correct.shape or rewards.ndim != 2:
        raise ValueError(f"rewards and correct must both be [P, G], got {list(rewards.shape)}, {list(correct.shape)}")
    rewards, correct = rewards.float(), correct.float()
    if rewards.shape[-1] < 2:
        return torch.zeros_like(rewards)
    centred = rewards - rewards.mean(-1, keepdim=True)
    normalised = centred / (rewards.std(-1, keepdim=True) + STD_FLOOR)
    weighted = max_entropy_weight(correct.mean(-1, keepdim=True), sharpness, target) * normalised
    return torch.where(alive_groups(correct)[:, None], weighted, torch.zeros_like(weighted))


def kl_penalty(
    logp: Float[Tensor, "*tokens"], ref_logp: Float[Tensor, "*tokens"], estimator: Estimator = "k1"
) -> Float32[Tensor, "*tokens"]:
    r"""Per-token estimate of $\mathrm{KL}(\pi\,\|\,\pi_\mathrm{ref})$ from samples of π; any shape, float32.

    With $d = \ln\pi - \ln\pi_\mathrm{ref}$: `k1` is $d$ (unbiased, signed), `k2` is $d^2/2$, `k3` is
    $e^{-d} + d - 1$ (unbiased, never negative). In `k3` |d| is limited to `LOG_RATIO_LIMIT`.
    """
    difference = logp.float() - ref_logp.float()
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference.square()
    if estimator == "k3":
        limited = difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        return torch.expm1(-limited) + limited
    raise ValueError(f"estimator must be k1, k2 or k3, got {estimator!r}")


def clipped_surrogate(
    logp: Float[Tensor, "*tokens"],
    old_logp: Float[Tensor, "*tokens"],
    advantages: Shaped[Tensor, "*#tokens"],
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
) -> Float[Tensor, "*tokens"]:
    r"""Per-token policy loss to minimise, float32.

    $-\min(r A,\ \mathrm{clip}(r, 1-\epsilon_\mathrm{low}, 1+\epsilon_\mathrm{high}) A)$ with
    $r = e^{\ln\pi - \ln\pi_\mathrm{old}}$.

    Args:
        logp: log-probs under the policy being trained, with gradient.
        old_logp: log-probs captured while sampling, at the sampling temperature.
        advantages: broadcastable to `logp`.
        epsilon_low: how far the ratio may fall before the gradient stops.
        epsilon_high: how far it may rise.
    """
    ratio = torch.exp(logp.float() - old_logp.detach().float())
    clipped = ratio.clamp(1.0 - epsilon_low, 1.0 + epsilon_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def truncated_surrogate(
    logp: Float[Tensor, "*tokens"],
    old_logp: Float[Tensor, "*tokens"],
    advantages: Shaped[Tensor, "*#tokens"],
    cap: float = 2.0,
) -> Float[Tensor, "*tokens"]:
    r"""Policy gradient with a truncated importance correction: $-\mathrm{sg}(\min(r, C))\,A\,\ln\pi$, per token.

    Every token keeps its gradient, however far the policy has moved; the correction is bounded by `cap`.
    """
    correction = torch.exp(logp.detach().float() - old_logp.detach().float()).clamp(max=cap)
    return -correction * advantages * logp.float()


def sequence_weights(
    lengths: Shaped[Tensor, " N"], aggregation: Aggregation, *, sequences: int, tokens: int, max_new_tokens: int
) -> Float32[Tensor, " N"]:
    """The weight of every token of a sequence, such that Σ weight · loss is the batch's loss.

    `sequence` is the mean over a rollout's tokens, then over rollouts: 1 / (sequences · length).
    `token` is the mean over all tokens: 1 / tokens. `constant` is 1 / (sequences · max_new_tokens).

    Args:
        lengths: [N] completion lengths of the sequences at hand.
        aggregation: which of the three.
        sequences: how many sequences the whole batch has, over all ranks.
        tokens: how many completion tokens it has, over all ranks.
        max_new_tokens: the longest completion allowed.
    """
    length = lengths.float()
    if aggregation == "sequence":
        return 1.0 / (max(sequences, 1) * length)
    if aggregation == "token":
        return torch.full_like(length, 1.0 / max(tokens, 1))
    if aggregation == "constant":
        return torch.full_like(length, 1.0 / (max(sequences, 1) * max_new_tokens))
    raise ValueError(f"aggregation must be sequence, token or constant, got {aggregation!r}")


def long2short(
    rewards: Shaped[Tensor, "*P G"],
    correct: Shaped[Tensor, "*P G"],
    lengths: Shaped[Tensor, "*P G"],
    coefficient: float = 0.2,
) -> Float32[Tensor, "*P G"]:
    r"""Moves reward from long to short among the correct rollouts of a group; the group's total stays as it is.

    With $s_i = 1/L_i$ over the correct rollouts: $R_i + \lambda\,(s_i - \bar s) / \max_j |s_j - \bar s|$.

    Args:
        rewards: [..., G].
        correct: [..., G]; a rollout counts as correct at outcome 1.
        lengths: [..., G] completion lengths in tokens.
        coefficient: λ, the largest shift.
    """
    solved = correct == 1
    longest = lengths.masked_fill(~solved, 0).amax(-1, keepdim=True)
    differ = (solved & (lengths != longest)).any(-1, keepdim=True)  # equal lengths leave round-off, not a deviation
    score = solved.double() / lengths.double().clamp(min=1.0)
    mean = score.sum(-1, keepdim=True) / solved.double().sum(-1, keepdim=True).clamp(min=1.0)
    deviation = torch.where(differ, (score - mean) * solved, torch.zeros_like(score))
    largest = deviation.abs().amax(-1, keepdim=True)
    unit = deviation / torch.where(differ, largest, torch.ones_like(largest))
    return rewards.float() + coefficient * unit.float()


def overlong(lengths: Shaped[Tensor, "*shape"], limit: int, buffer: int) -> Float32[Tensor, "*shape"]:
    r"""Penalty of completions that come close to the limit: 0, then a straight line to -1 at the limit.

    $\mathrm{clip}(\frac{(L_\mathrm{max} - B) - L}{B}, -1, 0)$, the soft overlong punishment of DAPO.

    Args:
        lengths: any shape, completion lengths in tokens.
        limit: $L_\mathrm{max}$, the longest completion allowed.
        buffer: $B$, how many tokens before the limit it begins.
    """
    if not 1 <= buffer <= limit:
        raise ValueError(f"the overlong buffer must be 1 to {limit} tokens, the longest completion, got {buffer}")
    return ((limit - buffer - lengths).float() / buffer).clamp(-1.0, 0.0)
