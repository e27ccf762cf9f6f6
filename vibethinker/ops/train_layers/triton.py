"""The steps between the matrix products of a decoder layer in training, forward and backward (Triton).

These steps do next to no arithmetic, so each is one pass over its data: sums of branches, their norm and the casts to
half precision go together, and so do the gradients of all that read a norm. Arithmetic is float32, results are rounded
once. Any leading dimensions; tensors that are not contiguous are copied first.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 2048  # that a program holds of each tensor at a time; a longer row is held whole
_PER_WARP = 256
_RESIDENT = 4  # programs that a multiprocessor runs at one time
_STAGES = 1  # tiles whose loads such a program has under way


@triton.jit(do_not_specialize=["rows"])
def _add_norm(
    residual,
    update,
    weight,
    total,
    out,
    scales,
    rows,
    width,
    epsilon,
    adds: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0) * tile + tl.arange(0, tile)
    column = tl.arange(0, block)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    where = row.to(tl.int64)[:, None] * width + column[None, :]
    x = tl.load(residual + where, mask=inside, other=0.0).to(tl.float32)
    if adds:
        x += tl.load(update + where, mask=inside, other=0.0).to(tl.float32)
        rounded = x.to(total.dtype.element_ty)  # the norm is of what is kept
        tl.store(total + where, rounded, mask=inside)
        x = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 1) / width + epsilon)
    w = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    tl.store(out + where, (x * scale[:, None] * w[None, :]).to(out.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale, mask=row < rows)


@triton.jit(do_not_specialize=["rows"])
def _add_norm_backward(
    total,
    weight,
    scales,
    to_total,
    to_first,
    to_second,
    to_third,
    to_residual,
    to_update,
    to_weight,
    rows,
    width,
    passes: tl.constexpr,
    readers: tl.constexpr,
    casts: tl.constexpr,
    trains: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
    stages: tl.constexpr,
):
    program = tl.program_id(0)
    column = tl.arange(0, block)
    w = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    of_weight = tl.zeros([tile, block], tl.float32)
    for start in tl.range(program * tile, rows, tl.num_programs(0) * tile, num_stages=stages):
        row = start + tl.arange(0, tile)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        where = row.to(tl.int64)[:, None] * width + column[None, :]
        scale = tl.load(scales + row, mask=row < rows, other=0.0)[:, None]
        x = tl.load(total + where, mask=inside, other=0.0).to(tl.float32) * scale
        grad = tl.load(to_first + where, mask=inside, other=0.0).to(tl.float32)
        if readers > 1:
            grad += tl.load(to_second + where, mask=inside, other=0.0).to(tl.float32)
        if readers > 2:
            grad += tl.load(to_third + where, mask=inside, other=0.0).to(tl.float32)
        if passes:  # asked for early: the sum below waits for all warps
            passed = tl.load(to_total + where, mask=inside, other=0.0).to(tl.float32)
        if trains:
            of_weight += grad * x
        grad *= w
        grad = scale * (grad - x * (tl.sum(grad * x, 1) / width)[:, None])
        if passes:
            grad += passed
        tl.store(to_residual + where, grad.to(to_residual.dtype.element_ty), mask=inside)
        if casts:
            tl.store(to_update + where, grad.to(to_update.dtype.element_ty), mask=inside)
    if trains:
        tl.store(to_weight + program.to(tl.int64) * width + column, tl.sum(of_weight, 0), mask=column < width)


def _shape(width: int) -> tuple[int, int, int]:
    """Rows that a program holds at a time, their length as a power of two, and warps."""
    block = triton.next_power_of_2(width)
    tile = max(1, _ELEMENTS // block)
    return tile, block, min(max(tile * block // _PER_WARP, 1), 16)


def _programs(tiles: int, device: torch.device) -> int:
    """As many as run at one time: each goes on with further tiles, and sums the weight's gradient over them."""
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    return min(tiles, _RESIDENT * multiprocessors)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, update: Tensor | None, weight: Tensor, epsilon: float, dtype: Any, readers: int
    ) -> tuple[Tensor, ...]:
        if update is not None and update.shape != residual.shape:
            raise ValueError(f"add_norm: an update of shape {[*update.shape]} for a residual of {[*residual.shape]}")
        residual, total = residual.contiguous(), residual
        width = residual.shape[-1]
        rows = residual.numel() // width
        if update is not None:
            update = update.contiguous()
            total = torch.empty_like(residual, dtype=torch.promote_types(residual.dtype, update.dtype))
        out = torch.empty_like(residual, dtype=dtype)
        scales = torch.empty(rows, dtype=torch.float32, device=residual.device)
        tile, block, warps = _shape(width)
        if rows:
            added = residual if update is None else update
            tensors = (residual, added, weight, total, out, scales)
            flags = (update is not None, tile, block)
            _add_norm[(triton.cdiv(rows, tile),)](*tensors, rows, width, epsilon, *flags, num_warps=warps)
        ctx.save_for_backward(residual if update is None else total, weight, scales)
        ctx.dtypes = residual.dtype, None if update is None else update.dtype
        ctx.set_materialize_grads(False)
        return total, out, *(out.detach() for _ in range(readers - 1))

    @staticmethod
    def backward(ctx: Any, to_total: Tensor | None, *to_readers: Tensor | None) -> tuple[Any, ...]:
        total, weight, scales = ctx.saved_tensors
        of_residual, of_update = ctx.dtypes
        grads = [grad.contiguous() for grad in to_readers if grad is not None] or [torch.zeros_like(total)]
        to_total = None if to_total is None else to_total.contiguous()
        rows, width = len(scales), total.shape[-1]
        tile, block, warps = _shape(width)
        programs = _programs(triton.cdiv(rows, tile), total.device)
        to_residual = torch.empty_like(total, dtype=of_residual)
        casts = of_update is not None and of_update != of_residual
        to_update = torch.empty_like(total, dtype=of_update) if casts else to_residual
        trains = ctx.needs_input_grad[2]
        partial = scales.new_empty(programs if trains else 0, width)
        if rows:
            read = (grads * 3)[:3]
            tensors = (total, weight, scales, total if to_total is None else to_total, *read, to_residual, to_update)
            flags = (to_total is not None, len(grads), casts, trains, tile, block, _STAGES)
            _add_norm_backward[(programs,)](*tensors, partial, rows, width, *flags, num_warps=warps)
        to_weight = partial.sum(0).to(weight.dtype) if trains else None
        return to_residual, None if of_update is None else to_update, to_weight, None, None, None


