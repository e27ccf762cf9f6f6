"""Attention over rows whose sequences share prompts: two calls of the flash kernel and a merge.

A completion's tokens attend to their own segment (1) and to their prompt (2). Softmax over both is the mixture of the
two softmaxes by their log-sum-exp:

    lse = ln(exp lse₁ + exp lse₂)        out = exp(lse₁ − lse) · out₁ + exp(lse₂ − lse) · out₂

Backward, the kernel recomputes P = exp(S − lse) and needs D = rowsum(dO ∘ O). Given the merged `lse` and `out`, its P
is the mixture's, so that each of two calls gives the gradients that pass through its keys, and they add up.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from vibethinker.ops import attention_merge, implementation
from vibethinker.packed.packing import PackedRow
from vibethinker.utils.async_copy import moved

_DROPOUT: Final = 0.0
_QUERIES: Final = 1024  # of a span
_QUERIES_PER_KEY: Final = 8


class Bounds(NamedTuple):
    """Which queries attend to which keys in one call of the kernel, span by span.

    Attributes:
        queries: int32 [B+1], where the spans of queries begin and end.
        keys: int32 [B+1], the same of keys.
        longest_queries: tokens of the longest span of queries.
        longest_keys: tokens of the longest span of keys.
        causal: true if a query sees the keys up to its own index alone.
    """

    queries: Tensor
    keys: Tensor
    longest_queries: int
    longest_keys: int
    causal: bool


class Flash:
    """PyTorch's flash kernel, whose public function cannot run backward from a merged result."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bounds: Bounds, scale: float) -> tuple[Tensor, Tensor]:
        """Attention of query [Tq, heads, D] to key and value [Tk, kv_heads, D].

        Returns:
            out [Tq, heads, D] and lse [heads, Tq].
        """
        *spans, causal = bounds
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            query, key, value, *spans, _DROPOUT, causal, return_debug_mask=False, **self._options(causal, scale)
        )
        return out, lse

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        bounds: Bounds,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of query, key and value, from those of `out` [Tq, heads, D]."""
        *spans, causal = bounds
        random_state = torch.zeros(2, dtype=torch.uint64, device=query.device), torch.empty(0, device=query.device)
        inputs = (grad, query, key, value, out, lse, *spans, _DROPOUT, causal, *random_state)
        to_query, to_key, to_value = torch.ops.aten._flash_attention_backward(*inputs, **self._options(causal, scale))
        return to_query, to_key, to_value

    @staticmethod
    def _options(causal: bool, scale: float) -> dict[str, Any]:
        return {"scale": scale, "window_size_left": -1, "window_size_right": 0 if causal else -1}


FLASH = Flash()


class Layout(NamedTuple):
    """The two calls of the kernel for a packed row.

    Attributes:
        within: the tokens of each segment attend to themselves, causally.
        across: those that continue a prompt attend to all of it.
        continuations: indices of the tokens that are queries of `across`.
        prompts: indices of the tokens that are its keys.
        key_index: [K] index into the row of each of its keys, where some are repeated; else `None`.
    """

    within: Bounds
    across: Bounds
    continuations: slice
    prompts: slice
    key_index: Tensor | None

    @classmethod
    def of(cls, row: PackedRow, span: int = _QUERIES) -> Layout:
        """The layout of a row that shares prompts, on its device.

        Backward, the kernel gives each block of 128 keys and each head to one processor, which goes through all of
        their queries: a short prompt of many completions would leave the others idle. The queries of a prompt are cut
        into spans, each with its own copy of the keys; those of a long prompt, whose copies would cost more, into few.

        Args:
            row: with shared prompts.
            span: queries of a span, or `_QUERIES_PER_KEY` for each token of its prompt if that is more.

        Raises:
            ValueError: the row shares no prompt.
        """
        if not row.members:
            raise ValueError("the row shares no prompt")
        rest = iter(row.lengths[len(row.members) :])
        queries, keys, index = [0], [0], []
        start = 0
        for prompt, count in zip(row.lengths, row.members, strict=False):
            tokens = sum(next(rest) for _ in range(count))  # at least two: the kernel treats single queries otherwise
            spans = -(-tokens // max(span, _QUERIES_PER_KEY * prompt))
            first_query, first_key = queries[-1], keys[-1]
            queries += [first_query + tokens * i // spans for i in range(1, spans + 1)]
            keys += [first_key + prompt * i for i in range(1, spans + 1)]
            index += [torch.arange(start, start + prompt)] * spans
            start += prompt
        device, longest = row.cu_seqlens.device, max(row.lengths)
        of_queries, of_keys = (moved(torch.tensor(x, dtype=torch.int32), device) for x in (queries, keys))
        longest_queries = max(b - a for a, b in pairwise(queries))
        return cls(
            within=Bounds(row.cu_seqlens, row.cu_seqlens, longest, longest, True),
            across=Bounds(of_queries, of_keys, longest_queries, max(map(len, index)), False),
            continuations=row.continuations,
            prompts=row.prompts,
            key_index=moved(torch.cat(index), device) if len(index) > len(row.members) else None,
        )


def shared_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, kernel: Flash = FLASH
) -> Tensor:
    """Causal attention within the sequences of a row that shares prompts.

    Args:
        query: [T, heads, D].
        key: [T, kv_heads, D].
        value: [T, kv_heads, D].
        layout: of the row, on the same device.
        scale: of the scores.
        kernel: the flash kernel, for half precision on CUDA; or a stand-in.

    Returns:
        [T, heads, D].
    """
    out: Tensor = _Shared.apply(query, key, value, layout, scale, kernel)
    return out


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, kernel: Flash
    ) -> Tensor:
        rest = layout.continuations
        out, lse = kernel.forward(query, key, value, layout.within, scale)
        keys, values = (_of_prompts(x, layout) for x in (key, value))
        merge = implementation(attention_merge, out.device)
        merge.merge_(out[rest], lse[:, rest], *kernel.forward(query[rest], keys, values, layout.across, scale))
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.layout, ctx.scale, ctx.kernel = layout, scale, kernel
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        layout, rest = ctx.layout, ctx.layout.continuations
        grads = ctx.kernel.backward(grad, query, key, value, out, lse, layout.within, ctx.scale)
        keys, values = (_of_prompts(x, layout) for x in (key, value))
        of_rest = (grad[rest], query[rest], keys, values, out[rest], lse[:, rest].contiguous())
        to_query, *others = ctx.kernel.backward(*of_rest, layout.across, ctx.scale)
        grads[0][rest].add_(to_query)
        for whole, part in zip(grads[1:], others, strict=True):
            _add_to_prompts_(whole, part, layout)
        return *grads, None, None, None


def _of_prompts(x: Tensor, layout: Layout) -> Tensor:
    return x[layout.prompts] if layout.key_index is None else x.index_select(0, layout.key_index)


def _add_to_prompts_(total: Tensor, part: Tensor, layout: Layout) -> None:
    """Adds the gradients of all copies of the prompts' keys, with one rounding."""
    prompts = total[layout.prompts]
    if layout.key_index is not None:
        wide = torch.promote_types(part.dtype, torch.float32)
        part = torch.zeros_like(prompts, dtype=wide).index_add_(0, layout.key_index, part.to(wide))
    prompts.add_(part)
