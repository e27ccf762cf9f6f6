"""Sampling parameters and seeds of rollouts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vibethinker.ops.sampling.torch import GOLDEN, mix


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters of a rollout.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token.
        top_p: keep the fewest tokens whose probabilities reach this sum, and any tied with the last one; 1 keeps all.
        top_k: keep this many of the most likely tokens, and any tied with the last one; 0 keeps all.
        min_p: drop tokens less likely than this fraction of the most likely one; 0 keeps all.
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
    def filters(self) -> bool:
        """True if top-p, top-k or min-p drops tokens of the temperature distribution."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


def rollout_seeds(seeds: Tensor, n: int) -> Tensor:
    """A seed for each of `n` rollouts of every prompt: [P] → [P·n], group-major."""
    return mix(mix(seeds)[:, None] + torch.arange(1, n + 1, device=seeds.device) * GOLDEN).flatten()