def add_norm(
    residual: Tensor, update: Tensor | None, weight: Tensor, epsilon: float, dtype: torch.dtype, readers: int = 1
) -> tuple[Tensor, ...]:
    """As the reference does."""
    out: tuple[Tensor, ...] = _AddNorm.apply(residual, update, weight, epsilon, dtype, readers)
    return out


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
    """As the reference does."""
    return add_norm(x, None, weight, epsilon, dtype)[1]


@triton.jit(do_not_specialize=["rows"])
def _rotate(
    x,
    out,
    cos,
    sin,
    rows,
    stride,
    heads: tl.constexpr,
    size: tl.constexpr,
    back: tl.constexpr,
    tile: tl.constexpr,
    half: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    column = tl.arange(0, half)
    inside = (row < rows)[:, None] & (column < size // 2)[None, :]
    angle = (row // heads)[:, None] * stride + column[None, :]
    c = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
    if back:
        s = -s
    first = row[:, None] * size + column[None, :]
    second = first + size // 2
    a = tl.load(x + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + second, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + first, (a * c - b * s).to(out.dtype.element_ty), mask=inside)
    tl.store(out + second, (b * c + a * s).to(out.dtype.element_ty), mask=inside)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    heads, size = x.shape[-2:]
    rows = x.numel() // size
    half = triton.next_power_of_2(size // 2)
    tile = max(1, _ELEMENTS // 2 // half)
    if rows:
        flags = (heads, size, back, tile, half)
        _rotate[(triton.cdiv(rows, tile),)](x, out, cos, sin, rows, cos.stride(-2), *flags, num_warps=4)
    return out


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, back=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _rotated(grad, *ctx.saved_tensors, back=True), None, None


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """As the reference does."""
    cos, sin = cos.contiguous(), sin.contiguous()
    return _Rotate.apply(query, cos, sin), _Rotate.apply(key, cos, sin)


@triton.jit
def _swiglu(gate, up, out, count, block: tl.constexpr):
    column = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = column < count
    g = tl.load(gate + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + column, (g * tl.sigmoid(g) * u).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_backward(gate, up, grad, to_gate, to_up, count, block: tl.constexpr):
    column = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = column < count
    g = tl.load(gate + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + column, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(grad + column, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(g)
    silu = g * sigmoid
    tl.store(to_gate + column, (d * u * (sigmoid + silu * (1 - sigmoid))).to(to_gate.dtype.element_ty), mask=inside)
    tl.store(to_up + column, (d * silu).to(to_up.dtype.element_ty), mask=inside)


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        if gate.shape != up.shape:
            raise ValueError(f"swiglu: gate of shape {[*gate.shape]}, up of {[*up.shape]}")
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate, dtype=torch.promote_types(gate.dtype, up.dtype))
        if count := gate.numel():
            _swiglu[(triton.cdiv(count, _ELEMENTS),)](gate, up, out, count, _ELEMENTS, num_warps=4)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        to_gate, to_up = torch.empty_like(gate), torch.empty_like(up)
        if count := gate.numel():
            tensors = (gate, up, grad.contiguous(), to_gate, to_up)
            _swiglu_backward[(triton.cdiv(count, _ELEMENTS),)](*tensors, count, _ELEMENTS, num_warps=4)
        return to_gate, to_up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """As the reference does."""
    out: Tensor = _Swiglu.apply(gate, up)
    return out
