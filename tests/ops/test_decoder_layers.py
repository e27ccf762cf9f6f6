"""The kernels between the products of a decoder layer against the same written out in PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.support.kernels import angles, normal, rms_norm, rotated
from vibethinker.ops.decoder_layers import Rotation
from vibethinker.ops.decoder_layers import triton as steps


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
