"""The kernels of a layer in training against PyTorch's own operations in float64: results and all gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vibethinker.ops.train_layers import triton as layers

HALF = torch.bfloat16
ERROR = {torch.float32: 2e-5, torch.float16: 2e-3, HALF: 1.6e-2}  # Triton's interpreter cuts bfloat16 off, a GPU rounds


def normal(*shape: int, device: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype).requires_grad_()


def results(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], wide: bool) -> list[Tensor]:
    """What comes out, and the gradient of its product with fixed numbers for every input that asks for one."""
    if wide:
        inputs = [x.detach().double().requires_grad_(x.requires_grad) for x in inputs]
    outputs = function(*inputs)
    upstream = [normal(*x.shape, device=str(x.device), seed=90 + i).detach() for i, x in enumerate(outputs)]
    loss = sum((x.double() * u.to(x.dtype).double()).sum() for x, u in zip(outputs, upstream, strict=True))
    assert isinstance(loss, Tensor)
    return [*outputs, *torch.autograd.grad(loss, [x for x in inputs if x.requires_grad])]


def assert_same(ours: list[Tensor], plain: list[Tensor], error: float) -> None:
    assert len(ours) == len(plain)
    for one, other in zip(ours, plain, strict=True):
        assert one.shape == other.shape
        assert (one.double() - other).abs().max() <= error * (1 + other.abs().max())


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight


def test_add_norm_by_hand(device: str) -> None:
    residual = torch.tensor([[1.0, 2.0, 2.0]], device=device, requires_grad=True)
    update, weight = torch.tensor([[2.0, 2.0, -2.0]], device=device), torch.tensor([1.0, 2.0, 3.0], device=device)
    total, normed = layers.add_norm(residual, update, weight, 0.0, torch.float32)
    assert total.tolist() == [[3.0, 4.0, 0.0]]
    root = (25 / 3) ** 0.5
    assert normed[0].tolist() == pytest.approx([3 / root, 8 / root, 0.0])
    normed[0, 2].backward()  # 3·x₂/root, where x₂ = 0
    assert residual.grad is not None
    assert residual.grad[0].tolist() == pytest.approx([0.0, 0.0, 3 / root])


@pytest.mark.parametrize("readers", [1, 2, 3])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("stream", [torch.float32, HALF])
@pytest.mark.parametrize(("rows", "width"), [(700, 24), (9, 100), (6, 2500)])
def test_add_norm(rows: int, width: int, stream: torch.dtype, adds: bool, readers: int, device: str) -> None:
    """Many rows at a time and one, rows of one program and of several, sums in either precision."""
    residual = normal(1, rows, width, device=device, dtype=stream)
    weight = normal(width, device=device, seed=2)
    update = [normal(1, rows, width, device=device, seed=1, dtype=HALF)] if adds else []

    def ours(residual: Tensor, weight: Tensor, update: Tensor | None = None) -> Sequence[Tensor]:
        return layers.add_norm(residual, update, weight, 1e-5, HALF, readers)

    def plain(residual: Tensor, weight: Tensor, update: Tensor | None = None) -> Sequence[Tensor]:
        total = residual if update is None else residual + update
        return (total, *[rms_norm(total, weight, 1e-5)] * readers)

    found = results(ours, [residual, weight, *update], wide=False)
    assert [x.dtype for x in found] == [stream, *[HALF] * readers, stream, torch.float32, *[HALF] * len(update)]
    assert len({x.data_ptr() for x in found[1 : 1 + readers]}) == 1
    assert_same(found, results(plain, [residual, weight, *update], wide=True), ERROR[HALF])


@pytest.mark.parametrize("used", ["sum", "norm"])
@pytest.mark.parametrize("trained", [False, True])
def test_add_norm_of_which_a_part_is_used(used: str, trained: bool, device: str) -> None:
    residual, update = (normal(5, 40, device=device, seed=s) for s in (0, 1))
    weight = normal(40, device=device, seed=2).requires_grad_(trained)
    part = slice(0, 1) if used == "sum" else slice(1, 2)
    inputs = [residual, update, weight]

    def ours(residual: Tensor, update: Tensor, weight: Tensor) -> Sequence[Tensor]:
        return layers.add_norm(residual, update, weight, 1e-6, torch.float32)[part]

    def plain(residual: Tensor, update: Tensor, weight: Tensor) -> Sequence[Tensor]:
        total = residual + update
        return [total + 0 * weight if used == "sum" else rms_norm(total, weight, 1e-6)]

    assert_same(results(ours, inputs, wide=False), results(plain, inputs, wide=True), ERROR[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, HALF])
def test_rms_norm_of_heads(dtype: torch.dtype, device: str) -> None:
    inputs = [normal(37, 3, 16, device=device, dtype=dtype), normal(16, device=device, seed=1)]
    found = results(lambda x, weight: [layers.rms_norm(x, weight, 1e-6, dtype)], inputs, wide=False)
    assert found[0].dtype == dtype
    assert_same(found, results(lambda x, weight: [rms_norm(x, weight, 1e-6)], inputs, wide=True), ERROR[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, HALF])
@pytest.mark.parametrize("size", [8, 12, 128])
@pytest.mark.parametrize("whole", [False, True])
def test_rotate(size: int, whole: bool, dtype: torch.dtype, device: str) -> None:
    tokens, heads, kv_heads = 45, 3, 2
    query = normal(tokens, heads, size, device=device, dtype=dtype)
    key = normal(tokens, kv_heads, size, device=device, seed=1, dtype=dtype)
    angle = (torch.arange(tokens)[:, None] * 100.0 ** -(torch.arange(size // 2) / (size // 2))).to(device)

    def ours(query: Tensor, key: Tensor) -> Sequence[Tensor]:
        half = angle.cos()[None], angle.sin()[None]
        cos, sin = (torch.cat([x, x], -1) if whole else x for x in half)
        return layers.rotate(query, key, cos, sin)

    def plain(*both: Tensor) -> Sequence[Tensor]:
        turn = torch.polar(torch.ones_like(angle), angle)[:, None]
        turned = [torch.complex(*x.chunk(2, -1)) * turn for x in both]
        return [torch.cat([x.real, x.imag], -1) for x in turned]

    found = results(ours, [query, key], wide=False)
    assert all(x.dtype == dtype and x.is_contiguous() for x in found)
    assert_same(found, results(plain, [query, key], wide=True), ERROR[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, HALF])
@pytest.mark.parametrize("shape", [(1, 3, 7), (1, 41, 101)])
def test_swiglu(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    inputs = [normal(*shape, device=device, seed=s, dtype=dtype) for s in (0, 1)]
    with torch.no_grad():
        inputs[0][0, 0, :3] = torch.tensor([-80.0, 80.0, 0.0])
    found = results(lambda gate, up: [layers.swiglu(gate, up)], inputs, wide=False)
    assert all(x.dtype == dtype for x in found)
    assert_same(found, results(lambda gate, up: [F.silu(gate) * up], inputs, wide=True), ERROR[dtype])


def test_what_is_not_contiguous(device: str) -> None:
    """Inputs, and gradients that arrive as views of something else."""
    inputs = [normal(12, 9, device=device, seed=s) for s in (0, 1)]

    def ours(gate: Tensor, up: Tensor) -> Sequence[Tensor]:
        total, normed = layers.add_norm(gate.T, up.T, torch.ones(12, device=device), 1e-6, torch.float32)
        return [layers.swiglu(total, normed).T, total.T, normed.T]

    def plain(gate: Tensor, up: Tensor) -> Sequence[Tensor]:
        total = (gate + up).T
        normed = rms_norm(total, torch.ones(12, device=device), 1e-6)
        return [(F.silu(total) * normed).T, total.T, normed.T]

    assert_same(results(ours, inputs, wide=False), results(plain, inputs, wide=True), ERROR[torch.float32])


def test_recomputed(device: str) -> None:
    inputs = [normal(4, 16, device=device, seed=s) for s in (0, 1)] + [normal(16, device=device, seed=2)]

    def layer(residual: Tensor, update: Tensor, weight: Tensor) -> Tensor:
        total, gate, up = layers.add_norm(residual, update, weight, 1e-6, torch.float32, readers=2)
        return total + layers.swiglu(gate, up)

    once = results(lambda *x: [layer(*x)], inputs, wide=False)
    twice = results(lambda *x: [checkpoint(layer, *x, use_reentrant=False)], inputs, wide=False)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_shapes_that_do_not_match(device: str) -> None:
    weight, short, long = (torch.ones(*shape, device=device) for shape in ((8,), (1, 8), (2, 8)))
    with pytest.raises(ValueError, match="add_norm: an update of shape"):
        layers.add_norm(long, short, weight, 1e-6, torch.float32)
    with pytest.raises(ValueError, match="swiglu: gate of shape"):
        layers.swiglu(long, short)


def test_no_tokens(device: str) -> None:
    residual, weight = normal(0, 16, device=device), normal(16, device=device)
    total, normed = layers.add_norm(residual, residual * 2, weight, 1e-6, HALF)
    query, _ = layers.rotate(normed.view(0, 2, 8), normed.view(0, 2, 8), *torch.empty(2, 0, 8, device=device))
    (total.sum() + layers.swiglu(query, query).sum()).backward()
    assert residual.grad is not None
    assert residual.grad.shape == (0, 16)
    assert weight.grad is not None
    assert not weight.grad.any()
