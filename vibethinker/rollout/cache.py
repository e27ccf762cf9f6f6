"""Keys and values of the sequences being sampled: one slot each, in plain tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig

from vibethinker.attention import PackedAttention, flash_serves
from vibethinker.packing import PackedRow


class SlotCache:
    """`slots` sequences of up to `max_length` tokens, and one parked prompt.

    The last row belongs to no sequence: it parks the prompt of a group of which only some rollouts have found a slot,
    so that the rest need no second prefill.
    """

    def __init__(self, config: PreTrainedConfig, slots: int, max_length: int, dtype: torch.dtype, device: torch.device):
        heads = config.num_key_value_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (slots + 1, max_length, heads, size)
        self.slots, self.max_length = slots, max_length
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.values = [torch.zeros_like(k) for k in self.keys]

    @property
    def parking(self) -> int:
        return self.slots

    def move(self, source: Tensor, target: Tensor, length: int) -> None:
        """Copies the first `length` tokens of some rows [R] onto others [R]; a target may be another move's source."""
        for store in (*self.keys, *self.values):
            store[target, :length] = store[source, :length]


class PrefillAttention(PackedAttention):
    """Packed prompts attend to themselves and leave their keys and values in one or several slots each.

    Args:
        row: the prompts.
        cache: where to write.
        rows: [C] cache rows and owners: prompt `owners[i]` is written to cache row `rows[i]`.
    """

    def __init__(self, row: PackedRow, cache: SlotCache, rows: Tensor, owners: Tensor):
        super().__init__(row)
        self.cache = cache
        lengths = torch.tensor(row.lengths)[owners]
        starts = row.cu_seqlens[:-1].cpu().long()[owners]
        within = torch.cat([torch.arange(n) for n in lengths.tolist()])
        device = cache.keys[0].device
        self.source = (starts.repeat_interleave(lengths) + within).to(device)
        self.place = (rows.repeat_interleave(lengths) * cache.max_length + within).to(device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        for store, new in ((self.cache.keys[layer], key), (self.cache.values[layer], value)):
            store.flatten(0, 1)[self.place] = new[self.source]
        return super().attend(layer, query, key, value, scale)


class DecodeAttention:
    """One new token for each of the first `S` slots.

    Args:
        cache: the slots.
        lengths: [S] tokens already in each slot; the new token goes to that place.
        longest: at least max(lengths) + 1, known on the host.
    """

    def __init__(self, cache: SlotCache, lengths: Tensor, longest: int):
        self.cache, self.longest, self.count = cache, longest, len(lengths)
        self.place = torch.arange(self.count, device=lengths.device) * cache.max_length + lengths
        self.used = (lengths + 1).int()
        self.seen = (torch.arange(longest, device=lengths.device) <= lengths[:, None])[:, None, None]
        self.bounds = torch.arange(self.count + 1, dtype=torch.int32, device=lengths.device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys.flatten(0, 1)[self.place] = key
        values.flatten(0, 1)[self.place] = value
        if flash_serves(query):
            return self._flash(query, keys, values, scale)
        count, heads, size = query.shape
        grouped = query.view(count, keys.shape[2], -1, size)  # query heads of one key head, as if they were tokens
        k, v = (x[:count, : self.longest].transpose(1, 2) for x in (keys, values))
        out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=self.seen, scale=scale)
        return out.reshape(count, heads, size)

    def _flash(self, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """The same flash kernel over the slots as they lie: row stride `max_length`, `seqused_k` tokens in use."""
        out: Tensor = torch.ops.aten._flash_attention_forward(
            query.contiguous(),
            keys.flatten(0, 1),
            values.flatten(0, 1),
            self.bounds,
            self.bounds * self.cache.max_length,
            1,
            self.longest,
            0.0,
            False,
            False,
            scale=scale,
            seqused_k=self.used,
        )[0]
        return out
