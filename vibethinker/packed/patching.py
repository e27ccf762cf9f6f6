"""Fewer and larger kernels between the matrix products: those of `vibethinker.ops`, or of `torch.compile`.

Both are bound to the modules of one model. Transformers' own classes and functions stay as they are, so that the same
process goes on working on a CPU, and models built later are plain ones. Names of weights do not change.
"""

from __future__ import annotations

import inspect
from functools import partial
from types import MethodType
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from vibethinker.ops import implementation, train_layers
from vibethinker.packed import attention
from vibethinker.packed.attention import Attention, attend

_FAMILIES: Final = ("llama", "qwen2", "qwen3")


def is_supported(config: Any) -> bool:
    """Returns True where a model's layers are those that the kernels compute."""
    return config.model_type in _FAMILIES and config.hidden_act in ("silu", "swish")


def fuse_(model: Any, kernels: Any = None) -> bool:
    """Gives a Qwen2, Qwen3 or Llama model fused decoder layers, in place; returns True if it has them now.

    They are of functions as of `vibethinker.ops.train_layers`; by default its kernels on CUDA, and none elsewhere. The
    model has the attention of this library and is on the device it runs on.
    """
    if not is_supported(model.config):
        return False
    if kernels is None:
        device = next(model.parameters()).device
        if device.type != "cuda":
            return False
        kernels = implementation(train_layers, device)
    for module in attention.backbone(model).modules():
        if isinstance(module, GradientCheckpointingLayer):
            _bind(module, _recomputable(_layer(kernels)))
        elif hasattr(module, "q_proj"):
            _bind(module, _attention(kernels))
        elif hasattr(module, "gate_proj"):
            _bind(module, _mlp(kernels))
        elif type(module).__name__.endswith("RMSNorm"):  # of the last layer's output, and of heads
            _bind(module, _norm(kernels))
    return True


def compile_(model: Any, backend: str = "inductor") -> None:
    """Compiles each decoder layer for rows of any length; all layers share the code, attention stays outside of it."""
    # The row's bounds reach attention as Python integers: traced, every row would be compiled anew
    AttentionInterface.register(attention.NAME, torch.compiler.disable(attention.interface))
    compiled: dict[type, Any] = {}
    for layer in attention.backbone(model).modules():
        if not isinstance(layer, GradientCheckpointingLayer):
            continue
        if any("forward" in vars(part) for part in layer.children()):
            raise ValueError("compile_: the model's layers have been fused already")
        kind = type(layer)
        if kind not in compiled:
            compiled[kind] = _recomputable(torch.compile(inspect.unwrap(kind.forward), dynamic=True, backend=backend))
        _bind(layer, compiled[kind])


def _recomputable(inner: Any) -> Any:
    """With the activation checkpointing that transformers wraps around a layer's own forward, not around another."""
    in_call = "__call__" in vars(GradientCheckpointingLayer)  # before transformers 5.18 or so; then it wraps forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.gradient_checkpointing and self.training and not in_call:
            return self._gradient_checkpointing_func(partial(inner, self, **kwargs), *args)
        return inner(self, *args, **kwargs)

    return forward


def _bind(module: nn.Module, forward: Any) -> None:
    module.__dict__["forward"] = MethodType(forward, module)


def _layer(kernels: Any) -> Any:
    def forward(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        residual, *read = kernels.add_norm(hidden_states, None, *_of_norm(self.input_layernorm, hidden_states), 3)
        update = self.self_attn(*read, **kwargs)
        residual, *read = kernels.add_norm(residual, update, *_of_norm(self.post_attention_layernorm, residual), 2)
        out: Tensor = residual + self.mlp(*read)
        return out

    return forward


def _attention(kernels: Any) -> Any:
    def forward(
        self: Any,
        for_query: Tensor,
        for_key: Tensor,
        for_value: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention: Attention | None = None,
        **kwargs: Any,
    ) -> Tensor:
        projected = self.q_proj(for_query), self.k_proj(for_key), self.v_proj(for_value)
        query, key, value = (x[0].unflatten(-1, (-1, self.head_dim)) for x in projected)
        if hasattr(self, "q_norm"):
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = kernels.rotate(query, key, *position_embeddings)
        kwargs |= {
            "scaling": self.scaling,
            "dropout": self.attention_dropout if self.training else 0.0,
            "sliding_window": getattr(self, "sliding_window", None),
        }
        out: Tensor = self.o_proj(attend(self, query, key, value, attention, **kwargs).flatten(1)[None])
        return out

    return forward


def _mlp(kernels: Any) -> Any:
    def forward(self: Any, for_gate: Tensor, for_up: Tensor) -> Tensor:
        out: Tensor = self.down_proj(kernels.swiglu(self.gate_proj(for_gate), self.up_proj(for_up)))
        return out

    return forward


def _norm(kernels: Any) -> Any:
    def forward(self: Any, x: Tensor) -> Tensor:
        return kernels.rms_norm(x, *_of_norm(self, x))

    return forward


def _of_norm(norm: Any, x: Tensor) -> tuple[Tensor, float, torch.dtype]:
    """Weight, epsilon and precision of what a norm puts out: autocast's at once, else what PyTorch's rules give."""
    device = x.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else torch.promote_types(x.dtype, norm.weight.dtype)
    return norm.weight, norm.variance_epsilon, dtype
