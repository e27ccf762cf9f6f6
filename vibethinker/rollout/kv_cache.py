"""Keys and values of prompts and of the completions being sampled, in plain tensors.

A prompt lies there once for all rollouts of its group, which makes a group's keys and values smaller and, what counts
more, read once where they are read together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig

from vibethinker.ops import kernels_of
from vibethinker.ops.decode_state.torch import LENGTH, PROMPT, PROMPT_LENGTH
from vibethinker.packed.attention import PackedAttention
from vibethinker.packed.packing import PackedRow

_ALIGNED = 16  # tokens: whole cache lines wherever a sequence begins
# From so many sequences × key heads on: tokens that one program of the decode kernel takes, of sequences of about equal
# length and of others. Once programs keep the device busy, splitting costs more than it gives, unless a few would be at
# work when all others are done.
_SHARES = ((512, 4096, 512), (128, 1024, 1024), (0, 256, 256))
_EVEN = 1.5  # the longest sequence over the mean one


def head_size(config: PreTrainedConfig) -> int:
    size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return size


def key_heads(config: PreTrainedConfig) -> int:
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return heads


def slot_bytes(config: PreTrainedConfig, max_length: int, dtype: torch.dtype) -> int:
    """Keys and values of one sequence of `max_length` tokens, in bytes, whatever of them is its prompt."""
    entry = 2 * config.num_hidden_layers * key_heads(config) * head_size(config)
    return entry * (_aligned(max_length) + _ALIGNED) * dtype.itemsize


def _aligned(tokens: int) -> int:
    return -(-tokens // _ALIGNED) * _ALIGNED


class SlotCache:
    """A place for every completion in flight, and one more for prompts, since the next one may be waiting.

    Args:
        config: of the model.
        slots: completions at one time.
        prompt_length: tokens of a prompt, at most.
        completion_length: tokens of a completion, at most.
        dtype: of keys and values.
        device: where they lie.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        slots: int,
        prompt_length: int,
        completion_length: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        layers, heads, size = config.num_hidden_layers, key_heads(config), head_size(config)
        self.slots, self.kv_heads, self.device = slots, heads, device
        prompts = (layers, 2, slots + 1, heads, _aligned(prompt_length), size)
        completions = (layers, 2, slots, heads, _aligned(completion_length), size)
        self.prompts, self.completions = (torch.zeros(s, dtype=dtype, device=device) for s in (prompts, completions))
        self.kernels = kernels_of(device, "decode_attention", None)
        self.groups: _Groups | None = None  # of the rows of the last step without kernels

    def move(self, source: Tensor, target: Tensor, lengths: Tensor) -> None:
        """Copies the first `lengths` [C] tokens of some completions [C] onto others [C]; none is on both sides.

        Args:
            source, target, lengths: int64, on the CPU.
        """
        longest = int(lengths.max())
        if self.kernels:
            on_device = torch.stack([source, target, lengths]).to(self.device, non_blocking=True)
            self.kernels.copy_rows_(self.completions, *on_device, longest)
            return
        for store in self.completions.flatten(0, 1):
            store[target, :, :longest] = store[source, :, :longest]


class PrefillAttention(PackedAttention):
    """Packed prompts attend to themselves and leave their keys and values in the cache.

    Args:
        row: the prompts.
        cache: where to write.
        places: [S] the place of each prompt, on the CPU.
    """

    def __init__(self, row: PackedRow, cache: SlotCache, places: Tensor):
        super().__init__(row)
        self.cache = cache
        lengths = torch.tensor(row.lengths)
        self.prompt = places.repeat_interleave(lengths).to(cache.device, non_blocking=True)
        self.position = row.position_ids

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        for store, new in zip(self.cache.prompts[layer], (key, value), strict=True):
            store[self.prompt, :, self.position] = new
        return super().attend(layer, query, key, value, scale)


