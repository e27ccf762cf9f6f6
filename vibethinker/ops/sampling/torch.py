"""Sampling the next token in PyTorch's operations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GOLDEN, _MIX_1, _MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685  # splitmix64, as int64


@dataclass(frozen=True)
class SamplingParams:
    """Temperature and filters, of which 0 (for `top_p`: 1) means none."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be finite and not negative, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, got {self.top_k}")
        if not 0 <= self.min_p < 1:
            raise ValueError(f"min_p must lie in [0, 1), got {self.min_p}")

    @property
    def filters(self) -> bool:
        """True if top-p, top-k or min-p drops tokens of the temperature distribution."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


def sample(logits: Tensor, uniforms: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor, Tensor]:
    """Samples one token a row by inverting the cumulative distribution.

    Args:
        logits: [S, V] in bfloat16, float16 or float32.
        uniforms: float32 [S] in [0, 1), one number for each token.
        params: temperature and filters.

    Returns:
        tokens [S]; their log-probs under the plain temperature distribution [S], to compare with those of training;
        their log-probs under the distribution they were sampled from [S], which differ where a filter is on. A row
        with NaN has NaN log-probs and some token of the vocabulary.
    """
    scores = logits.float()
    if params.temperature == 0:
        tokens = scores.argmax(-1)
        logp = scores.gather(-1, tokens[:, None])[:, 0] - scores.logsumexp(-1)
        return tokens, logp, torch.where(logp.isnan(), logp, torch.zeros_like(logp))
    if params.temperature != 1:
        scores = scores / params.temperature
    kept = _filtered(scores, params) if params.filters else scores
    probability = kept.softmax(-1)
    mass = probability.cumsum(-1)
    # right=True: the first token whose cumulated mass exceeds the point, so a token without mass is never sampled …
    tokens = torch.searchsorted(mass, uniforms[:, None].to(mass.dtype) * mass[:, -1:], right=True)
    tokens = tokens.clamp_(max=logits.shape[-1] - 1)
    if bool((probability.gather(-1, tokens) == 0).any()):
        # … unless a sum made in parallel falls by a rounding from one token to the next
        tokens = torch.where(probability.gather(-1, tokens) == 0, probability.argmax(-1, keepdim=True), tokens)
    sampled_logp = probability.gather(-1, tokens)[:, 0].log()
    tokens = tokens[:, 0]
    if not params.filters:
        return tokens, sampled_logp, sampled_logp
    return tokens, scores.gather(-1, tokens[:, None])[:, 0] - scores.logsumexp(-1), sampled_logp


def _filtered(scores: Tensor, params: SamplingParams) -> Tensor:
    """Top-k, then min-p, then top-p of the rest; dropped tokens get −∞. Tokens as likely as the last one kept stay."""
    lowest = -torch.inf
    if 0 < params.top_k < scores.shape[-1]:
        threshold = scores.topk(params.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < threshold, lowest)
    if params.min_p > 0:
        floor = scores.amax(-1, keepdim=True) + math.log(params.min_p)
        scores = scores.masked_fill(scores < floor, lowest)
    if params.top_p < 1:
        ordered = scores.sort(-1, descending=True).values
        sorted_probability = ordered.softmax(-1)
        before = sorted_probability.cumsum(-1) - sorted_probability
        threshold = ordered.masked_fill(before >= params.top_p, torch.inf).amin(-1, keepdim=True)
        scores = scores.masked_fill(scores < threshold, lowest)
    return scores


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """float32 [S] in [0, 1), a function of a rollout's seed and the token's position alone.

    Counter-based (splitmix64's finaliser), so a rollout comes out the same in any slot, batch, order and process.

    Args:
        seeds: [S] int64.
        positions: [S] int64, 0 for the first new token.
    """
    x = mix(seeds + (positions + 1) * GOLDEN)
    return ((x >> 40) & 0xFFFFFF).float() * 2.0**-24


def mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64; products wrap, shifts are made logical by masks."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MIX_2
    return x ^ ((x >> 31) & (2**33 - 1))
