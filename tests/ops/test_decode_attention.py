"""The kernels of a decoder's step against what they stand for, written out in PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vibethinker.ops.decode_attention import Split
from vibethinker.ops.decode_attention import triton as cached_attention
from vibethinker.ops.decode_state import torch as plain
from vibethinker.ops.decode_state import triton as state
from vibethinker.ops.decode_state.state import ENDED, GENERATED, LENGTH, LIMIT, SEQUENCE, DecodeState
from vibethinker.ops.decoder_layers import Rotation
from vibethinker.ops.decoder_layers import triton as steps


def normal(*shape: int, device: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight


def angles(positions: int, size: int, device: str) -> tuple[Tensor, Tensor]:
    turn = torch.arange(positions)[:, None] * 100.0 ** -(torch.arange(size // 2) / (size // 2))
    return turn.cos().to(device), turn.sin().to(device)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [T, heads, D] as complex numbers whose parts lie D/2 apart, cos and sin [T, D/2]."""
    real, imaginary = x.chunk(2, -1)
    turned = torch.complex(real, imaginary) * torch.complex(cos, sin)[:, None]
    return torch.cat([turned.real, turned.imag], -1)


def test_add_norm_by_hand(device: str) -> None:
    residual = torch.tensor([[1.0, 2.0, 2.0]], device=device)
    update, weight = torch.tensor([[2.0, 2.0, -2.0]], device=device), torch.tensor([1.0, 2.0, 3.0], device=device)
    out = steps.add_norm_(residual, update, weight, 0.0)
    assert residual.tolist() == [[3.0, 4.0, 0.0]]
    root = (25 / 3) ** 0.5
    assert out[0].tolist() == pytest.approx([3 / root, 8 / root, 0.0])


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("width", [16, 100])
def test_add_norm(width: int, adds: bool, device: str) -> None:
    residual = normal(5, width, device=device)
    update = normal(5, width, device=device, seed=1, dtype=torch.bfloat16) if adds else None
    weight = normal(width, device=device, seed=2, dtype=torch.bfloat16)
    expected = residual + (update.float() if update is not None else 0.0)
    out = steps.add_norm_(residual, update, weight, 1e-5)
    assert torch.equal(residual, expected)
    torch.testing.assert_close(out, rms_norm(expected, weight.float(), 1e-5).bfloat16(), atol=0.0, rtol=2**-7)


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("size", [8, 12])
def test_rotate(size: int, norms: bool, device: str) -> None:
    heads, kv_heads, positions = 4, 2, torch.tensor([0, 3, 7, 3, 19], device=device)
    qkv = normal(5, (heads + 2 * kv_heads) * size, device=device)
    cos, sin = angles(20, size, device)
    weights = (normal(size, device=device, seed=3), normal(size, device=device, seed=4), 1e-6) if norms else None
    q, k, v = (x.clone() for x in qkv.view(5, -1, size).split([heads, kv_heads, kv_heads], 1))
    if weights:
        q, k = rms_norm(q, weights[0], 1e-6), rms_norm(k, weights[1], 1e-6)
    expected = torch.cat([rotated(x, cos[positions], sin[positions]) for x in (q, k)] + [v], 1)
    steps.rotate_(qkv, positions, heads, kv_heads, Rotation(cos, sin, weights))
    torch.testing.assert_close(qkv.view(5, -1, size), expected, atol=1e-5, rtol=1e-5)


