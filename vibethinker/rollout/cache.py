"""Keys and values of the sequences being sampled: one slot each, in plain tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig

from vibethinker.attention import PackedAttention
from vibethinker.packing import PackedRow
from vibethinker.rollout.state import kernels_of

_ALIGNED = 16  # tokens
# Tokens of a sequence that one program of the decode kernel takes where there are at least so many sequences times
# key heads: once these keep the device busy, splitting costs more than it gives.
_SHARES = ((512, 4096), (128, 1024), (0, 256))


def head_size(config: PreTrainedConfig) -> int:
    size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return size


def slot_bytes(config: PreTrainedConfig, max_length: int, dtype: torch.dtype) -> int:
    """Keys and values of one sequence of `max_length` tokens, in bytes."""
    entry = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size(config)
    return entry * _room(max_length) * dtype.itemsize


def _room(max_length: int) -> int:
    """Places of a slot: whole cache lines wherever a sequence begins."""
    return -(-max_length // _ALIGNED) * _ALIGNED


class SlotCache:
    """`slots` sequences of up to `max_length` tokens, and one parked prompt.

    The last row belongs to no sequence: it parks the prompt of a group of which only some rollouts have found a slot,
    so that the rest need no second prefill.
    """

    def __init__(self, config: PreTrainedConfig, slots: int, max_length: int, dtype: torch.dtype, device: torch.device):
        heads = config.num_key_value_heads
        shape = (config.num_hidden_layers, 2, slots + 1, heads, _room(max_length), head_size(config))
        self.slots = slots
        self.store = torch.zeros(shape, dtype=dtype, device=device)
        self.keys, self.values = list(self.store[:, 0]), list(self.store[:, 1])  # each [slots + 1, heads, M, D]
        self.kernels = kernels_of(device)

    @property
    def parking(self) -> int:
        return self.slots

    def copy(self, source: Tensor, target: Tensor, lengths: Tensor) -> None:
        """Copies the first `lengths` [C] tokens of some rows [C] onto others [C]; no row is on both sides.

        Args:
            source, target, lengths: int64, on the CPU.
        """
        if not len(source):
            return
        longest = int(lengths.max())
        if self.kernels:
            on_device = torch.stack([source, target, lengths]).to(self.store.device, non_blocking=True)
            self.kernels.copy_rows_(self.store, *on_device, longest)
            return
        for store in (*self.keys, *self.values):
            store[target, :, :longest] = store[source, :, :longest]


class PrefillAttention(PackedAttention):
    """Packed prompts attend to themselves and leave their keys and values in one cache row each.

    Args:
        row: the prompts.
        cache: where to write.
        slots: [S] the cache row of each prompt, on the CPU.
    """

    def __init__(self, row: PackedRow, cache: SlotCache, slots: Tensor):
        super().__init__(row)
        self.cache = cache
        device = cache.store.device
        self.slot = slots.repeat_interleave(torch.tensor(row.lengths)).to(device, non_blocking=True)
        self.place = row.position_ids.to(device, non_blocking=True)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        for store, new in ((self.cache.keys[layer], key), (self.cache.values[layer], value)):
            store[self.slot, :, self.place] = new
        return super().attend(layer, query, key, value, scale)


@dataclass(frozen=True)
class Split:
    """How the decode kernel deals a sequence's tokens to programs: `count` of them, a power of two, `share` each."""

    count: int
    share: int

    @classmethod
    def of(cls, rows: int, kv_heads: int, longest: int) -> Split:
        """One program a sequence while that keeps the device busy; it depends on few numbers, each has its graph."""
        share = next(share for programs, share in _SHARES if rows * kv_heads >= programs)
        return cls(1 << (-(-longest // share) - 1).bit_length(), share)


class DecodeAttention:
    """One new token for each of the first `R` slots.

    Args:
        cache: the slots.
        lengths: int64 [R], tokens already in each slot; the new token goes to that place.
        longest: at least max(lengths) + 1, known on the host.
    """

    def __init__(self, cache: SlotCache, lengths: Tensor, longest: int):
        self.cache, self.lengths, self.longest = cache, lengths, longest
        self.split = Split.of(len(lengths), cache.store.shape[3], longest)
        if cache.kernels is None:
            self.row = torch.arange(len(lengths), device=lengths.device)
            self.seen = (torch.arange(longest, device=lengths.device) <= lengths[:, None])[:, None, None]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, rotation: Any = None
    ) -> Tensor:
        """With a `rotation`, query and key are still to go through it; kernels alone do that."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        if self.cache.kernels:
            new, split = (query, key, value), self.split
            out: Tensor = self.cache.kernels.attend(
                *new, keys, values, self.lengths, scale, split.count, split.share, rotation
            )
            return out
        keys[self.row, :, self.lengths] = key
        values[self.row, :, self.lengths] = value
        count, kv_heads, size = len(query), keys.shape[1], query.shape[2]
        grouped = query.view(count, kv_heads, -1, size)  # query heads of one key head, as if they were tokens
        k, v = (x[:count, :, : self.longest] for x in (keys, values))
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=self.seen, scale=scale).reshape(query.shape)
