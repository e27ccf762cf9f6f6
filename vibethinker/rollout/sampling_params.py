"""Sampling parameters and seeds of rollouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vibethinker.ops.sampling.torch import GOLDEN, SamplingParams, mix


@dataclass(frozen=True)
class Sampling(SamplingParams):
    """Sampling parameters of a rollout.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token.
        top_p: keep the fewest tokens whose probabilities reach this sum, and any tied with the last one; 1 keeps all.
        top_k: keep this many of the most likely tokens, and any tied with the last one; 0 keeps all.
        min_p: drop tokens less likely than this fraction of the most likely one; 0 keeps all.
        max_new_tokens: completions are cut at this length.
        stop_token_ids: tokens that end a completion; the model's end-of-sequence tokens by default.
        processor: a function of the logits [S, V], applied before temperature and filters. Log-probs are those of its
            result, with which training would not agree: for evaluation. On CUDA it is captured in the decode graph.
    """

    max_new_tokens: int = 256
    stop_token_ids: tuple[int, ...] | None = None
    processor: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")


def rollout_seeds(seeds: Tensor, n: int) -> Tensor:
    """A seed for each of `n` rollouts of every prompt: [P] → [P·n], group-major."""
    return mix(mix(seeds)[:, None] + torch.arange(1, n + 1, device=seeds.device) * GOLDEN).flatten()
