"""Fewer and larger kernels between the matrix products: liger-kernel's, or those that `torch.compile` makes.

Both are bound to the modules of one model. Transformers' own classes and functions stay as they are, so that the same
process goes on working on a CPU, and models made later are plain ones. Names of weights do not change.
"""

from __future__ import annotations

import inspect
from functools import partial
from importlib.util import find_spec
from types import FunctionType, MethodType
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from vibethinker import attention

_FAMILIES: Final = ("llama", "qwen2", "qwen3")  # whose layers are what the kernels compute
_ROTATION: Final = "apply_rotary_pos_emb"


class Kernels(Protocol):
    """The arithmetic, with its gradients."""

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """[…, H] → [… , H], in the precision of `x`."""
        ...

    def rotate(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """query [1, heads, T, D], key [1, kv_heads, T, D], angles [1, T, D]; may work in place."""
        ...

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) · up."""
        ...


class Liger:
    """Of liger-kernel. On CUDA alone."""

    def __init__(self) -> None:
        from liger_kernel import ops

        self.ops: Any = ops

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        out: Tensor = self.ops.LigerRMSNormFunction.apply(x, weight, epsilon, 0.0, "llama", True, None)
        return out

    def rotate(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        query, key = self.ops.LigerRopeFunction.apply(query, key, cos, sin)
        return query, key

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        out: Tensor = self.ops.LigerSiLUMulFunction.apply(gate, up)
        return out


def installed() -> bool:
    return find_spec("liger_kernel") is not None


def fuse_(model: Any, kernels: Kernels | None = None) -> bool:
    """Gives a Qwen2, Qwen3 or Llama model fused kernels for RMSNorm, rotary embedding and SwiGLU.

    Args:
        model: in place, on the device it runs on.
        kernels: liger-kernel's by default, if the model is on CUDA and they are installed.

    Returns:
        Whether the model has them now.
    """
    if model.config.model_type not in _FAMILIES:
        return False
    if kernels is None:
        if not installed() or next(model.parameters()).device.type != "cuda":
            return False
        kernels = Liger()
    module: Any
    for module in attention.body(model).modules():
        if type(module).__name__.endswith("RMSNorm"):
            _bind(module, _norm(kernels))
        elif hasattr(module, "gate_proj") and model.config.hidden_act in ("silu", "swish"):
            _bind(module, _mlp(kernels))
        elif _ROTATION in (forward := type(module).forward).__code__.co_names:
            _bind(module, _with_globals(forward, **{_ROTATION: _rotation(kernels)}))
    return True


def compile_(model: Any, backend: str = "inductor") -> None:
    """Compiles each decoder layer for rows of any length; all layers share the code, attention stays outside of it."""
    # The row's bounds reach attention as Python integers: traced, every row would be compiled anew
    AttentionInterface.register(attention.NAME, torch.compiler.disable(attention.interface))
    made: dict[type, Any] = {}
    for layer in attention.body(model).modules():
        if not isinstance(layer, GradientCheckpointingLayer):
            continue
        kind = type(layer)
        if kind not in made:
            made[kind] = _recomputable(torch.compile(inspect.unwrap(kind.forward), dynamic=True, backend=backend))
        _bind(layer, made[kind])


def _recomputable(compiled: Any) -> Any:
    """A layer's forward around a compiled one: checkpointing cannot be compiled with attention left out."""
    in_call = "__call__" in vars(GradientCheckpointingLayer)  # before transformers 5.18 or so; then it wraps forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.gradient_checkpointing and self.training and not in_call:
            return self._gradient_checkpointing_func(partial(compiled, self, **kwargs), *args)
        return compiled(self, *args, **kwargs)

    return forward


def _bind(module: nn.Module, forward: Any) -> None:
    module.__dict__["forward"] = MethodType(forward, module)


def _norm(kernels: Kernels) -> Any:
    def forward(self: Any, x: Tensor) -> Tensor:
        out = kernels.rms_norm(x, self.weight, self.variance_epsilon)
        # Once here, and not in each of the layers that share it: autocast keeps no copy of an activation
        device = x.device.type
        return out.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else out

    return forward


def _mlp(kernels: Kernels) -> Any:
    def forward(self: Any, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(kernels.swiglu(self.gate_proj(x), self.up_proj(x)))
        return out

    return forward


def _rotation(kernels: Kernels) -> Any:
    def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        return kernels.rotate(query, key, cos, sin)

    return rotate


def _with_globals(function: FunctionType, **names: Any) -> FunctionType:
    """The same function, in which some global names mean something else."""
    meanings = {**function.__globals__, **names}
    made = FunctionType(function.__code__, meanings, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made
