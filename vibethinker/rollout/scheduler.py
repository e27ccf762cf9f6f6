"""Continuous batching: which sequences occupy the slots, from the host's side.

The host runs ahead of the device. It launches a few steps at a time and reads a snapshot of the state that was taken
before them. It learns of a stop token later, and a sequence may reach its limit between two snapshots: a few idle steps
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
_REFILL = 8  # a prefill is worth its launch once an eighth of the slots is free
_STEPS = 8  # launched on a GPU between two snapshots


class PromptSlots:
    """The cache's slots for prompts, each in use until all sequences of its prompt have ended."""

    def __init__(self, count: int):
        self._free = list(range(count - 1, -1, -1))
        self._used: dict[int, tuple[int, int]] = {}  # slot and unfinished sequences of each prompt

    def __getitem__(self, prompt: int) -> int:
        """The slot of a prompt."""
        return self._used[prompt][0]

    def __contains__(self, prompt: int) -> bool:
        """True if the prompt has a slot."""
        return prompt in self._used

    def acquire(self, prompt: int, sequences: int) -> int:
        """Takes a free slot for a prompt of so many sequences."""
        slot = self._free.pop()
        self._used[prompt] = slot, sequences
        return slot

    def release(self, prompt: int, sequences: int) -> None:
        """Counts sequences of a prompt that have ended; its slot is free after the last one."""
        slot, left = self._used.pop(prompt)
        if left > sequences:
            self._used[prompt] = slot, left - sequences
        else:
            self._free.append(slot)


