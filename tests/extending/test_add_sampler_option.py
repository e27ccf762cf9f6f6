"""A sampler option of one's own: a function of the logits, passed as `Sampling(processor=…)`."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.support.models import load_model
from vibethinker.rollout import RolloutEngine, Sampling

PROMPTS = [[5, 6, 7], [8, 9]]


def even_only(logits: Tensor) -> Tensor:
    """Bans every token of an odd number."""
    odd = torch.arange(logits.shape[-1], device=logits.device) % 2 == 1
    return logits.masked_fill(odd, -torch.inf)


def test_the_engine_applies_it(tiny_model: str) -> None:
    engine = RolloutEngine(load_model(tiny_model), max_length=32, slots=4)
    free, even = (
        engine.generate(PROMPTS, 3, Sampling(max_new_tokens=12, stop_token_ids=(), processor=processor), seed=0)
        for processor in (None, even_only)
    )
    assert any((ids % 2 == 1).any() for ids in free.completion_ids)
    assert all((ids % 2 == 0).all() for ids in even.completion_ids)
    assert all(logprobs.isfinite().all() for logprobs in even.logprobs)
