"""What the engine knows of every sequence in flight, kept on the device so that no token waits for the host."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FIELDS = 9
LAST, LENGTH, MADE, SEQUENCE, SEED, LIMIT, ENDED, PROMPT, PROMPT_LENGTH = range(FIELDS)


class State(NamedTuple):
    """Row `i` of everything belongs to the sequence in slot `i`.

    Attributes:
        rows: int64 [9, slots], by field: the last token, tokens in the cache with the prompt's, tokens made, which
            sequence it is, its seed, the most tokens it may make, how it ended (0 while it goes on, its tokens where a
            stop token ended it, minus its tokens where its limit did), where its prompt lies in the cache, and
            the prompt's tokens.
        counters: int64 [2], draws so far and the first one that gave NaN, 0 while none did.
        tokens: int32 [slots, M] completions.
        logprobs: float32 [slots, M], under the plain temperature distribution.
        sampled_logprobs: float32 [slots, M], under the distribution drawn from.
    """

    rows: Tensor
    counters: Tensor
    tokens: Tensor
    logprobs: Tensor
    sampled_logprobs: Tensor

    @classmethod
    def empty(cls, slots: int, max_length: int, device: torch.device) -> State:
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
        return self.tokens, self.logprobs, self.sampled_logprobs

    def clear(self) -> None:
        self.free(slice(None))
        self.counters.zero_()

    def free(self, rows: slice) -> None:
        """No sequence in these rows: they stand still until they get one, and have no tokens that attention reads."""
        self.rows[:, rows] = 0
        self.rows[ENDED, rows] = 1
        self.rows[SEQUENCE, rows] = -1

    def move(self, source: Tensor, target: Tensor, longest: int) -> None:
        """Puts sequences of up to `longest` made tokens into other rows."""
        self.rows[:, target] = self.rows[:, source]
        for store in self.outputs:
            store[target, :longest] = store[source, :longest]


def advance(
    state: Tensor,
    counters: Tensor,
    drawn: tuple[Tensor, Tensor, Tensor],
    stops: Tensor,
    outputs: tuple[Tensor, Tensor, Tensor],
    grows: bool,
) -> None:
    """Books one drawn token for each of the first `R` rows that have not ended.

    Args:
        state: int64 [9, slots], `State.rows`.
        counters: int64 [2].
        drawn: tokens [R] and their two log-probs [R].
        stops: int64, tokens that end a sequence; −1 stands for none.
        outputs: where tokens and log-probs are kept, each [slots, M].
        grows: whether the token before this one has gone into the cache.
    """
    tokens, logp, _ = drawn
    rows = state[:, : len(tokens)]
    alive = rows[ENDED] == 0
    made = rows[MADE]
    for store, new in zip(outputs, drawn, strict=True):
        some = store[: len(tokens)]
        kept = torch.where(alive, new, some.gather(1, made[:, None])[:, 0])
        some.scatter_(1, made[:, None], kept[:, None].to(store.dtype))
    counters[0] += 1
    broken = (alive & logp.isnan()).any()
    counters[1] = torch.where((counters[1] == 0) & broken, counters[0], counters[1])
    rows[LAST] = torch.where(alive, tokens, rows[LAST])
    rows[MADE] += alive
    if grows:
        rows[LENGTH] += alive
    stopped = alive & torch.isin(tokens, stops)
    over = alive & (rows[MADE] >= rows[LIMIT])
    rows[ENDED] = torch.where(stopped, rows[MADE], torch.where(over, -rows[MADE], rows[ENDED]))
