"""Sampling the next token, reading the logits once or twice (Triton).

Every row is read in blocks of columns. One kernel gives each block's mass; the next finds the block in which the
cumulative mass passes the uniform number, and reads only that one again. Filters are a threshold on a row's scores,
found by search over the order of floating-point numbers instead of a sort. Nothing waits for the host, so all of it can
be captured in a CUDA graph after one call outside.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from vibethinker.ops.sampling.torch import SamplingParams

_BLOCK = 4096  # columns at a time
_UNUSED_BITS = {torch.bfloat16: 16, torch.float16: 13, torch.float32: 0}  # of a float32 that holds such a number

_GOLDEN = tl.constexpr(-7046029254386353131)
_MIX_1 = tl.constexpr(-4658895280553007687)
_MIX_2 = tl.constexpr(-7723592293110705685)
_SIGNLESS = tl.constexpr(0x7FFFFFFF)
_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _load(row, start, columns, block: tl.constexpr):
    column = start + tl.arange(0, block)
    return tl.load(row + column, mask=column < columns, other=-_INFINITY).to(tl.float32)


@triton.jit
def _rank(number, unused: tl.constexpr):
    """An integer in the order of the numbers: neighbours of a precision with that many unused bits differ by 1."""
    bits = number.to(tl.int32, bitcast=True).to(tl.int64)
    return tl.where(bits < 0, bits ^ _SIGNLESS, bits) >> unused


@triton.jit
def _number(rank, unused: tl.constexpr):
    """The inverse of `_rank`."""
    shifted = rank << unused
    bits = tl.where(rank < 0, (shifted | ((1 << unused) - 1)) ^ _SIGNLESS, shifted)
    return bits.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _highest(row, columns, block: tl.constexpr):
    highest = tl.full((block,), -_INFINITY, tl.float32)
    for start in range(0, columns, block):
        highest = tl.maximum(highest, _load(row, start, columns, block))
    return tl.max(highest, 0)


@triton.jit
def _at_least(row, columns, scale, top, floor, first, second, third, of_mass: tl.constexpr, block: tl.constexpr):
    """Mass (relative to the score `top`) or number of the tokens with a score ≥ floor and a logit ≥ each of three."""
    a = tl.zeros((block,), tl.float32)
    b = tl.zeros((block,), tl.float32)
    c = tl.zeros((block,), tl.float32)
    for start in range(0, columns, block):
        z = _load(row, start, columns, block)
        score = z * scale
        weight = tl.where(score >= floor, tl.exp(score - top) if of_mass else 1.0, 0.0)
        a += tl.where(z >= first, weight, 0.0)
        b += tl.where(z >= second, weight, 0.0)
        c += tl.where(z >= third, weight, 0.0)
    return tl.sum(a, 0), tl.sum(b, 0), tl.sum(c, 0)


@triton.jit
def _greatest(
    row, columns, scale, highest, floor, need, of_mass: tl.constexpr, unused: tl.constexpr, block: tl.constexpr
):
    """The greatest logit such that the tokens from there up reach `need`; a quarter of the range is left each pass."""
    low = _rank(tl.full((), -_INFINITY, tl.float32), unused)  # always enough
    high = _rank(highest, unused) + 1  # never enough
    top = highest * scale
    while high - low > 1:
        span = high - low
        i, j, k = low + (span >> 2), low + (span >> 1), low + ((3 * span) >> 2)
        a, b, c = _at_least(
            row, columns, scale, top, floor, _number(i, unused), _number(j, unused), _number(k, unused), of_mass, block
        )
        enough_i = (i == low) | (a >= need)
        enough_j = (j == low) | (b >= need)
        enough_k = (k == low) | (c >= need)
        low = tl.where(enough_k, k, tl.where(enough_j, j, tl.where(enough_i, i, low)))
        high = tl.where(enough_i, tl.where(enough_j, tl.where(enough_k, high, k), j), i)
    return _number(low, unused)


@triton.jit
def _threshold(
    logits,
    thresholds,
    stride,
    columns,
    scale,
    top_k,
    log_min_p,
    top_p,
    by_count: tl.constexpr,
    by_mass: tl.constexpr,
    unused: tl.constexpr,
    block: tl.constexpr,
):
    """The score from which on tokens of a row are kept: top-k, then min-p, then top-p of what is left."""
    index = tl.program_id(0).to(tl.int64)
    row = logits + index * stride
    highest = _highest(row, columns, block)
    top = highest * scale
    floor = top + log_min_p
    if by_count:
        nothing = tl.full((), -_INFINITY, tl.float32)
        floor = tl.maximum(floor, scale * _greatest(row, columns, scale, highest, nothing, top_k, False, unused, block))
    if by_mass:
        all_of_it = -_INFINITY
        total, _, _ = _at_least(row, columns, scale, top, floor, all_of_it, all_of_it, all_of_it, True, block)
        need = top_p * total
        floor = tl.maximum(floor, scale * _greatest(row, columns, scale, highest, floor, need, True, unused, block))
    tl.store(thresholds + index, floor)


@triton.jit
def _masses(
    logits, thresholds, peaks, masses, kept, stride, columns, parts, scale, filtered: tl.constexpr, block: tl.constexpr
):
    """A block's highest score and its mass relative to that: of all tokens, and of those kept."""
    part, index = tl.program_id(0), tl.program_id(1).to(tl.int64)
    score = _load(logits + index * stride, part * block, columns, block) * scale
    peak = tl.max(score, 0)
    mass = tl.exp(score - tl.where(peak == -_INFINITY, 0.0, peak))
    index_of_part = index * parts + part
    tl.store(peaks + index_of_part, peak)
    tl.store(masses + index_of_part, tl.sum(mass, 0))
    if filtered:
        tl.store(kept + index_of_part, tl.sum(tl.where(score >= tl.load(thresholds + index), mass, 0.0), 0))


