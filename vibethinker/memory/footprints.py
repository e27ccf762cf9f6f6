"""Stand-ins for the CUDA kernels that allocate but compute nothing, and a ledger of the storages that are alive."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ROUNDING = 512  # bytes, of CUDA's allocator


class Ledger(TorchDispatchMode):
    """Adds up the storages that are alive.

    Attributes:
        now: bytes alive.
        peak: the most there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._enter(leaf.untyped_storage())
        return out

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // _ROUNDING) * _ROUNDING
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class HeadFootprint:
    """The allocations of the head's CUDA kernels, without their work."""

    @staticmethod
    def statistics(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Three numbers of each target."""
        logp, entropy, normaliser = (torch.empty(len(logits)) for _ in range(3))
        return logp, entropy, normaliser

    @staticmethod
    def gradient_(logits: Tensor, *_: Any) -> Tensor:
        """Overwrites the logits."""
        return logits

    @staticmethod
    def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
        """Adds in place."""
        return


class FlashFootprint:
    """Keeps for backward what the flash kernel keeps; computes nothing."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Keeps inputs, output and log-sum-exp."""
        out: Tensor = _FlashKept.apply(query, key, value)
        return out


class _FlashKept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(query.shape)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:2], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        wide = query.new_empty(query.shape, dtype=torch.float32)  # the query's gradient is summed in float32
        made = query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)
        del wide
        return made


class FusedFootprint:
    """Keeps for backward what the kernels of a layer keep; computes nothing."""

    def add_norm(
        self,
        residual: Tensor,
        update: Tensor | None,
        weight: Tensor,
        epsilon: float,
        dtype: torch.dtype,
        readers: int = 1,
    ) -> tuple[Tensor, ...]:
        """Keeps the sum, the weight and a number of each row."""
        out: tuple[Tensor, ...] = _NormKept.apply(residual, update, weight, dtype, readers)
        return out

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        """The norm alone."""
        return self.add_norm(x, None, weight, epsilon, dtype)[1]

    def rotate(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps the rotations alone."""
        query, key = (_RotationKept.apply(x, cos, sin) for x in (query, key))
        return query, key

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """Keeps both inputs."""
        out: Tensor = _GateKept.apply(gate, up)
        return out


class _NormKept(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, update: Tensor | None, weight: Tensor, dtype: torch.dtype, readers: int
    ) -> tuple[Tensor, ...]:
        total = residual
        if update is not None:
            total = torch.empty_like(residual, dtype=torch.promote_types(residual.dtype, update.dtype))
        out = torch.empty_like(residual, dtype=dtype)
        ctx.save_for_backward(total, weight, residual.new_empty(residual.shape[:-1], dtype=torch.float32))
        ctx.dtypes = residual.dtype, None if update is None else update.dtype
        ctx.set_materialize_grads(False)
        return total, out, *(out.detach() for _ in range(readers - 1))

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor | None, ...]:
        total, weight, _ = ctx.saved_tensors
        of_residual, of_update = ctx.dtypes
        made = {dtype: torch.empty_like(total, dtype=dtype) for dtype in ctx.dtypes if dtype is not None}
        to_weight = torch.empty_like(weight) if ctx.needs_input_grad[2] else None
        return made[of_residual], made.get(of_update), to_weight, None, None


class _RotationKept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return torch.empty_like(grad), None, None


class _GateKept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return torch.empty_like(gate)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.empty_like(gate), torch.empty_like(up)
