"""How the next token is drawn, and the log-probability it was drawn with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_GOLDEN, _MIX_1, _MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685  # splitmix64, as int64


@dataclass(frozen=True)
class Sampling:
    """Settings of a rollout.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token.
        top_p: keep the fewest tokens whose probabilities reach this sum, and any tied with the last one; 1 keeps all.
        top_k: keep this many of the most likely tokens, and any tied with the last one; 0 keeps all.
        min_p: drop tokens less likely than this share of the most likely one; 0 keeps all.
        max_new_tokens: completions are cut at this length.
        stop_token_ids: tokens that end a completion; the model's end-of-sequence tokens by default.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_new_tokens: int = 256
    stop_token_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be finite and not negative, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, got {self.top_k}")
        if not 0 <= self.min_p < 1:
            raise ValueError(f"min_p must lie in [0, 1), got {self.min_p}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")

    @property
    def cuts(self) -> bool:
        """Whether some tokens of the temperature distribution can never be drawn."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


def sample(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """Draws one token a row by inverting the cumulative distribution.

    Args:
        logits: [S, V], any float dtype.
        uniforms: [S] in [0, 1), one number decides a token.
        sampling: temperature and cuts.

    Returns:
        tokens [S]; their log-probs under the plain temperature distribution [S], which training compares with;
        their log-probs under the distribution they were drawn from [S], different only where top-k, top-p or min-p cut.
    """
    scores = logits.float()
    if sampling.temperature == 0:
        tokens = scores.argmax(-1)
        logp = scores.gather(-1, tokens[:, None])[:, 0] - scores.logsumexp(-1)
        return tokens, logp, torch.where(logp.isnan(), logp, torch.zeros_like(logp))
    if sampling.temperature != 1:
        scores = scores / sampling.temperature
    kept = _cut(scores, sampling) if sampling.cuts else scores
    share = kept.softmax(-1)
    mass = share.cumsum(-1)
    # right=True: the first token whose cumulated mass exceeds the point, so a token without mass is never drawn …
    tokens = torch.searchsorted(mass, uniforms[:, None].to(mass.dtype) * mass[:, -1:], right=True)
    tokens = tokens.clamp_(max=logits.shape[-1] - 1)
    if bool((share.gather(-1, tokens) == 0).any()):
        # … unless a sum made in parallel falls by a rounding from one token to the next
        tokens = torch.where(share.gather(-1, tokens) == 0, share.argmax(-1, keepdim=True), tokens)
    drawn_logp = share.gather(-1, tokens)[:, 0].log()
    tokens = tokens[:, 0]
    if not sampling.cuts:
        return tokens, drawn_logp, drawn_logp
    return tokens, scores.gather(-1, tokens[:, None])[:, 0] - scores.logsumexp(-1), drawn_logp


def _cut(scores: Tensor, sampling: Sampling) -> Tensor:
    """Top-k, then min-p, then top-p of what is left; cut tokens get −∞. Tokens as likely as the last one kept stay."""
    lowest = -torch.inf
    if 0 < sampling.top_k < scores.shape[-1]:
        threshold = scores.topk(sampling.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < threshold, lowest)
    if sampling.min_p > 0:
        floor = scores.amax(-1, keepdim=True) + math.log(sampling.min_p)
        scores = scores.masked_fill(scores < floor, lowest)
    if sampling.top_p < 1:
        ordered = scores.sort(-1, descending=True).values
        probability = ordered.softmax(-1)
        before = probability.cumsum(-1) - probability
        threshold = ordered.masked_fill(before >= sampling.top_p, torch.inf).amin(-1, keepdim=True)
        scores = scores.masked_fill(scores < threshold, lowest)
    return scores


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """A number in [0, 1) that depends on a rollout's seed and the token's position alone.

    Counter-based (splitmix64's finaliser), so a rollout comes out the same in any slot, batch, order and process.

    Args:
        seeds: [S] int64.
        positions: [S] int64, 0 for the first new token.
    """
    x = mix(seeds + (positions + 1) * _GOLDEN)
    return ((x >> 40) & 0xFFFFFF).float() * 2.0**-24


def mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64; products wrap, shifts are made logical by masks."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MIX_2
    return x ^ ((x >> 31) & (2**33 - 1))


def rollout_seeds(seeds: Tensor, n: int) -> Tensor:
    """A seed for each of `n` rollouts of every prompt: [P] → [P·n], group-major."""
    return mix(mix(seeds)[:, None] + torch.arange(1, n + 1, device=seeds.device) * _GOLDEN).flatten()
