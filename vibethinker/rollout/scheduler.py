"""One call of `generate`, from the host's side: who gets a slot, who leaves, who moves up.

The host runs ahead of the device. It gives out a few steps at a time and looks at a copy of the state that was made
before them. That a sequence met its stop token it learns later, and its limit lies between two looks: a few idle turns
of one row cost less than short rounds, in which the device would wait for the host.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vibethinker.ops.decode_state.torch import ENDED, FIELDS, LENGTH, LIMIT, PROMPT, PROMPT_LENGTH, SEED, SEQUENCE
from vibethinker.rollout.decoder import Decoder
from vibethinker.rollout.sampling_params import Sampling
from vibethinker.utils.async_copy import Fetched

Progress = Callable[[int, int], None]
_REFILL_SHARE = 8  # a prefill is worth its launch once an eighth of the slots is free
_STEPS = 8  # given to a GPU between two looks at the state


class Run:
    """`n` sequences of each prompt through a decoder's slots. Live rows come first.

    Args:
        decoder: empty slots, stop tokens set.
        prompts: int64 tokens of each.
        n: sequences of each.
        sampling: how tokens are drawn.
        seeds: int64 [P·n].
        limits: int64 [P·n], the most tokens each may make.
    """

    def __init__(
        self, decoder: Decoder, prompts: Sequence[Tensor], n: int, sampling: Sampling, seeds: Tensor, limits: Tensor
    ):
        self.decoder, self.state, self.cache = decoder, decoder.state, decoder.cache
        self.prompts, self.n, self.sampling, self.seeds, self.limits = prompts, n, sampling, seeds, limits
        self.total, self.waiting = len(seeds), 0  # the first sequence without a slot
        self.slots = self.cache.slots
        self._know(np.empty((4, 0), dtype=np.int64))
        self.free_places = list(range(self.slots, -1, -1))  # of prompts in the cache
        self.place: dict[int, int] = {}  # of each prompt there …
        self.users: dict[int, int] = {}  # … and the sequences that have not ended, those that wait included
        self.last_logits = torch.empty(0)  # of the last prompt, for those of its group that wait
        device, longest = self.state.rows.device, int(limits.max()) if len(limits) else 0
        self.ended = torch.zeros(self.total, dtype=torch.long, device=device)
        self.outputs = [torch.zeros(self.total, longest, dtype=o.dtype, device=device) for o in self.state.outputs]
        self.looks = _Looks(self.state.rows, self.state.counters)
        self.steps = _STEPS if device.type == "cuda" else 1

    def _know(self, rows: NDArray[np.int64]) -> None:
        """int64 [4, rows] of live rows: sequence, tokens made if no stop token came, limit, tokens of the prompt."""
        self.known = rows
        self.live, self.made, self.limit, self.prompt_length = rows

    def finish(self, progress: Progress | None) -> tuple[Tensor, list[Tensor]]:
        """Samples until every sequence is done.

        Returns:
            int64 [P·n], how each ended (`State.rows`), and tokens and their two log-probs, each [P·n, longest]; all on
            the CPU.
        """
        while len(self.live) or self.waiting < self.total:
            free = self.slots - len(self.live)
            if self.waiting < self.total and (not len(self.live) or free * _REFILL_SHARE >= self.slots):
                self._admit(min(free, self.total - self.waiting))
            else:
                self._decode()
            self._retire()
            if progress:
                progress(self.waiting - len(self.live), self.total)
        _check(self.state.counters.cpu().numpy())
        ended = self.ended.cpu()
        longest = int(ended.abs().max()) if self.total else 0
        return ended, [store[:, :longest].cpu() for store in self.outputs]

    def _admit(self, count: int) -> None:
        """Gives the next `count` sequences a slot, their prompt's keys and values, and their first token."""
        first = len(self.live)
        sequences = torch.arange(self.waiting, self.waiting + count)
        prompts = (sequences // self.n).tolist()
        logits = self._logits(prompts)
        lengths = torch.tensor([len(self.prompts[p]) for p in prompts])
        entry = torch.zeros(FIELDS, count, dtype=torch.long)
        entry[LENGTH] = entry[PROMPT_LENGTH] = lengths
        entry[PROMPT], entry[SEQUENCE] = torch.tensor([self.place[p] for p in prompts]), sequences
        entry[SEED], entry[LIMIT] = self.seeds[sequences], self.limits[sequences]
        self.state.rows[:, first : first + count] = entry.to(self.state.rows.device, non_blocking=True)
        self.decoder.draw(logits, first, self.sampling, grows=False)
        self.waiting += count
        new = torch.stack([sequences, torch.ones_like(sequences), self.limits[sequences], lengths])
        self._know(np.concatenate([self.known, new.numpy()], 1))

    def _logits(self, prompts: list[int]) -> Tensor:
        """What follows each of these prompts, which ascend; those that are not in the cache yet are computed, once."""
        waited = sum(p in self.place for p in prompts)  # the rest of the last group
        new = sorted(set(prompts[waited:]))
        logits = [self.last_logits.expand(waited, -1)] if waited else []
        if new:
            for prompt in new:
                self.place[prompt], self.users[prompt] = self.free_places.pop(), self.n
            of_new = self.decoder.prefill([self.prompts[p] for p in new], torch.tensor([self.place[p] for p in new]))
            owner = torch.tensor(prompts[waited:]) - new[0]
            logits.append(of_new[owner.to(of_new.device)])
            self.last_logits = of_new[-1].clone()  # a view would keep them all
        return torch.cat(logits)

    def _decode(self) -> None:
        steps = int(min(self.steps, (self.limit - self.made).max()))  # who is at their limit stands still
        np.minimum(self.made + steps, self.limit, out=self.made)
        self.decoder.decode(self.prompt_length + self.made - 1, self.sampling, steps)

    def _retire(self) -> None:
        """Keeps what finished sequences made and moves the last live rows into their places."""
        over = self.made >= self.limit
        if (seen := self.looks.next()) is not None:
            over |= np.isin(self.live, seen[SEQUENCE][seen[ENDED] != 0])
        if not over.any():
            return
        count, left = len(self.live), int((~over).sum())
        holes = np.flatnonzero(over)
        longest = int(self.made[holes].max())
        self._leave(self.live[holes])
        row, sequence = self._on_device(holes, self.live[holes])
        self.ended[sequence] = self.state.rows[ENDED, row]
        for kept, made in zip(self.outputs, self.state.outputs, strict=True):
            kept[sequence, :longest] = made[row, :longest]
        target = holes[holes < left]
        source = left + np.flatnonzero(~over[left:])
        self.known[:, target] = self.known[:, source]
        self._know(self.known[:, :left])
        if len(source):
            moved = self._on_device(source, target)
            self.state.move(moved[0], moved[1], int(self.made[target].max()))
            self.cache.move(*(torch.from_numpy(x) for x in (source, target, self.made[target])))
        self.state.free(slice(left, count))

    def _leave(self, sequences: NDArray[np.int64]) -> None:
        """Gives places of prompts back that nobody will look at again."""
        for prompt, gone in zip(*np.unique(sequences // self.n, return_counts=True), strict=True):
            self.users[prompt] -= gone
            if not self.users[prompt]:
                self.free_places.append(self.place.pop(prompt))

    def _on_device(self, *indices: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.stack(indices)).to(self.state.rows.device, non_blocking=True)


class _Looks:
    """Copies of the state on the host: the latest on a CPU; on a GPU one older, so that nobody waits."""

    def __init__(self, rows: Tensor, counters: Tensor):
        self.rows, self.counters = rows, counters
        self.under_way: deque[tuple[Fetched, Fetched]] = deque()

    def next(self) -> NDArray[np.int64] | None:
        """int64 [9, slots] as some steps ago, `None` if there was no look yet.

        Raises:
            FloatingPointError: a NaN was drawn from.
        """
        self.under_way.append((Fetched(self.rows), Fetched(self.counters)))
        if self.rows.is_cuda and len(self.under_way) < 2:
            return None
        rows, counters = (copy.get().numpy() for copy in self.under_way.popleft())
        _check(counters)
        return rows


def _check(counters: NDArray[np.int64]) -> None:
    if counters[1]:
        raise FloatingPointError(f"rollout: the model's logits are NaN at step {counters[1]}")