@triton.jit
def _sample(
    logits,
    uniforms,
    thresholds,
    peaks,
    masses,
    kept,
    tokens,
    logp,
    sampled_logp,
    stride,
    columns,
    parts,
    scale,
    greedy: tl.constexpr,
    filtered: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64)
    row = logits + index * stride
    part = tl.arange(0, width)
    there = part < parts
    peak = tl.load(peaks + index * parts + part, mask=there, other=-_INFINITY)
    highest = tl.max(peak, 0)
    base = tl.where(highest == -_INFINITY, 0.0, highest)
    shrink = tl.exp(peak - base)
    whole = tl.load(masses + index * parts + part, mask=there, other=0.0) * shrink
    log_total = base + tl.log(tl.sum(whole, 0))
    if greedy:
        chosen = tl.min(tl.where(peak == highest, part, parts - 1), 0)
    else:
        mass = whole
        if filtered:
            mass = tl.load(kept + index * parts + part, mask=there, other=0.0) * shrink
        point = tl.load(uniforms + index) * tl.sum(mass, 0)
        first = tl.min(tl.where((tl.cumsum(mass, 0) > point) & (mass > 0), part, parts), 0)
        chosen = tl.minimum(first, tl.max(tl.where(mass > 0, part, 0), 0))
    score = _load(row, chosen * block, columns, block) * scale
    column = chosen * block + tl.arange(0, block)
    token = tl.min(tl.where(score == tl.max(score, 0), column, columns - 1), 0)  # the first of the block's likeliest
    if not greedy:
        inside = tl.exp(score - base)
        if filtered:
            inside = tl.where(score >= tl.load(thresholds + index), inside, 0.0)
        rest = point - tl.sum(tl.where(part < chosen, mass, 0.0), 0)
        first = tl.min(tl.where((tl.cumsum(inside, 0) > rest) & (inside > 0), column, columns), 0)
        # sums in another order may end below the point: then the last token with mass, which lies next to it
        token = tl.minimum(first, tl.max(tl.where(inside > 0, column, token), 0))
    score_of_token = tl.load(row + token).to(tl.float32) * scale
    plain = score_of_token - log_total
    sampled = plain
    if greedy:
        sampled = tl.where(plain == plain, 0.0, plain)
    elif filtered:
        sampled = tl.where(plain == plain, score_of_token - base - tl.log(tl.sum(mass, 0)), plain)
    tl.store(tokens + index, token.to(tl.int64))
    tl.store(logp + index, plain)
    tl.store(sampled_logp + index, sampled)


@triton.jit
def _uniforms(seeds, positions, numbers, count, block: tl.constexpr):
    column = tl.program_id(0) * block + tl.arange(0, block)
    inside = column < count
    seed = tl.load(seeds + column, mask=inside, other=0)
    x = seed + (tl.load(positions + column, mask=inside, other=0) + 1) * _GOLDEN
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_1  # int64 shifts drag the sign along: masked away
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    x = x ^ ((x >> 31) & 0x1FFFFFFFF)
    tl.store(numbers + column, ((x >> 40) & 0xFFFFFF).to(tl.float32) * 0.000000059604644775390625, mask=inside)  # 2⁻²⁴


def sample(
    logits: Tensor, uniforms: Tensor, params: SamplingParams, block: int = _BLOCK
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference does; `block` is columns at a time, a power of two."""
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    uniforms = uniforms.float().contiguous()
    rows, columns = logits.shape
    greedy = params.temperature == 0
    scale = 1.0 / (params.temperature or 1.0)
    filtered = params.filters and not greedy
    parts = triton.cdiv(columns, block)
    peaks, masses, kept = torch.empty(3, rows, parts, dtype=torch.float32, device=logits.device)
    thresholds, logp, sampled_logp = torch.empty(3, rows, dtype=torch.float32, device=logits.device)
    tokens = torch.empty(rows, dtype=torch.long, device=logits.device)
    if rows == 0:
        return tokens, logp, sampled_logp
    stride = logits.stride(0)
    if filtered:
        log_min_p = math.log(params.min_p) if params.min_p else -math.inf
        bounds = float(params.top_k), log_min_p, params.top_p
        flags = 0 < params.top_k < columns, params.top_p < 1, _UNUSED_BITS[logits.dtype], block
        _threshold[(rows,)](logits, thresholds, stride, columns, scale, *bounds, *flags, num_warps=16)
    of_parts = thresholds, peaks, masses, kept
    _masses[(parts, rows)](logits, *of_parts, stride, columns, parts, scale, filtered, block)
    flags = greedy, filtered, triton.next_power_of_2(parts), block
    results = tokens, logp, sampled_logp
    _sample[(rows,)](logits, uniforms, *of_parts, *results, stride, columns, parts, scale, *flags, num_warps=8)
    return tokens, logp, sampled_logp


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """As the reference does."""
    seeds, positions = seeds.long().contiguous(), positions.long().contiguous()
    numbers = torch.empty(len(seeds), dtype=torch.float32, device=seeds.device)
    if len(seeds):
        _uniforms[(triton.cdiv(len(seeds), 256),)](seeds, positions, numbers, len(seeds), 256)
    return numbers
