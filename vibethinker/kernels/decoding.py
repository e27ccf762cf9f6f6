"""The steps of a decoder layer for inference, each one pass over its data (Triton).

At one token a sequence every operation is a few microseconds long, so what counts is how many there are and how often
they pass over memory. Arithmetic is float32, results are rounded once.
"""

# Triton's language is no Python that a type checker could follow.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vibethinker.rollout.steps import Rotation

_LOG2_E = 1.4426950408889634
_COPIED = 8192  # elements a program copies
_TILE, _WARPS, _STAGES = 64, 4, 2  # of the attention kernel: tokens at a time, warps, loads under way


@triton.jit
def _add_norm(residual, update, weight, out, width, epsilon, adds: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, block)
    inside = place < width
    x = tl.load(residual + row * width + place, mask=inside, other=0.0)
    if adds:
        x += tl.load(update + row * width + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(residual + row * width + place, x, mask=inside)
    scale = tl.rsqrt(tl.sum(x * x, 0) / width + epsilon)
    normed = x * scale * tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + place, normed.to(out.dtype.element_ty), mask=inside)


def add_norm_(residual: Tensor, update: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
    """Adds an update [T, H] to the float32 residual stream [T, H], in place, and gives its RMS norm.

    The norm is in the weight's precision. Without an update the stream stays as it is.
    """
    rows, width = residual.shape
    out = torch.empty(rows, width, dtype=weight.dtype, device=residual.device)
    block = triton.next_power_of_2(width)
    adds = update is not None
    _add_norm[(rows,)](residual, update if adds else out, weight, out, width, epsilon, adds, block, num_warps=4)
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
    place = tl.arange(0, half)
    inside = place < size // 2
    first = qkv + row * stride + head * size + place
    second = first + size // 2
    x = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(second, mask=inside, other=0.0).to(tl.float32)
    if norms:
        of_query = inside & (head < heads)
        of_key = inside & (head >= heads)
        w = tl.load(q_norm + place, mask=of_query, other=0.0) + tl.load(k_norm + place, mask=of_key, other=0.0)
        q_norm, k_norm = q_norm + size // 2, k_norm + size // 2
        u = tl.load(q_norm + place, mask=of_query, other=0.0) + tl.load(k_norm + place, mask=of_key, other=0.0)
        scale = tl.rsqrt((tl.sum(x * x, 0) + tl.sum(y * y, 0)) / size + epsilon)
        x = x * scale * w.to(tl.float32)
        y = y * scale * u.to(tl.float32)
    angle = tl.load(positions + row) * (size // 2) + place
    c = tl.load(cos + angle, mask=inside, other=0.0)
    s = tl.load(sin + angle, mask=inside, other=0.0)
    tl.store(first, (x * c - y * s).to(qkv.dtype.element_ty), mask=inside)
    tl.store(second, (y * c + x * s).to(qkv.dtype.element_ty), mask=inside)


def rotate_(qkv: Tensor, positions: Tensor, heads: int, kv_heads: int, rotation: Rotation) -> None:
    """Rotates queries and keys by their positions, in place.

    Args:
        qkv: [T, (heads + 2·kv_heads)·D], the queries, keys and values of each token.
        positions: int64 [T].
        heads: of the queries.
        kv_heads: of keys and values.
        rotation: how.
    """
    size = qkv.shape[1] // (heads + 2 * kv_heads)
    cos, sin, norms = rotation
    q_norm, k_norm, epsilon = norms or (qkv, qkv, 0.0)
    half = triton.next_power_of_2(size // 2)
    grid, flags = (len(qkv), heads + kv_heads), (norms is not None, size, half)
    _rotate[grid](qkv, cos, sin, positions, q_norm, k_norm, qkv.stride(0), heads, epsilon, *flags, num_warps=1)


@triton.jit
def _swiglu(gate_up, out, width, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * block + tl.arange(0, block)
    inside = place < width
    gate = tl.load(gate_up + row * 2 * width + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + place, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


def swiglu(gate_up: Tensor) -> Tensor:
    """[T, 2·I], gate and up side by side → silu(gate) · up [T, I]."""
    rows, width = len(gate_up), gate_up.shape[1] // 2
    out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
    block = min(triton.next_power_of_2(width), 1024)
    _swiglu[(rows, triton.cdiv(width, block))](gate_up, out, width, block, num_warps=4)
    return out


@triton.jit
def _fold(
    q,
    keys,
    values,
    start,
    end,
    scale,
    highest,
    total,
    mixed,
    size: tl.constexpr,
    columns: tl.constexpr,
    block: tl.constexpr,
    precision: tl.constexpr,
):
    """Takes tokens from `start` to `end` of one head into the running softmax."""
    place = tl.arange(0, columns)
    for token in range(start, end, block):
        at = token + tl.arange(0, block)
        seen = (at < end)[:, None] & (place < size)[None, :]
        where = at.to(tl.int64)[:, None] * size + place[None, :]
        k = tl.load(keys + where, mask=seen, other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision=precision) * scale
        score = tl.where((at < end)[None, :], score, float("-inf"))
        above = tl.maximum(highest, tl.max(score, 1))
        weight = tl.exp2(score - above[:, None])
        shrink = tl.exp2(highest - above)
        total = total * shrink + tl.sum(weight, 1)
        v = tl.load(values + where, mask=seen, other=0.0)
        mixed = mixed * shrink[:, None]
        mixed = tl.dot(weight.to(v.dtype), v, mixed, input_precision=precision)
        highest = above
    return highest, total, mixed


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
    share,
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
    start = split * share
    if (split == 0) | (start < length):
        of_prompt = tl.load(prompt_lengths + row).to(tl.int32)
        member = tl.arange(0, rows_of_q)
        place = tl.arange(0, columns)
        real = (member < group)[:, None] & (place < size)[None, :]
        q_head = (head * group + member)[:, None] * size
        q_place = q_head + place[None, :]
        q = tl.load(query + row * query_stride + q_place, mask=real, other=0.0)
        # the new token, which split 0 also takes into the cache
        k_row = key + row * key_stride + head * size
        k = tl.load(k_row + place, mask=place < size, other=0.0)
        v = tl.load(value + row * value_stride + head * size + place, mask=place < size, other=0.0)
        if rotates:
            partner = (place + size // 2) % size
            angle = length.to(tl.int64) * (size // 2) + place % (size // 2)
            c = tl.load(cos + angle, mask=place < size, other=0.0)
            s = tl.load(sin + angle, mask=place < size, other=0.0) * tl.where(place < size // 2, -1.0, 1.0)
            q_other = tl.load(query + row * query_stride + q_head + partner[None, :], mask=real, other=0.0)
            k_other = tl.load(k_row + partner, mask=place < size, other=0.0)
            x, y = q.to(tl.float32), q_other.to(tl.float32)
            a, b = k.to(tl.float32), k_other.to(tl.float32)
            if norms:
                q_scale = tl.rsqrt(tl.sum(x * x, 1) / size + epsilon)
                k_scale = tl.rsqrt(tl.sum(a * a, 0) / size + epsilon)
                w = tl.load(q_norm + place, mask=place < size, other=0.0).to(tl.float32)
                w_partner = tl.load(q_norm + partner).to(tl.float32)
                x, y = x * q_scale[:, None] * w[None, :], y * q_scale[:, None] * w_partner[None, :]
                w = tl.load(k_norm + place, mask=place < size, other=0.0).to(tl.float32)
                w_partner = tl.load(k_norm + partner).to(tl.float32)
                a, b = a * k_scale * w, b * k_scale * w_partner
            q = (x * c[None, :] + y * s[None, :]).to(query.dtype.element_ty)
            k = (a * c + b * s).to(key.dtype.element_ty)
        base = (row * kv_heads + head) * room * size
        prompt_base = (tl.load(prompts + row) * kv_heads + head) * prompt_room * size
        own = tl.sum(q.to(tl.float32) * k.to(tl.float32)[None, :], 1) * scale
        first = split == 0
        if first:
            new = base + (length - of_prompt).to(tl.int64) * size + place
            tl.store(keys + new, k, mask=place < size)
            tl.store(values + new, v, mask=place < size)
        highest = tl.where(first, own, float("-inf"))
        total = tl.zeros([rows_of_q], tl.float32) + tl.where(first, 1.0, 0.0)
        mixed = tl.zeros([rows_of_q, columns], tl.float32) + tl.where(first, v.to(tl.float32), 0.0)[None, :]
        end = tl.minimum(start + share, length)
        highest, total, mixed = _fold(
            q,
            prompt_keys + prompt_base,
            prompt_values + prompt_base,
            start,
            tl.minimum(end, of_prompt),
            scale,
            highest,
            total,
            mixed,
            size,
            columns,
            block,
            precision,
        )
        highest, total, mixed = _fold(
            q,
            keys + base,
            values + base,
            tl.maximum(start, of_prompt) - of_prompt,
            end - of_prompt,
            scale,
            highest,
            total,
            mixed,
            size,
            columns,
            block,
            precision,
        )
        if direct:
            tl.store(out + row * heads * size + q_place, (mixed / total[:, None]).to(out.dtype.element_ty), mask=real)
        else:
            part = (row * heads + head * group + member) * splits + split
            tl.store(out + part[:, None] * size + place[None, :], mixed / total[:, None], mask=real)
            tl.store(sums + part, highest + tl.log2(total), mask=member < group)


@triton.jit
def _combine(parts, sums, lengths, out, heads, share, splits: tl.constexpr, size: tl.constexpr, columns: tl.constexpr):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    length = tl.load(lengths + row).to(tl.int32)
    place = tl.arange(0, columns)
    split = tl.arange(0, splits)
    used = (split == 0) | (split * share < length)
    part = (row * heads + head) * splits
    log_sum = tl.load(sums + part + split, mask=used, other=float("-inf"))
    weight = tl.exp2(log_sum - tl.max(log_sum, 0))
    weight = weight / tl.sum(weight, 0)
    where = (part + split)[:, None] * size + place[None, :]
    mixed = tl.load(parts + where, mask=used[:, None] & (place < size)[None, :], other=0.0)
    mixed = tl.sum(mixed * weight[:, None], 0)
    tl.store(out + (row * heads + head) * size + place, mixed.to(out.dtype.element_ty), mask=place < size)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    of_prompts: tuple[Tensor, Tensor],
    of_completions: tuple[Tensor, Tensor],
    rows: tuple[Tensor, Tensor, Tensor],
    scale: float,
    splits: int,
    share: int,
    rotation: Rotation | None = None,
) -> Tensor:
    """One new token of each of `R` sequences: into the cache with it, and its attention over what is there.

    Flash attention (arXiv 2205.14135) with the query heads that share keys in one program and long sequences in
    several, whose results are then combined (Flash-Decoding). Prompts are read from where several sequences share them,
    so that only the first of these waits for memory.

    Args:
        query: [R, heads, D].
        key, value: [R, kv_heads, D] of the new token.
        of_prompts: keys and values of prompts, each [prompts, kv_heads, M, D], contiguous.
        of_completions: keys and values of completions, each [≥ R, kv_heads, N, D], contiguous; row i is sequence i's.
        rows: int64 [R] each: tokens in the cache before this one, the prompt's included; which prompt; its tokens.
        scale: of the scores.
        splits: programs a sequence's tokens are dealt to, a power of two.
        share: tokens each takes; splits · share must reach the longest sequence.
        rotation: what query and key have still to go through; a token's position is its sequence's length.

    Returns:
        [R, heads, D] in the query's precision.
    """
    count, heads, size = query.shape
    kv_heads, lengths = key.shape[1], rows[0]
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
    _attend[(count, kv_heads, splits)](
        query,
        key,
        value,
        *of_prompts,
        *of_completions,
        *rows,
        parts,
        sums,
        cos,
        sin,
        q_norm,
        k_norm,
        epsilon,
        scale * _LOG2_E,
        query.stride(0),
        key.stride(0),
        value.stride(0),
        of_prompts[0].shape[2],
        of_completions[0].shape[2],
        heads,
        kv_heads,
        share,
        splits,
        splits == 1,
        rotation is not None,
        norms is not None,
        group,
        size,
        max(16, triton.next_power_of_2(group)),
        columns,
        _TILE,
        "ieee",
        num_warps=_WARPS,
        num_stages=_STAGES,
    )
    if splits > 1:
        _combine[(count, heads)](parts, sums, lengths, out, heads, share, splits, size, columns, num_warps=4)
    return out


@triton.jit
def _copy(store, sources, targets, lengths, heads, room, rows, size: tl.constexpr, block: tl.constexpr):
    """One program: some tokens of one head of one layer, for one pair of rows."""
    pair, plane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    place = tl.program_id(2) * block + tl.arange(0, block)
    inside = place < tl.load(lengths + pair) * size
    layer, head = plane // heads, plane % heads
    source = ((layer * rows + tl.load(sources + pair)) * heads + head) * room * size
    target = ((layer * rows + tl.load(targets + pair)) * heads + head) * room * size
    tl.store(store + target + place, tl.load(store + source + place, mask=inside), mask=inside)


def copy_rows_(store: Tensor, sources: Tensor, targets: Tensor, lengths: Tensor, longest: int) -> None:
    """Copies tokens of some rows of a cache onto others, no row being both.

    Args:
        store: [..., rows, heads, M, D], contiguous.
        sources, targets: int64 [C].
        lengths: int64 [C], tokens to copy.
        longest: the largest of them.
    """
    rows, heads, room, size = store.shape[-4:]
    if not len(sources) or not longest:
        return
    planes = store.numel() // (rows * room * size)
    grid = (len(sources), planes, triton.cdiv(longest * size, _COPIED))
    _copy[grid](store, sources, targets, lengths, heads, room, rows, size, _COPIED, num_warps=8)


@triton.jit
def _advance(
    state,
    counters,
    drawn_tokens,
    drawn_logp,
    drawn_under,
    stops,
    tokens,
    logp,
    under,
    rows,
    slots,
    room,
    grows: tl.constexpr,
    known_stops: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.arange(0, block)
    inside = row < rows
    step = tl.load(counters) + 1
    ended = tl.load(state + 6 * slots + row, mask=inside, other=1)
    alive = inside & (ended == 0)
    made = tl.load(state + 2 * slots + row, mask=alive, other=0)
    token = tl.load(drawn_tokens + row, mask=alive, other=0)
    value = tl.load(drawn_logp + row, mask=alive, other=0.0)
    where = row.to(tl.int64) * room + made
    tl.store(tokens + where, token.to(tl.int32), mask=alive)
    tl.store(logp + where, value, mask=alive)
    tl.store(under + where, tl.load(drawn_under + row, mask=alive, other=0.0), mask=alive)
    made += 1
    stop = tl.load(stops + tl.arange(0, known_stops))
    stopped = tl.max((token[:, None] == stop[None, :]).to(tl.int32), 1) > 0
    at_limit = made >= tl.load(state + 5 * slots + row, mask=alive, other=0)
    tl.store(state + row, token, mask=alive)
    if grows:
        length = tl.load(state + slots + row, mask=alive, other=0)
        tl.store(state + slots + row, length + 1, mask=alive)
    tl.store(state + 2 * slots + row, made, mask=alive)
    tl.store(state + 6 * slots + row, tl.where(stopped, made, tl.where(at_limit, -made, 0)), mask=alive)
    broken = tl.max((alive & (value != value)).to(tl.int32), 0)
    fault = tl.load(counters + 1)
    tl.store(counters + 1, tl.where((fault == 0) & (broken > 0), step, fault))
    tl.store(counters, step)


def advance(
    state: Tensor,
    counters: Tensor,
    drawn: tuple[Tensor, Tensor, Tensor],
    stops: Tensor,
    outputs: tuple[Tensor, Tensor, Tensor],
    grows: bool,
) -> None:
    """Books one drawn token for each of the first `R` rows; the contract is `vibethinker.rollout.state.advance`'s."""
    rows, slots, room = len(drawn[0]), state.stride(0), outputs[0].shape[1]
    _advance[(1,)](
        state,
        counters,
        *drawn,
        stops,
        *outputs,
        rows,
        slots,
        room,
        grows,
        len(stops),
        max(16, triton.next_power_of_2(rows)),
        num_warps=4,
    )
