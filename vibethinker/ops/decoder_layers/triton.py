"""The steps between the matrix products of a decoder layer, each one pass over its data (Triton).

At one token a sequence every operation is a few microseconds long, so what counts is how many there are and how often
they pass over memory. Arithmetic is float32, results are rounded once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vibethinker.ops.decoder_layers.torch import Rotation


@triton.jit
def _add_norm(residual, update, weight, out, width, epsilon, adds: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < width
    x = tl.load(residual + row * width + column, mask=inside, other=0.0)
    if adds:
        x += tl.load(update + row * width + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(residual + row * width + column, x, mask=inside)
    scale = tl.rsqrt(tl.sum(x * x, 0) / width + epsilon)
    normed = x * scale * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, normed.to(out.dtype.element_ty), mask=inside)


def add_norm_(residual: Tensor, update: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
    """As the reference does."""
    rows, width = residual.shape
    out = torch.empty(rows, width, dtype=weight.dtype, device=residual.device)
    block = triton.next_power_of_2(width)
    adds = update is not None
    warps = min(16, max(1, block // 128))
    _add_norm[(rows,)](residual, update if adds else out, weight, out, width, epsilon, adds, block, num_warps=warps)
    return out


@triton.jit
def _rotate(
    qkv,
    cos,
    sin,
    positions,
    q_norm,
    k_norm,
    stride,
    heads,
    epsilon,
    norms: tl.constexpr,
    size: tl.constexpr,
    half: tl.constexpr,
):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, half)
    inside = column < size // 2
    first = qkv + row * stride + head * size + column
    second = first + size // 2
    x = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(second, mask=inside, other=0.0).to(tl.float32)
    if norms:
        of_query = inside & (head < heads)
        of_key = inside & (head >= heads)
        w = tl.load(q_norm + column, mask=of_query, other=0.0) + tl.load(k_norm + column, mask=of_key, other=0.0)
        q_norm, k_norm = q_norm + size // 2, k_norm + size // 2
        u = tl.load(q_norm + column, mask=of_query, other=0.0) + tl.load(k_norm + column, mask=of_key, other=0.0)
        scale = tl.rsqrt((tl.sum(x * x, 0) + tl.sum(y * y, 0)) / size + epsilon)
        x = x * scale * w.to(tl.float32)
        y = y * scale * u.to(tl.float32)
    angle = tl.load(positions + row) * (size // 2) + column
    c = tl.load(cos + angle, mask=inside, other=0.0)
    s = tl.load(sin + angle, mask=inside, other=0.0)
    tl.store(first, (x * c - y * s).to(qkv.dtype.element_ty), mask=inside)
    tl.store(second, (y * c + x * s).to(qkv.dtype.element_ty), mask=inside)


def rotate_(qkv: Tensor, positions: Tensor, heads: int, kv_heads: int, rotation: Rotation) -> None:
    """As the reference does."""
    size = qkv.shape[1] // (heads + 2 * kv_heads)
    cos, sin, norms = rotation
    q_norm, k_norm, epsilon = norms or (qkv, qkv, 0.0)
    half = triton.next_power_of_2(size // 2)
    grid, flags = (len(qkv), heads + kv_heads), (norms is not None, size, half)
    _rotate[grid](qkv, cos, sin, positions, q_norm, k_norm, qkv.stride(0), heads, epsilon, *flags, num_warps=1)


@triton.jit
def _swiglu(gate_up, out, width, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


def swiglu(gate_up: Tensor) -> Tensor:
    """As the reference does."""
    rows, width = len(gate_up), gate_up.shape[1] // 2
    out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
    block = min(triton.next_power_of_2(width), 1024)
    _swiglu[(rows, triton.cdiv(width, block))](gate_up, out, width, block, num_warps=4)
    return out
