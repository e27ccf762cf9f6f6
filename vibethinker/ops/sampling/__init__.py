"""Sampling the next token of every sequence."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, device

from vibethinker.ops.sampling import torch as reference
from vibethinker.ops.sampling.torch import SamplingParams as SamplingParams


class Sampler(Protocol):
    """Tokens from logits and counter-based random numbers."""

    def sample(self, logits: Tensor, uniforms: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor, Tensor]:
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
        ...

    def uniforms(self, seeds: Tensor, positions: Tensor) -> Tensor:
        """float32 [S] in [0, 1), a function of a rollout's seed and the token's position alone.

        Counter-based (splitmix64's finaliser), so a rollout comes out the same in any slot, batch, order and process.

        Args:
            seeds: [S] int64.
            positions: [S] int64, 0 for the first new token.
        """
        ...


def implementation(on: device) -> Sampler:
    """Triton's kernels on CUDA, else PyTorch's own operations."""
    if on.type == "cuda":
        from vibethinker.ops.sampling import triton

        return triton
    return reference