@dataclass(frozen=True)
class Split:
    """How the decode kernel deals a sequence's tokens to programs: `count` of them, a power of two, `share` each."""

    count: int
    share: int

    @classmethod
    def of(cls, lengths: NDArray[np.int64], rows: int, kv_heads: int) -> Split:
        """For sequences of these lengths in so many rows; of few different values, since each has a graph."""
        longest = int(lengths.max())
        even, uneven = next(shares for programs, *shares in _SHARES if rows * kv_heads >= programs)
        share = even if longest <= _EVEN * lengths.mean() else uneven
        return cls(1 << (-(-longest // share) - 1).bit_length(), share)


class DecodeAttention:
    """One new token for each of the first `R` slots.

    Args:
        cache: prompts and completions.
        rows: int64 [9, R], the state of these slots; the new token goes to the place after those of its sequence.
        split: how kernels share the work out.
    """

    def __init__(self, cache: SlotCache, rows: Tensor, split: Split):
        self.cache = cache
        self.rows = (rows[LENGTH], rows[PROMPT], rows[PROMPT_LENGTH])
        self.split = split
        self.plain = None if cache.kernels else _Plain(cache, *self.rows)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, rotation: Any = None
    ) -> Tensor:
        """With a `rotation`, query and key are still to go through it; kernels alone do that."""
        of_prompts, of_completions = self.cache.prompts[layer], self.cache.completions[layer]
        if self.plain:
            return self.plain.attend(of_prompts, of_completions, query, key, value, scale)
        out: Tensor = self.cache.kernels.attend(
            query,
            key,
            value,
            tuple(of_prompts),
            tuple(of_completions),
            self.rows,
            scale,
            self.split.count,
            self.split.share,
            rotation,
        )
        return out


class _Plain:
    """The same in PyTorch's operations; what concerns a prompt is one product for all rows of its group."""

    def __init__(self, cache: SlotCache, lengths: Tensor, prompts: Tensor, prompt_lengths: Tensor):
        if cache.groups is None or not torch.equal(cache.groups.prompts, prompts):
            cache.groups = _Groups(prompts)
        self.groups, made = cache.groups, lengths - prompt_lengths
        self.prompt_room, self.room = int(prompt_lengths.max()), int(made.max()) + 1
        unseen = torch.cat([_unseen(prompt_lengths, self.prompt_room), _unseen(made + 1, self.room)], 1)
        self.bias = torch.zeros(unseen.shape, device=unseen.device).masked_fill_(unseen, -torch.inf)[:, None, None]
        head = torch.arange(len(made) * cache.kv_heads, device=made.device).view(len(made), -1)
        self.new = (head * cache.completions.shape[4] + made[:, None]).flatten()

    def attend(
        self, of_prompts: Tensor, of_completions: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Tensor:
        for store, new in zip(of_completions, (key, value), strict=True):
            store.flatten(0, 2).index_put_((self.new,), new.flatten(0, 1))
        count, kv_heads, size = len(query), key.shape[1], query.shape[-1]
        q = scale * query.view(count, kv_heads, -1, size)  # query heads of one key head, as if they were tokens
        k, v = of_completions[:, :count, :, : self.room]
        prompt_k, prompt_v = of_prompts[:, self.groups.place, :, : self.prompt_room]
        of_prompt = self.groups.apart(_product(self.groups.together(q), prompt_k.mT))
        scores = torch.cat([of_prompt, _product(q, k.mT)], -1).float().add_(self.bias)
        weights = scores.softmax(-1).to(v.dtype)
        to_prompt, to_completion = weights[..., : self.prompt_room], weights[..., self.prompt_room :]
        out = _product(to_completion, v)
        out.add_(self.groups.apart(_product(self.groups.together(to_prompt), prompt_v)))
        return out.view(query.shape)


class _Groups:
    """Rows by the place of their prompt, the same for as long as no row comes, goes or moves.

    Args:
        prompts: int64 [R], the place of each row's prompt.
    """

    def __init__(self, prompts: Tensor):
        count, device = len(prompts), prompts.device
        self.prompts = prompts.clone()
        places, group = prompts.unique(return_inverse=True)
        first, last = int(places[0]), int(places[-1])
        neighbours = last - first < len(places)
        self.place = slice(first, last + 1) if neighbours else places  # a view where it can be
        members = group.bincount()
        order, row = group.argsort(stable=True), torch.arange(count, device=device)
        rank = torch.empty_like(group)
        rank[order] = row - (members.cumsum(0) - members)[group[order]]
        self.size = int(members.max())
        self.within = group * self.size + rank  # where a row is among groups padded to the largest
        self.member = torch.zeros(len(members) * self.size, dtype=torch.long, device=device)
        self.member[self.within] = row
        self.in_order = len(self.member) == count and torch.equal(self.member, row)

    def together(self, x: Tensor) -> Tensor:
        """Of rows [R, kv_heads, T, X] → of groups [P, kv_heads, members · T, X], all rows' heads as if tokens."""
        x = x if self.in_order else x.index_select(0, self.member)
        return x.unflatten(0, (-1, self.size)).transpose(1, 2).flatten(2, 3)

    def apart(self, x: Tensor) -> Tensor:
        """The inverse."""
        x = x.unflatten(2, (self.size, -1)).transpose(1, 2).flatten(0, 1)
        return x if self.in_order else x.index_select(0, self.within)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Of many small matrices: PyTorch's attention for the CPU is made for longer queries, and `matmul` copies."""
    return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).view(*a.shape[:3], b.shape[3])


def _unseen(lengths: Tensor, room: int) -> Tensor:
    """Whether each of so many places lies behind the first `lengths` [R] of them, [R, room]."""
    return torch.arange(room, device=lengths.device) >= lengths[:, None]
