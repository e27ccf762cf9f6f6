"""Attention over rows whose sequences share prompts: two calls of the flash kernel and a merge.

A completion's tokens attend to their own segment (1) and to their prompt (2). Softmax over both is the mixture of the
two softmaxes by their log-sum-exp:

    lse = ln(exp lse₁ + exp lse₂)        out = exp(lse₁ − lse) · out₁ + exp(lse₂ − lse) · out₂

Backward, the kernel makes P = exp(S − lse) anew and needs D = rowsum(dO ∘ O). Given the merged `lse` and `out`, its P
is the mixture's, so that each of two calls gives the gradients that pass through its keys, and they add up.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor

from vibethinker.ops import attention_merge
from vibethinker.packed.packing import PackedRow
from vibethinker.utils.async_copy import moved

_QUERIES: Final = 1024  # of a stretch
_QUERIES_PER_KEY: Final = 8


class Bounds(NamedTuple):
    """Which queries attend to which keys: [B+1] int32 each, where the B stretches begin and end, and the longest."""

    queries: Tensor
    keys: Tensor
    longest_queries: int
    longest_keys: int


class Kernel(Protocol):
    """Attention of query [Tq, heads, D] to key and value [Tk, kv_heads, D], stretch by stretch."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, bounds: Bounds, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """→ out [Tq, heads, D] and lse [heads, Tq]."""
        ...

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        bounds: Bounds,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """→ the gradients of query, key and value, from those of `out` [Tq, heads, D]."""
        ...


class Flash:
    """PyTorch's kernel. Its public function gives no way to go backward from a merged result."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, bounds: Bounds, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            query,
            key,
            value,
            *bounds,
            0.0,  # dropout
            causal,
            return_debug_mask=False,
            scale=scale,
            window_size_left=-1,
            window_size_right=0 if causal else -1,
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
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        to_query, to_key, to_value = torch.ops.aten._flash_attention_backward(
            grad,
            query,
            key,
            value,
            out,
            lse,
            *bounds,
            0.0,  # dropout, and its random state
            causal,
            torch.zeros(2, dtype=torch.uint64, device=query.device),
            torch.empty(0, device=query.device),
            scale=scale,
            window_size_left=-1,
            window_size_right=0 if causal else -1,
        )
        return to_query, to_key, to_value


FLASH = Flash()


class Calls(NamedTuple):
    """The two calls for a row.

    Attributes:
        within: the tokens of each segment, causal.
        across: those that continue a prompt, to all of it.
        continuations: the part of the row that has the second queries.
        prompts: the part that has their keys.
        places: [K] the row's place of each of these keys, where some are there more than once.
    """

    within: Bounds
    across: Bounds
    continuations: slice
    prompts: slice
    places: Tensor | None


def calls(row: PackedRow, most: int = _QUERIES) -> Calls:
    """The calls for a row that shares prompts, on its device.

    Backward, the kernel gives each block of 128 keys and each head to one processor, which goes through all of their
    queries: a short prompt of many completions would leave the others idle. The queries of a prompt are cut into
    stretches, and each has its keys for itself; of a long prompt, whose copies would cost more, into few.

    Args:
        row: with shared prompts.
        most: queries of a stretch, or `_QUERIES_PER_KEY` for each token of its prompt if that is more.
    """
    if not row.members:
        raise ValueError("the row shares no prompt")
    rest = iter(row.lengths[len(row.members) :])
    queries, keys, places = [0], [0], []
    start = 0
    for prompt, count in zip(row.lengths, row.members, strict=False):
        tokens = sum(next(rest) for _ in range(count))  # two at the least: the kernel treats single queries otherwise
        stretches = -(-tokens // max(most, _QUERIES_PER_KEY * prompt))
        first_query, first_key = queries[-1], keys[-1]
        queries += [first_query + tokens * i // stretches for i in range(1, stretches + 1)]
        keys += [first_key + prompt * i for i in range(1, stretches + 1)]
        places += [torch.arange(start, start + prompt)] * stretches
        start += prompt
    device, longest = row.cu_seqlens.device, max(row.lengths)
    of_queries, of_keys = (moved(torch.tensor(x, dtype=torch.int32), device) for x in (queries, keys))
    longest_queries = max(b - a for a, b in pairwise(queries))
    return Calls(
        within=Bounds(row.cu_seqlens, row.cu_seqlens, longest, longest),
        across=Bounds(of_queries, of_keys, longest_queries, max(map(len, places))),
        continuations=row.continuations,
        prompts=row.prompts,
        places=moved(torch.cat(places), device) if len(places) > len(row.members) else None,
    )


def shared_attention(
    query: Tensor, key: Tensor, value: Tensor, calls: Calls, scale: float, kernel: Kernel = FLASH
) -> Tensor:
    """Causal attention within the sequences of a row that shares prompts.

    Args:
        query: [T, heads, D].
        key: [T, kv_heads, D].
        value: [T, kv_heads, D].
        calls: for the row, on the same device.
        scale: of the scores.
        kernel: the flash kernel, in half precision on CUDA; or arithmetic that stands in for it.

    Returns:
        [T, heads, D].
    """
    out: Tensor = _Shared.apply(query, key, value, calls, scale, kernel)
    return out


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, calls: Calls, scale: float, kernel: Kernel
    ) -> Tensor:
        rest = calls.continuations
        out, lse = kernel.forward(query, key, value, calls.within, True, scale)
        keys, values = (_of_prompts(x, calls) for x in (key, value))
        merge = attention_merge.implementation(out.device)
        merge.merge_(out[rest], lse[:, rest], *kernel.forward(query[rest], keys, values, calls.across, False, scale))
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.calls, ctx.scale, ctx.kernel = calls, scale, kernel
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        calls, rest = ctx.calls, ctx.calls.continuations
        grads = ctx.kernel.backward(grad, query, key, value, out, lse, calls.within, True, ctx.scale)
        keys, values = (_of_prompts(x, calls) for x in (key, value))
        of_rest = (grad[rest], query[rest], keys, values, out[rest], lse[:, rest].contiguous())
        to_query, *others = ctx.kernel.backward(*of_rest, calls.across, False, ctx.scale)
        grads[0][rest].add_(to_query)
        for whole, part in zip(grads[1:], others, strict=True):
            _add_to_prompts_(whole, part, calls)
        return *grads, None, None, None


def _of_prompts(x: Tensor, calls: Calls) -> Tensor:
    return x[calls.prompts] if calls.places is None else x.index_select(0, calls.places)


def _add_to_prompts_(total: Tensor, part: Tensor, calls: Calls) -> None:
    """Adds the gradients of all copies of the prompts' keys, with one rounding."""
    prompts = total[calls.prompts]
    if calls.places is not None:
        wide = torch.promote_types(part.dtype, torch.float32)
        part = torch.zeros_like(prompts, dtype=wide).index_add_(0, calls.places, part.to(wide))
    prompts.add_(part)
