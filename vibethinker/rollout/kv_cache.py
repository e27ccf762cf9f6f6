"""KV cache of prompts and of the completions being sampled, in plain tensors.

A prompt is cached once for all rollouts of its group, which makes a group's keys and values smaller and, what counts
more, read once where they are read together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from vibethinker.ops import decode_attention, implementation
from vibethinker.ops.decode_attention import Split
from vibethinker.ops.decode_state.torch import LENGTH, PROMPT, PROMPT_LENGTH
from vibethinker.ops.decoder_layers import Rotation
from vibethinker.packed.attention import PackedAttention
from vibethinker.packed.packing import PackedRow

_ALIGNED = 16  # tokens: whole cache lines wherever a sequence begins


def head_size(config: PreTrainedConfig) -> int:
    """Width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def key_heads(config: PreTrainedConfig) -> int:
    """Number of heads of keys and values."""
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def slot_bytes(config: PreTrainedConfig, max_length: int, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one sequence.

    Args:
        config: of the model.
        max_length: tokens of prompt and completion together.
        dtype: of keys and values.
    """
    entry = 2 * config.num_hidden_layers * key_heads(config) * head_size(config)
    return entry * (_aligned(max_length) + _ALIGNED) * dtype.itemsize


def _aligned(tokens: int) -> int:
    return -(-tokens // _ALIGNED) * _ALIGNED


class SlotCache:
    """A slot for every completion in flight, and one prompt slot more, since the next prompt may be waiting.

    Args:
        config: of the model.
        slots: completions at one time.
        prompt_length: most tokens of a prompt.
        completion_length: most tokens of a completion.
        dtype: of keys and values.
        device: of keys and values.
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
        self.kernels = implementation(decode_attention, device)
        self.plan: Any = None  # of the last step

    def move(self, source: Tensor, target: Tensor, lengths: Tensor) -> None:
        """Copies completions to other slots, of which none is also a source.

        Args:
            source: slots, int64 [C] on the CPU.
            target: slots, int64 [C] on the CPU.
            lengths: tokens to copy, int64 [C] on the CPU.
        """
        longest = int(lengths.max())
        source, target, lengths = torch.stack([source, target, lengths]).to(self.device, non_blocking=True)
        self.kernels.copy_rows_(self.completions, source, target, lengths, longest)


class PrefillAttention(PackedAttention):
    """Attention of packed prompts, whose keys and values are written into the cache.

    Args:
        row: the prompts.
        cache: to write into.
        slots: [S] the slot of each prompt, on the CPU.
    """

    def __init__(self, row: PackedRow, cache: SlotCache, slots: Tensor):
        super().__init__(row)
        self.cache = cache
        lengths = torch.tensor(row.lengths)
        self.slot = slots.repeat_interleave(lengths).to(cache.device, non_blocking=True)
        self.position = row.position_ids

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Query [T, heads, D], key and value [T, kv_heads, D] → [T, heads, D]."""
        for store, new in zip(self.cache.prompts[layer], (key, value), strict=True):
            store[self.slot, :, self.position] = new
        return super().attend(layer, query, key, value, scale)


class DecodeAttention:
    """Attention of one new token of each of the first `R` slots.

    Args:
        cache: keys and values.
        rows: int64 [9, R], the state of these slots.
        split: of the kernel's work.
    """

    def __init__(self, cache: SlotCache, rows: Tensor, split: Split):
        self.cache, self.rows = cache, (rows[LENGTH], rows[PROMPT], rows[PROMPT_LENGTH])
        self.rotates = cache.kernels.ROTATES
        self.plan = cache.plan = cache.kernels.plan(self.rows, cache.completions[0], split, cache.plan)

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Query [R, heads, D], key and value [R, kv_heads, D] → [R, heads, D]; a `rotation` only if `rotates`."""
        prompts, completions = self.cache.prompts[layer], self.cache.completions[layer]
        return self.cache.kernels.attend(query, key, value, prompts, completions, self.rows, scale, self.plan, rotation)
