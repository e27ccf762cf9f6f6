"""The state of every sequence being decoded, on the device, so that no token waits for the host."""

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
