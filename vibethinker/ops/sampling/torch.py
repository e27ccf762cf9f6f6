"""Sampling the next token in PyTorch's operations."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

GOLDEN, _MIX_1, _MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685  # splitmix64, as int64


class SamplingParams(Protocol):
    """Temperature and filters: see `vibethinker.rollout.Sampling`."""

    @property
    def temperature(self) -> float:
        """Divides the logits; 0 takes the most likely token."""
        ...

    @property
    def top_p(self) -> float:
        """Keeps the fewest tokens whose probabilities reach this sum; 1 keeps all."""
        ...

    @property
    def top_k(self) -> int:
        """Keeps this many tokens; 0 keeps all."""
        ...

    @property
    def min_p(self) -> float:
        """Drops tokens below this fraction of the highest probability; 0 keeps all."""
        ...

    @property
    def filters(self) -> bool:
        """True if some tokens can never be sampled."""
        ...


def sample(logits: Tensor, uniforms: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor, Tensor]:
    """See `vibethinker.ops.params.Sampler`."""
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
    """See `vibethinker.ops.params.Sampler`."""
    x = mix(seeds + (positions + 1) * GOLDEN)
    return ((x >> 40) & 0xFFFFFF).float() * 2.0**-24


def mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64; products wrap, shifts are made logical by masks."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MIX_2
    return x ^ ((x >> 31) & (2**33 - 1))
