"""One new token of each sequence against what the cache holds of it (Triton)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vibethinker.ops.decode_attention.torch import Split
from vibethinker.ops.decoder_layers.torch import Rotation

ROTATES = True

_LOG2_E = 1.4426950408889634
_COPIED = 8192  # elements a program copies
_TILE, _WARPS, _STAGES = 64, 4, 2  # of the attention kernel: tokens at a time, warps, loads under way


@triton.jit
def _rotated(
    heads,
    real,
    norm,
    cos,
    sin,
    epsilon,
    norms: tl.constexpr,
    size: tl.constexpr,
    columns: tl.constexpr,
):
    """Heads at these pointers [H, 1], normalised if `norms` and rotated: float32 [H, columns]."""
    column = tl.arange(0, columns)
    partner = (column + size // 2) % size
    x = tl.load(heads + column[None, :], mask=real, other=0.0).to(tl.float32)
    y = tl.load(heads + partner[None, :], mask=real, other=0.0).to(tl.float32)
    if norms:
        scale = tl.rsqrt(tl.sum(x * x, 1) / size + epsilon)[:, None]
        x = x * scale * tl.load(norm + column, mask=column < size, other=0.0).to(tl.float32)[None, :]
        y = y * scale * tl.load(norm + partner).to(tl.float32)[None, :]
    angle = column % (size // 2)
    c = tl.load(cos + angle, mask=column < size, other=0.0)
    s = tl.load(sin + angle, mask=column < size, other=0.0) * tl.where(column < size // 2, -1.0, 1.0)
    return x * c[None, :] + y * s[None, :]


@triton.jit
def _attend(
    query,
    key,
    value,
    prompt_keys,
    prompt_values,
    keys,
    values,
    lengths,
    prompts,
    prompt_lengths,
    out,
    sums,
    cos,
    sin,
    q_norm,
    k_norm,
    epsilon,
    scale,
    query_stride,
    key_stride,
    value_stride,
    prompt_room,
    room,
    heads,
    kv_heads,
    chunk,
    splits,
    direct: tl.constexpr,
    rotates: tl.constexpr,
    norms: tl.constexpr,
    group: tl.constexpr,
    size: tl.constexpr,
    rows_of_q: tl.constexpr,
    columns: tl.constexpr,
    block: tl.constexpr,
    precision: tl.constexpr,
):
    row, head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row).to(tl.int32)
    start = split * chunk
    if (split == 0) | (start < length):
        of_prompt = tl.load(prompt_lengths + row).to(tl.int32)
        member = tl.arange(0, rows_of_q)
        column = tl.arange(0, columns)
        inside = (column < size)[None, :]
        real = (member < group)[:, None] & inside
        q_heads = (head * group + member)[:, None] * size
        q_row = query + row * query_stride + q_heads
        # the new token, which split 0 also takes into the cache
        k_row = key + row * key_stride + head * size + tl.zeros([1, 1], tl.int32)
        new_v = tl.load(value + row * value_stride + head * size + column[None, :], mask=inside, other=0.0)
        if rotates:
            turn = length.to(tl.int64) * (size // 2)
            q = _rotated(q_row, real, q_norm, cos + turn, sin + turn, epsilon, norms, size, columns)
            new_k = _rotated(k_row, inside, k_norm, cos + turn, sin + turn, epsilon, norms, size, columns)
            q, new_k = q.to(query.dtype.element_ty), new_k.to(key.dtype.element_ty)
        else:
            q = tl.load(q_row + column[None, :], mask=real, other=0.0)
            new_k = tl.load(k_row + column[None, :], mask=inside, other=0.0)
        base = (row * kv_heads + head) * room * size
        prompt_base = (tl.load(prompts + row) * kv_heads + head) * prompt_room * size
        own = tl.sum(q.to(tl.float32) * new_k.to(tl.float32), 1) * scale
        first = split == 0
        if first:
            new = base + (length - of_prompt).to(tl.int64) * size + column[None, :]
            tl.store(keys + new, new_k, mask=inside)
            tl.store(values + new, new_v, mask=inside)
        highest = tl.where(first, own, float("-inf"))
        total = tl.zeros([rows_of_q], tl.float32) + tl.where(first, 1.0, 0.0)
        mixed = tl.zeros([rows_of_q, columns], tl.float32) + tl.where(first, new_v.to(tl.float32), 0.0)
        # one loop over the prompt's tokens and then the sequence's own, so that loads never wait at the border
        end = tl.minimum(start + chunk, length)
        to_prompt = tl.minimum(end, of_prompt)
        tiles_of_prompt = tl.cdiv(tl.maximum(to_prompt - start, 0), block)
        from_own, to_own = tl.maximum(start, of_prompt) - of_prompt, end - of_prompt
        for tile in range(0, tiles_of_prompt + tl.cdiv(tl.maximum(to_own - from_own, 0), block)):
            in_prompt = tile < tiles_of_prompt
            token = tl.where(in_prompt, start + tile * block, from_own + (tile - tiles_of_prompt) * block)
            at = token + tl.arange(0, block)
            real_token = at < tl.where(in_prompt, to_prompt, to_own)
            seen = real_token[:, None] & inside
            where = at.to(tl.int64)[:, None] * size + column[None, :]
            k = tl.load(tl.where(in_prompt, prompt_keys + prompt_base, keys + base) + where, mask=seen, other=0.0)
            score = tl.dot(q, tl.trans(k), input_precision=precision) * scale
            score = tl.where(real_token[None, :], score, float("-inf"))
            above = tl.maximum(highest, tl.max(score, 1))
            weight = tl.exp2(score - above[:, None])
            shrink = tl.exp2(highest - above)
            total = total * shrink + tl.sum(weight, 1)
            v = tl.load(tl.where(in_prompt, prompt_values + prompt_base, values + base) + where, mask=seen, other=0.0)
            mixed = tl.dot(weight.to(v.dtype), v, mixed * shrink[:, None], input_precision=precision)
            highest = above
        if direct:
            mixed = (mixed / total[:, None]).to(out.dtype.element_ty)
            tl.store(out + row * heads * size + q_heads + column[None, :], mixed, mask=real)
        else:
            part = (row * heads + head * group + member) * splits + split
            tl.store(out + part[:, None] * size + column[None, :], mixed / total[:, None], mask=real)
            tl.store(sums + part, highest + tl.log2(total), mask=member < group)


@triton.jit
def _combine(parts, sums, lengths, out, heads, chunk, splits: tl.constexpr, size: tl.constexpr, columns: tl.constexpr):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    length = tl.load(lengths + row).to(tl.int32)
    column = tl.arange(0, columns)
    split = tl.arange(0, splits)
    used = (split == 0) | (split * chunk < length)
    part = (row * heads + head) * splits
    log_sum = tl.load(sums + part + split, mask=used, other=float("-inf"))
    weight = tl.exp2(log_sum - tl.max(log_sum, 0))
    weight = weight / tl.sum(weight, 0)
    where = (part + split)[:, None] * size + column[None, :]
    mixed = tl.load(parts + where, mask=used[:, None] & (column < size)[None, :], other=0.0)
    mixed = tl.sum(mixed * weight[:, None], 0)
    tl.store(out + (row * heads + head) * size + column, mixed.to(out.dtype.element_ty), mask=column < size)


def plan(rows: tuple[Tensor, Tensor, Tensor], completions: Tensor, split: Split, previous: Split | None) -> Split:
    """As the reference does."""
    return split


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prompts: Tensor,
    completions: Tensor,
    rows: tuple[Tensor, Tensor, Tensor],
    scale: float,
    plan: Split,
    rotation: Rotation | None = None,
) -> Tensor:
    """Flash attention (arXiv 2205.14135) with the query heads that share keys in one program, and Flash-Decoding.

    Programs of one prompt read it at the same time, so that only the first of them waits for memory.
    """
    count, heads, size = query.shape
    kv_heads, lengths, (splits, chunk) = key.shape[1], rows[0], plan
    query, key, value = (x if x.stride()[1:] == (size, 1) else x.contiguous() for x in (query, key, value))
    group = heads // kv_heads
    out = torch.empty(count, heads, size, dtype=query.dtype, device=query.device)
    parts, sums = out, out
    if splits > 1:
        parts = torch.empty(count, heads, splits, size, dtype=torch.float32, device=query.device)
        sums = torch.empty(count, heads, splits, dtype=torch.float32, device=query.device)
    columns = max(16, triton.next_power_of_2(size))  # the least a matrix product takes
    cos, sin, norms = rotation or (out, out, None)
    q_norm, k_norm, epsilon = norms or (out, out, 0.0)
    tensors = (query, key, value, *prompts, *completions, *rows, parts, sums, cos, sin, q_norm, k_norm)
    strides = query.stride(0), key.stride(0), value.stride(0), prompts[0].shape[2], completions[0].shape[2]
    sizes = heads, kv_heads, chunk, splits
    flags = splits == 1, rotation is not None, norms is not None
    blocks = group, size, max(16, triton.next_power_of_2(group)), columns, _TILE
    _attend[(count, kv_heads, splits)](
        *tensors,
        epsilon,
        scale * _LOG2_E,
        *strides,
        *sizes,
        *flags,
        *blocks,
        "ieee",
        num_warps=_WARPS,
        num_stages=_STAGES,
    )
    if splits > 1:
        _combine[(count, heads)](parts, sums, lengths, out, heads, chunk, splits, size, columns, num_warps=4)
    return out


@triton.jit
def _copy(store, sources, targets, lengths, heads, room, rows, size: tl.constexpr, block: tl.constexpr):
    """One program: some tokens of one head of one layer, for one pair of rows."""
    pair, plane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = tl.program_id(2) * block + tl.arange(0, block)
    inside = column < tl.load(lengths + pair) * size
    layer, head = plane // heads, plane % heads
    source = ((layer * rows + tl.load(sources + pair)) * heads + head) * room * size
    target = ((layer * rows + tl.load(targets + pair)) * heads + head) * room * size
    tl.store(store + target + column, tl.load(store + source + column, mask=inside), mask=inside)


def copy_rows_(store: Tensor, sources: Tensor, targets: Tensor, lengths: Tensor, longest: int) -> None:
    """As the reference does."""
    rows, heads, room, size = store.shape[-4:]
    if not len(sources) or not longest:
        return
    planes = store.numel() // (rows * room * size)
    grid = (len(sources), planes, triton.cdiv(longest * size, _COPIED))
    _copy[grid](store, sources, targets, lengths, heads, room, rows, size, _COPIED, num_warps=8)