def test_swiglu(device: str) -> None:
    gate_up = normal(3, 2 * 70, device=device)
    gate, up = gate_up.chunk(2, 1)
    torch.testing.assert_close(steps.swiglu(gate_up), F.silu(gate) * up, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("split", [Split(1, 4096), Split(2, 64), Split(8, 16)])
@pytest.mark.parametrize("rotates", ["not", "rotated", "normed and rotated"])
def test_attend(rotates: str, split: Split, dtype: torch.dtype, device: str) -> None:
    """Prompts alone, with many tokens after them, and none, in places full of what others left behind."""
    if dtype == torch.bfloat16 and device == "cpu":
        pytest.skip("the interpreter takes its bits for integers in a matrix product")
    heads, kv_heads, size, room = 6, 2, 12, 112
    of_prompt = torch.tensor([1, 1, 15, 16, 17, 64, 15, 20, 0], device=device)
    place = torch.tensor([3, 3, 0, 2, 1, 5, 0, 4, 6], device=device)
    made = torch.tensor([0, 100, 1, 0, 17, 64, 3, 107, 0], device=device)
    lengths, rows = of_prompt + made, len(made)
    stores = [normal(n, kv_heads, m, size, device=device, seed=n, dtype=dtype) for n, m in ((7, 64), (rows + 1, room))]
    of_prompts, of_completions = (torch.stack([x, x.flip(0)]) for x in stores)
    for row in range(rows):
        for store, end, index in ((of_prompts, of_prompt[row], place[row]), (of_completions, made[row], row)):
            for x in store:
                x[index, :, end:] = torch.nan
    qkv = normal(rows, (heads + 2 * kv_heads) * size, device=device, dtype=dtype).view(rows, -1, size)
    q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)  # rows further apart than their heads take
    rotation, seen_q, seen_k = None, q.float(), k.float()
    if rotates != "not":
        cos, sin = angles(int(lengths.max()) + 1, size, device)
        weights = None
        if rotates != "rotated":
            weights = (normal(size, device=device, seed=3), normal(size, device=device, seed=4), 1e-6)
            seen_q, seen_k = rms_norm(seen_q, weights[0], 1e-6), rms_norm(seen_k, weights[1], 1e-6)
        rotation = Rotation(cos, sin, weights)
        seen_q, seen_k = (rotated(x, cos[lengths], sin[lengths]) for x in (seen_q, seen_k))
    known_rows = (lengths, place, of_prompt)
    out = cached_attention.attend(q, k, v, of_prompts, of_completions, known_rows, 0.3, split, rotation)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for row, (place_of_row, end_of_prompt, end) in enumerate(zip(place, of_prompt, made, strict=True)):
        keys, values = (
            torch.cat([p[place_of_row, :, :end_of_prompt], c[row, :, : end + 1]], 1).float()
            for p, c in zip(of_prompts, of_completions, strict=True)
        )
        torch.testing.assert_close(keys[:, -1], seen_k[row], atol=tolerance, rtol=tolerance)
        assert torch.equal(values[:, -1], v[row].float())
        for head in range(heads):
            weight = (keys[head // 3] @ seen_q[row, head] * 0.3).softmax(0)
            expected = weight @ values[head // 3]
            torch.testing.assert_close(out[row, head].float(), expected, atol=tolerance, rtol=tolerance)
    assert of_completions[0][: rows - 1].isnan().any()
    assert not of_completions[0][rows].isnan().any()  # what is no sequence's stays as it was


def test_copy_rows(device: str) -> None:
    store = normal(3, 2, 6, 2, 16, 8, device=device)
    before = store.clone()
    sources, targets, lengths = (torch.tensor(x, device=device) for x in ([5, 5, 0], [1, 3, 2], [16, 4, 7]))
    cached_attention.copy_rows_(store, sources, targets, lengths, 16)
    for source, target, length in ((5, 1, 16), (5, 3, 4), (0, 2, 7)):
        before[:, :, target, :, :length] = before[:, :, source, :, :length]
    assert torch.equal(store, before)
    cached_attention.copy_rows_(store, sources[:0], targets[:0], lengths[:0], 0)


@pytest.mark.parametrize("grows", [True, False])
def test_advance_is_the_plain_one(grows: bool, device: str) -> None:
    """Twenty draws of five rows: stops, limits, a row that never began, NaN late."""
    ours, expected = (DecodeState.empty(6, 32, torch.device(device)) for _ in range(2))
    stops = torch.tensor([3, -1, 7, -1, -1, -1, -1, -1], device=device)
    for one in (ours, expected):
        one.rows[ENDED, :4], one.rows[GENERATED, :4], one.rows[LENGTH, :4] = 0, 1, 5
        one.rows[LIMIT] = torch.tensor([20, 4, 12, 30, 9, 9], device=device)
        one.rows[SEQUENCE] = torch.arange(6, device=device)
    for step in range(20):
        tokens = torch.randint(3 if step > 8 else 4, 40, (5,), generator=torch.Generator().manual_seed(step)).to(device)
        logp = normal(5, device=device, seed=step)
        if step == 17:
            logp[3] = torch.nan
        drawn = (tokens, logp, logp - 1)
        state.advance(ours.rows, ours.counters, drawn, stops, ours.outputs, grows)
        plain.advance(expected.rows, expected.counters, drawn, stops, expected.outputs, grows)
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, atol=0.0, rtol=0.0, equal_nan=True)
    assert ours.counters.tolist()[0] == 20
    assert set(ours.rows[ENDED, :4].sign().tolist()) >= {1, -1}
