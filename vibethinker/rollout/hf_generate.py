"""Sampling through transformers' `generate`, for models whose attention cannot be replaced.

Much slower than the engine's own steps, with the same samples: a logits processor samples each token from the rollout's
seed and masks all others. A rollout is a function of its prompt, its seed and the weights, up to the rounding that
padding brings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from vibethinker.ops.sampling.torch import sample, uniforms
from vibethinker.rollout.sampling_params import Sampling

# Tokens with the stop token, their log-probs under the plain temperature distribution and under the one sampled from,
# all on the CPU, and true if a stop token ended the completion.
Completion = tuple[Tensor, Tensor, Tensor, bool]
_PADDING = 0  # any token of the vocabulary: padding is masked


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Tensor],
    n: int,
    sampling: Sampling,
    seeds: Tensor,
    stop_token_ids: Tensor,
    slots: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """Samples `n` completions of every prompt, `slots` sequences at a time.

    Args:
        model: a causal model with an attention implementation of transformers, in evaluation mode.
        prompts: `P` int64 tensors of token ids.
        n: completions of each.
        sampling: temperature, filters and length limit; its stop tokens are ignored.
        seeds: int64 [P·n], group-major, as are the completions.
        stop_token_ids: int64 [K], the tokens that end a completion; may be empty.
        slots: sequences in one batch.
        progress: called after every batch with the number of finished completions and of all.

    Raises:
        FloatingPointError: the model's logits are NaN; the message names the step.
    """
    total = len(prompts) * n
    done: list[Completion] = []
    steps = 0
    # `generate` would take penalties, filters and stop tokens from the model's generation_config.json
    saved, model.generation_config = model.generation_config, GenerationConfig()
    try:
        while len(done) < total:
            batch = range(len(done), min(len(done) + slots, total))
            processor = _SamplingProcessor(
                seeds[batch.start : batch.stop].to(model.device), sampling, stop_token_ids, steps
            )
            _run(model, [prompts[sequence // n] for sequence in batch], processor)
            steps += len(processor.tokens)
            done += processor.completions()
            if progress:
                progress(len(done), total)
    finally:
        model.generation_config = saved
    return done


class _SamplingProcessor(LogitsProcessor):
    """Samples and records a token for every row of a batch, and masks all others."""

    def __init__(self, seeds: Tensor, sampling: Sampling, stop_token_ids: Tensor, steps_before: int):
        self.seeds, self.sampling, self.stop = seeds, sampling, stop_token_ids.to(seeds.device)
        self.steps_before = steps_before
        self.ended = torch.zeros_like(seeds, dtype=torch.bool)
        self.tokens: list[Tensor] = []
        self.logp: list[Tensor] = []
        self.sampled_logp: list[Tensor] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Logits [S, V] → zero for the sampled token of each row, −∞ for all others."""
        numbers = uniforms(self.seeds, torch.full_like(self.seeds, len(self.tokens)))
        processor = self.sampling.processor
        sampled = sample(processor(scores) if processor else scores, numbers, self.sampling)
        for store, new in zip((self.tokens, self.logp, self.sampled_logp), sampled, strict=True):
            store.append(new)
        if (sampled[1].isnan() & ~self.ended).any():
            step = self.steps_before + len(self.tokens)
            raise FloatingPointError(f"rollout: the model's logits are NaN at step {step}")
        self.ended |= torch.isin(sampled[0], self.stop)
        return torch.full_like(scores, -torch.inf).scatter_(1, sampled[0][:, None], 0.0)

    def completions(self) -> Iterator[Completion]:
        """The tokens of each row up to its first stop token; rows that had ended were sampled on, to no effect."""
        tokens, logp, sampled = (torch.stack(x, 1).cpu() for x in (self.tokens, self.logp, self.sampled_logp))
        stopped = torch.isin(tokens, self.stop.cpu())
        finished = stopped.any(1)
        ends = torch.where(finished, stopped.int().argmax(1) + 1, tokens.shape[1])
        for row, end in enumerate(ends.tolist()):
            yield tokens[row, :end].clone(), logp[row, :end].clone(), sampled[row, :end].clone(), bool(finished[row])


def _run(model: Any, prompts: list[Tensor], processor: _SamplingProcessor) -> None:
    """One batch, padded on the left, until every row has ended."""
    input_ids = pad_sequence(prompts, batch_first=True, padding_value=_PADDING, padding_side="left")
    mask = pad_sequence([torch.ones_like(p) for p in prompts], batch_first=True, padding_side="left")
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=processor.sampling.max_new_tokens,
        eos_token_id=processor.stop.tolist() or None,
        pad_token_id=_PADDING,
        use_cache=True,
    )
    model.generate(
        input_ids=input_ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=settings,
        logits_processor=LogitsProcessorList([processor]),
    )
