"""The state of every sequence being decoded, on the device, and the recording of sampled tokens in it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FIELDS = 9
LAST, LENGTH, GENERATED, SEQUENCE, SEED, LIMIT, ENDED, PROMPT, PROMPT_LENGTH = range(FIELDS)


class DecodeState(NamedTuple):
    """Row `i` of everything belongs to the sequence in slot `i`.

    Attributes:
        rows: int64 [9, slots], by field: the last token, tokens in the cache with the prompt's, tokens generated, the
            sequence's index, its seed, its limit of tokens, how it ended (0 while it goes on, its tokens where a stop
            token ended it, minus its tokens where its limit did), its prompt's slot in the cache, and the prompt's
            tokens.
        counters: int64 [2], steps so far and the first one with NaN among its logits, 0 while there was none.
        tokens: int32 [slots, M] completions.
        logprobs: float32 [slots, M], under the plain temperature distribution.
        sampled_logprobs: float32 [slots, M], under the distribution sampled from.
    """

    rows: Tensor
    counters: Tensor
    tokens: Tensor
    logprobs: Tensor
    sampled_logprobs: Tensor

    @classmethod
    def empty(cls, slots: int, max_length: int, device: torch.device) -> DecodeState:
        """Slots without sequences, with room for `max_length` tokens each."""
        outputs = [torch.zeros(slots, max_length, dtype=t, device=device) for t in (torch.int32, *[torch.float32] * 2)]
        state = cls(
            torch.zeros(FIELDS, slots, dtype=torch.long, device=device),
            torch.zeros(2, dtype=torch.long, device=device),
            *outputs,
        )
        state.clear()
        return state

    @property
    def outputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens and their two log-probs."""
        return self.tokens, self.logprobs, self.sampled_logprobs

    def clear(self) -> None:
        """Empties all slots and sets the counters to zero."""
        self.free(slice(None))
        self.counters.zero_()

    def free(self, rows: slice) -> None:
        """Empties these slots: they stand still until a sequence comes, and attention reads none of their tokens."""
        self.rows[:, rows] = 0
        self.rows[ENDED, rows] = 1
        self.rows[SEQUENCE, rows] = -1

    def move(self, source: Tensor, target: Tensor, longest: int) -> None:
        """Moves sequences of at most `longest` generated tokens into other slots."""
        self.rows[:, target] = self.rows[:, source]
        for store in self.outputs:
            store[target, :longest] = store[source, :longest]


def advance(
    state: Tensor,
    counters: Tensor,
    sampled: tuple[Tensor, Tensor, Tensor],
    stops: Tensor,
    outputs: tuple[Tensor, Tensor, Tensor],
    grows: bool,
) -> None:
    """Records one sampled token for each of the first `R` rows that have not ended.

    Args:
        state: int64 [9, slots], `DecodeState.rows`.
        counters: int64 [2], `DecodeState.counters`.
        sampled: tokens [R] and their two log-probs [R].
        stops: int64, tokens that end a sequence; −1 stands for none.
        outputs: tokens and log-probs so far, each [slots, M].
        grows: true where the token before this one has been added to the cache.
    """
    tokens, logp, _ = sampled
    rows = state[:, : len(tokens)]
    alive = rows[ENDED] == 0
    generated = rows[GENERATED]
    for store, new in zip(outputs, sampled, strict=True):
        some = store[: len(tokens)]
        kept = torch.where(alive, new, some.gather(1, generated[:, None])[:, 0])
        some.scatter_(1, generated[:, None], kept[:, None].to(store.dtype))
    counters[0] += 1
    broken = (alive & logp.isnan()).any()
    counters[1] = torch.where((counters[1] == 0) & broken, counters[0], counters[1])
    rows[LAST] = torch.where(alive, tokens, rows[LAST])
    rows[GENERATED] += alive
    if grows:
        rows[LENGTH] += alive
    stopped = alive & torch.isin(tokens, stops)
    over = alive & (rows[GENERATED] >= rows[LIMIT])
    rows[ENDED] = torch.where(stopped, rows[GENERATED], torch.where(over, -rows[GENERATED], rows[ENDED]))
