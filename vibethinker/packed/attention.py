"""Variable-length attention for transformers models, registered with `AttentionInterface` as `vibethinker`.

A model loaded with `attn_implementation="vibethinker"` takes one row of tokens and a keyword argument `attention=` that
defines how the row's tokens attend: `PackedAttention` here (training and reference), or the KV cache of the rollout
engine in `vibethinker.rollout.kv_cache` (prefill and decode). One model, one code path, no mask matrix.

On CUDA in half precision packed attention is PyTorch's own flash kernel
(`torch.nn.attention.varlen`), called twice where prompts are shared (`vibethinker.packed.shared_prompts`). Elsewhere
sequences of like length are padded into rectangles for `scaled_dot_product_attention`: right padding needs no mask,
since causal queries never look ahead.
"""

from __future__ import annotations

import inspect
from itertools import accumulate
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel

from vibethinker.packed.packing import PackedRow
from vibethinker.packed.shared_prompts import Layout, shared_attention

NAME = "vibethinker"
_UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias")  # options of some architectures
# From torch 2.12 on the kernel must be told that query heads share key heads
_GROUPED_QUERIES = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
_PADDING_ALLOWED = 1.25  # a rectangle may hold this many times its real tokens


class Attention(Protocol):
    """Attention of the tokens of one row to each other, or to a KV cache."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Query [T, heads, D], key and value [T, kv_heads, D] → [T, heads, D]."""
        ...


class PackedAttention:
    """Causal attention within each sequence of a packed row, its prompt included where that is shared."""

    def __init__(self, row: PackedRow):
        self.row = row
        self._rectangles: list[tuple[Tensor, Tensor]] | None = None  # built once for all layers, as is the layout
        self._layout: Layout | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Query [T, heads, D], key and value [T, kv_heads, D] → [T, heads, D]."""
        if not supports_flash(query):
            return self._padded(query, key, value, scale)
        if self.row.members:
            self._layout = self._layout or Layout.of(self.row)
            return shared_attention(query, key, value, self._layout, scale)
        return _flash(query, key, value, self.row.cu_seqlens, max(self.row.lengths), scale)

    def _padded(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        if self._rectangles is None:
            lengths, index, own = unshared(self.row)
            found = [(index[i], own[i] & real) for i, real in rectangles(lengths)]
            self._rectangles = [(i.to(query.device), first.to(query.device)) for i, first in found]
        outputs, indices = [], []
        for index, first in self._rectangles:
            q, k, v = (_rows(x, index).transpose(1, 2) for x in (query, key, value))
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
            outputs.append(out.transpose(1, 2)[first])
            indices.append(index[first])
        order = torch.cat(indices).argsort()
        return torch.cat(outputs)[order]


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x[index], [T, heads, D] by [B, L] → [B, L, heads, D]; backward adds in one order with any number of threads."""
    return F.embedding(index, x.flatten(1)).unflatten(-1, x.shape[1:])


def unshared(row: PackedRow) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """The sequences of a row with their prompts, one after the other, [T'] tokens in all.

    Returns:
        their lengths, the index of each token in the row [T'], and true where it is the first with that index [T']:
        the first member of a group owns the prompt.
    """
    segments = torch.arange(len(row.input_ids)).split(row.lengths)
    prompts, rest = segments[: len(row.members)], iter(segments[len(row.members) :])
    sequences = [[p, next(rest)] for p, count in zip(prompts, row.members, strict=True) for _ in range(count)]
    sequences += [[segment] for segment in rest]
    index = torch.cat([part for parts in sequences for part in parts])
    firsts = torch.full((len(row.input_ids),), len(index)).scatter_reduce(0, index, torch.arange(len(index)), "amin")
    own = firsts[index] == torch.arange(len(index))
    return tuple(sum(map(len, parts)) for parts in sequences), index, own


def rectangles(lengths: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Groups sequences of like length: for each group token indices [B, L] and which of them are not padding [B, L]."""
    starts = list(accumulate(lengths, initial=0))
    groups: list[list[int]] = []
    real = 0
    for s in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[groups[-1][0]] if groups else 0
        if not groups or longest * (len(groups[-1]) + 1) > _PADDING_ALLOWED * (real + lengths[s]):
            groups.append([])
            real = 0
        groups[-1].append(s)
        real += lengths[s]
    result = []
    for group in groups:
        real_lengths = torch.tensor([lengths[s] for s in group])
        step = torch.arange(int(real_lengths.max()))
        inside = step < real_lengths[:, None]
        result.append((torch.tensor([starts[s] for s in group])[:, None] + step * inside, inside))
    return result


def _flash(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, scale: float) -> Tensor:
    kernel: Any = varlen_attn
    causal = (-1, 0)  # any number of tokens back, none ahead
    out: Tensor = kernel(
        query, key, value, bounds, bounds, longest, longest, scale=scale, window_size=causal, **_GROUPED_QUERIES
    )
    return out


def supports_flash(query: Tensor) -> bool:
    """Returns True where PyTorch's flash kernel runs: CUDA, half precision, head size a multiple of 8 up to 256."""
    size = query.shape[-1]
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and size % 8 == 0 and size <= 256


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention: Attention | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> Tensor:
    """One layer's attention, query [T, heads, D], key and value [T, kv_heads, D] → [T, heads, D].

    Args:
        module: the layer's, which knows its index.
        query: of one row's tokens; under autocast all three are cast to its precision.
        key: likewise.
        value: likewise.
        attention: of the row.
        scaling: of the scores; D^-½ by default.
        dropout: must be 0.
        options: of the architecture.

    Raises:
        ValueError: no attention was passed, or an option is not supported.
    """
    if attention is None:
        raise ValueError(
            "this model was loaded for packed rows: pass attention=PackedAttention(row), "
            "or load it with attn_implementation='sdpa' for padded batches"
        )
    if dropout:
        raise ValueError("attention_dropout must be 0: rollout and training log-probs would differ")
    if unsupported := [name for name in _UNSUPPORTED if options.get(name) is not None]:
        raise ValueError(f"attention with {unsupported[0]} is not supported: the model's config.json asks for it")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: Any = module.layer_idx
    device = query.device.type
    if torch.is_autocast_enabled(device):  # rotations leave float32 behind, which the flash kernel does not take
        query, key, value = (x.to(torch.get_autocast_dtype(device)) for x in (query, key, value))
    return attention.attend(layer, query, key, value, scale)


def interface(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    attention: Attention | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in every layer: query [1, heads, T, D] → ([1, T, heads, D], no weights)."""
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend(module, query, key, value, attention, **kwargs).unsqueeze(0), None


AttentionInterface.register(NAME, interface)


def backbone(model: PreTrainedModel) -> nn.Module:
    """The model without its head: under PEFT's wrapper, under any architecture."""
    plain: Any = model
    if hasattr(model, "get_base_model"):
        plain = plain.get_base_model()
    return plain.base_model


def hidden_states(model: PreTrainedModel, input_ids: Tensor, position_ids: Tensor, attention: Attention) -> Tensor:
    """Final hidden states of one row, [T] → [T, H]."""
    inputs = {"input_ids": input_ids[None], "position_ids": position_ids[None]}
    return backbone(model)(**inputs, attention=attention, use_cache=False).last_hidden_state[0]