class ActiveRows:
    """The sequences being decoded, in the first slots.

    Attributes:
        sequence: int64 [rows], indices.
        generated: int64 [rows], tokens so far if no stop token came.
        limit: int64 [rows], most tokens.
        prompt_length: int64 [rows], tokens of the prompt.
    """

    def __init__(self) -> None:
        self.sequence = self.generated = self.limit = self.prompt_length = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.sequence)

    def append(self, **columns: Tensor) -> None:
        """Adds rows behind the others, every column by its name."""
        for name in vars(self):
            setattr(self, name, np.concatenate([getattr(self, name), columns[name].numpy()]))

    def keep(self, kept: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Drops the other rows; the last kept ones move into their slots, from `source` [C] to `target` [C]."""
        count = int(kept.sum())
        source, target = count + np.flatnonzero(kept[count:]), np.flatnonzero(~kept[:count])
        for name, column in vars(self).items():
            column[target] = column[source]
            setattr(self, name, column[:count])
        return source, target


class Scheduler:
    """Samples `n` sequences of each prompt through a decoder's slots.

    Args:
        decoder: empty slots, stop tokens set.
        prompts: int64 tokens of each.
        n: sequences of each.
        sampling: temperature and filters.
        seeds: int64 [P·n].
        limits: int64 [P·n], the most tokens of each sequence.
    """

    def __init__(
        self, decoder: Decoder, prompts: Sequence[Tensor], n: int, sampling: Sampling, seeds: Tensor, limits: Tensor
    ):
        self.decoder, self.state, self.cache = decoder, decoder.state, decoder.cache
        self.prompts, self.n, self.sampling, self.seeds, self.limits = prompts, n, sampling, seeds, limits
        self.total, self.admitted = len(seeds), 0
        self.rows, self.prompt_slots = ActiveRows(), PromptSlots(self.cache.slots + 1)
        self.last_logits = torch.empty(0)  # of the last prompt, for those of its group that wait
        device, longest = self.state.rows.device, int(limits.max()) if len(limits) else 0
        self.ended = torch.zeros(self.total, dtype=torch.long, device=device)
        self.outputs = [torch.zeros(self.total, longest, dtype=o.dtype, device=device) for o in self.state.outputs]
        self.snapshots = _Snapshots(self.state.rows, self.state.counters)
        self.steps = _STEPS if device.type == "cuda" else 1

    def run(self, progress: Progress | None) -> tuple[Tensor, list[Tensor]]:
        """Samples until every sequence has ended.

        Returns:
            int64 [P·n], how each ended (`DecodeState.rows`), and tokens and their two log-probs, each [P·n, longest];
            all on the CPU.

        Raises:
            FloatingPointError: the model's logits are NaN.
        """
        while len(self.rows) or self.admitted < self.total:
            self.step()
            if progress:
                progress(self.admitted - len(self.rows), self.total)
        _check(self.state.counters.cpu().numpy())
        ended = self.ended.cpu()
        longest = int(ended.abs().max()) if self.total else 0
        return ended, [store[:, :longest].cpu() for store in self.outputs]

    def step(self) -> None:
        """Admits waiting sequences or decodes; then retires those that have ended."""
        free, waiting = self.cache.slots - len(self.rows), self.total - self.admitted
        if waiting and (not len(self.rows) or free * _REFILL >= self.cache.slots):
            self._admit(min(free, waiting))
        else:
            self._decode()
        finished = self._finished()
        if finished.any():
            self._harvest(np.flatnonzero(finished))
            self._compact(~finished)

    def _admit(self, count: int) -> None:
        """Gives the next `count` sequences a slot, their prompt's keys and values, and their first token."""
        first = len(self.rows)
        sequence = torch.arange(self.admitted, self.admitted + count)
        prompts = (sequence // self.n).tolist()
        logits = self._prefill(prompts)
        lengths = torch.tensor([len(self.prompts[p]) for p in prompts])
        entry = torch.zeros(FIELDS, count, dtype=torch.long)
        entry[LENGTH] = entry[PROMPT_LENGTH] = lengths
        entry[PROMPT], entry[SEQUENCE] = torch.tensor([self.prompt_slots[p] for p in prompts]), sequence
        entry[SEED], entry[LIMIT] = self.seeds[sequence], self.limits[sequence]
        self.state.rows[:, first : first + count] = entry.to(self.state.rows.device, non_blocking=True)
        self.decoder.sample(logits, first, self.sampling, grows=False)
        self.admitted += count
        one = torch.ones_like(sequence)
        self.rows.append(sequence=sequence, generated=one, limit=self.limits[sequence], prompt_length=lengths)

    def _prefill(self, prompts: list[int]) -> Tensor:
        """Logits after each of these prompts, which ascend; those that are not in the cache yet are computed, once."""
        cached = sum(p in self.prompt_slots for p in prompts)  # the rest of the last group
        new = sorted(set(prompts[cached:]))
        logits = [self.last_logits.expand(cached, -1)] if cached else []
        if new:
            slots = torch.tensor([self.prompt_slots.acquire(p, self.n) for p in new])
            of_new = self.decoder.prefill([self.prompts[p] for p in new], slots)
            index = torch.tensor(prompts[cached:]) - new[0]
            logits.append(of_new[index.to(of_new.device)])
            self.last_logits = of_new[-1].clone()  # a view would keep them all
        return torch.cat(logits)

    def _decode(self) -> None:
        rows = self.rows
        steps = int(min(self.steps, (rows.limit - rows.generated).max()))  # rows at their limit stand still
        np.minimum(rows.generated + steps, rows.limit, out=rows.generated)
        self.decoder.decode(rows.prompt_length + rows.generated - 1, self.sampling, steps)

    def _finished(self) -> NDArray[np.bool_]:
        """True for the rows at their limit, and for those that ended in the latest snapshot."""
        finished: NDArray[np.bool_] = self.rows.generated >= self.rows.limit
        if (state := self.snapshots.next()) is not None:
            finished |= np.isin(self.rows.sequence, state[SEQUENCE][state[ENDED] != 0])
        return finished

    def _harvest(self, rows: NDArray[np.int64]) -> None:
        """Keeps the tokens of these rows, and gives their prompts' slots back."""
        sequences, longest = self.rows.sequence[rows], int(self.rows.generated[rows].max())
        for prompt, count in zip(*np.unique(sequences // self.n, return_counts=True), strict=True):
            self.prompt_slots.release(prompt, count)
        row, sequence = self._on_device(rows, sequences)
        self.ended[sequence] = self.state.rows[ENDED, row]
        for kept, generated in zip(self.outputs, self.state.outputs, strict=True):
            kept[sequence, :longest] = generated[row, :longest]

    def _compact(self, kept: NDArray[np.bool_]) -> None:
        """Moves the last rows into free slots, so that the active ones come first."""
        source, target = self.rows.keep(kept)
        if len(source):
            lengths = self.rows.generated[target]
            moved = self._on_device(source, target)
            self.state.move(moved[0], moved[1], int(lengths.max()))
            self.cache.move(*(torch.from_numpy(x) for x in (source, target, lengths)))
        self.state.free(slice(len(self.rows), len(kept)))

    def _on_device(self, *indices: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.stack(indices)).to(self.state.rows.device, non_blocking=True)


class _Snapshots:
    """Copies of the state on the host: the latest on a CPU; on a GPU one older, so that nothing waits."""

    def __init__(self, rows: Tensor, counters: Tensor):
        self.rows, self.counters = rows, counters
        self.pending: deque[tuple[Fetched, Fetched]] = deque()

    def next(self) -> NDArray[np.int64] | None:
        """int64 [9, slots] as of some steps ago; `None` if there is no snapshot yet.

        Raises:
            FloatingPointError: the model's logits are NaN.
        """
        self.pending.append((Fetched(self.rows), Fetched(self.counters)))
        if self.rows.is_cuda and len(self.pending) < 2:
            return None
        rows, counters = (copy.get().numpy() for copy in self.pending.popleft())
        _check(counters)
        return rows


def _check(counters: NDArray[np.int64]) -> None:
    if counters[1]:
        raise FloatingPointError(f"rollout: the model's logits are NaN at step {counters[1]}")
