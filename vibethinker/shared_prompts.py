"""Attention over rows whose sequences share prompts: two calls of the flash kernel and a merge.

A completion's tokens attend to their own segment (1) and to their prompt (2). Softmax over both is the mixture of the
two softmaxes by their log-sum-exp:

    lse = ln(exp lse₁ + exp lse₂)        out = exp(lse₁ − lse) · out₁ + exp(lse₂ − lse) · out₂

Backward, the kernel makes P = exp(S − lse) anew and needs D = rowsum(dO ∘ O). Given the merged `lse` and `out`, its P
is the mixture's, so that each of two calls gives the gradients that pass through its keys, and they add up.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from vibethinker.packing import PackedRow


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


def shared_attention(
    query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float, kernel: Kernel = FLASH
) -> Tensor:
    """Causal attention within the sequences of a row that shares prompts.

    Args:
        query: [T, heads, D].
        key: [T, kv_heads, D].
        value: [T, kv_heads, D].
        row: with shared prompts, on the same device.
        scale: of the scores.
        kernel: the flash kernel, in half precision on CUDA; or arithmetic that stands in for it.

    Returns:
        [T, heads, D].
    """
    out: Tensor = _Shared.apply(query, key, value, row, scale, kernel)
    return out


def merge_(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """Mixes attention to other keys into `out` [N, heads, D] and `lse` [heads, N], in place, by their log-sum-exp."""
    if out.is_cuda:
        from vibethinker.kernels import merging

        merging.merge_(out, lse, other, other_lse)
        return
    weight = torch.sigmoid(other_lse - lse).T[..., None]  # exp(lse₂ − ln(exp lse₁ + exp lse₂))
    out.copy_(torch.lerp(out.to(lse.dtype), other.to(lse.dtype), weight))
    lse.copy_(torch.logaddexp(lse, other_lse))


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float, kernel: Kernel
    ) -> Tensor:
        within, across = _bounds(row)
        prompts, rest = row.prompts, row.continuations
        out, lse = kernel.forward(query, key, value, within, True, scale)
        merge_(
            out[rest], lse[:, rest], *kernel.forward(query[rest], key[prompts], value[prompts], across, False, scale)
        )
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.row, ctx.scale, ctx.kernel = row, scale, kernel
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        within, across = _bounds(ctx.row)
        prompts, rest = ctx.row.prompts, ctx.row.continuations
        grads = ctx.kernel.backward(grad, query, key, value, out, lse, within, True, ctx.scale)
        of_rest = (grad[rest], query[rest], key[prompts], value[prompts], out[rest], lse[:, rest].contiguous())
        others = ctx.kernel.backward(*of_rest, across, False, ctx.scale)
        for whole, part, some in zip(grads, (rest, prompts, prompts), others, strict=True):
            whole[part].add_(some)
        return *grads, None, None, None


def _bounds(row: PackedRow) -> tuple[Bounds, Bounds]:
    """Of the tokens within their segments, and of those that continue the shared prompts to these.

    The second have two queries at the least for every prompt: none is empty, and the kernel orders its results in
    another way where no stretch has more than one.
    """
    if row.cu_members is None:
        raise ValueError("the row shares no prompt")
    prompts, longest = len(row.members), max(row.lengths)
    rest = iter(row.lengths[prompts:])
    most = max(sum(next(rest) for _ in range(count)) for count in row.members)
    within = Bounds(row.cu_seqlens, row.cu_seqlens, longest, longest)
    return within, Bounds(row.cu_members, row.cu_seqlens[: prompts + 1], most, max(row.lengths[:prompts]))
