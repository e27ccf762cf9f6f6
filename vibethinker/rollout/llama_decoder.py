"""Inference decoder of Llama-like models: the replica's own weights, few operations.

A layer of some thirty operations in transformers takes eight here: queries, keys and values are one product, gate and
up another, and each step between products is one pass. The residual stream is float32, as it is in an update under
autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from vibethinker.ops import decoder_layers, implementation
from vibethinker.ops.decoder_layers import Rotation
from vibethinker.packed.attention import Attention
from vibethinker.packed.patching import is_supported as has_known_layers
from vibethinker.rollout.kv_cache import DecodeAttention, head_size

_FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")  # angles that do not change with the sequence


class _Norm(NamedTuple):
    weight: Tensor
    epsilon: float

    @classmethod
    def of(cls, module: Any) -> _Norm:
        return cls(module.weight, module.variance_epsilon)


class _Linear(NamedTuple):
    """A linear layer's weight and bias."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, module: nn.Linear) -> _Linear:
        return cls(module.weight, module.bias)


class _Layer(NamedTuple):
    """A decoder layer's weights in the order in which they are used."""

    first: _Norm
    qkv: _Linear
    rotation: Rotation
    scale: float
    out: _Linear
    second: _Norm
    gate_up: _Linear
    down: _Linear


class LlamaDecoder:
    """A model's layers as a function of tokens, positions and attention, `[T] → [T, H]`.

    The weights stay the model's parameters, under the same names: those that are multiplied together are moved into
    one tensor, of which they are views. Copying new weights into the model makes this the decoder of a new policy.

    Args:
        model: one that `is_supported` accepts.
        max_length: number of positions.
    """

    def __init__(self, model: PreTrainedModel, max_length: int):
        config, self.model = model.config, model
        self.kernels = implementation(decoder_layers, model.device)
        decoder: Any = model.base_model
        self.embedding = decoder.embed_tokens.weight
        self.heads, self.kv_heads, self.size = config.num_attention_heads, config.num_key_value_heads, head_size(config)
        device = self.embedding.device
        positions = torch.arange(max_length, device=device)[None]
        cos, sin = decoder.rotary_emb(torch.empty(0, dtype=torch.float32, device=device), positions)
        cos, sin = (x[0, :, : self.size // 2].contiguous() for x in (cos, sin))
        self.layers = [_layer_of(layer, cos, sin) for layer in decoder.layers]
        self.norm = _Norm.of(decoder.norm)

    @staticmethod
    def is_supported(model: PreTrainedModel) -> bool:
        """Returns True where these operations compute the model's layers."""
        config: Any = model.config
        rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        windowed = getattr(config, "use_sliding_window", False)
        return has_known_layers(config) and rotation in _FIXED_ROTATIONS and not windowed

    def __call__(self, input_ids: Tensor, position_ids: Tensor, attention: Attention) -> Tensor:
        """Final hidden states [T, H] of tokens [T] at positions [T]."""
        kernels, update = self.kernels, None
        residual = F.embedding(input_ids, self.embedding).float()
        for index, layer in enumerate(self.layers):
            x = kernels.add_norm_(residual, update, *layer.first)
            qkv = F.linear(x, *layer.qkv)
            mixed = self._attended(index, qkv, position_ids, attention)
            update = F.linear(mixed.flatten(1), *layer.out)
            x = kernels.add_norm_(residual, update, *layer.second)
            update = F.linear(kernels.swiglu(F.linear(x, *layer.gate_up)), *layer.down)
        hidden: Tensor = kernels.add_norm_(residual, update, *self.norm)
        return hidden

    def _attended(self, index: int, qkv: Tensor, position_ids: Tensor, attention: Attention) -> Tensor:
        rotation, scale = self.layers[index].rotation, self.layers[index].scale
        heads = qkv.view(qkv.shape[0], -1, self.size)
        q, k, v = torch.split_with_sizes(heads, [self.heads, self.kv_heads, self.kv_heads], 1)
        if isinstance(attention, DecodeAttention) and attention.rotates:
            return attention.attend(index, q, k, v, scale, rotation)
        self.kernels.rotate_(qkv, position_ids, self.heads, self.kv_heads, rotation)
        return attention.attend(index, q, k, v, scale)


def _layer_of(layer: Any, cos: Tensor, sin: Tensor) -> _Layer:
    attention, mlp, norms = layer.self_attn, layer.mlp, None
    if hasattr(attention, "q_norm"):
        norms = attention.q_norm.weight, attention.k_norm.weight, attention.q_norm.variance_epsilon
    return _Layer(
        first=_Norm.of(layer.input_layernorm),
        qkv=_joined([attention.q_proj, attention.k_proj, attention.v_proj]),
        rotation=Rotation(cos, sin, norms),
        scale=attention.scaling,
        out=_Linear.of(attention.o_proj),
        second=_Norm.of(layer.post_attention_layernorm),
        gate_up=_joined([mlp.gate_proj, mlp.up_proj]),
        down=_Linear.of(mlp.down_proj),
    )


def _joined(layers: Sequence[nn.Linear]) -> _Linear:
    """One weight and bias for several layers of the same input, whose own become views of it."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    biased = [layer for layer in layers if layer.bias is not None]
    if biased and len(biased) < len(layers):
        raise ValueError("layers multiplied together must all have a bias or none")
    bias = torch.cat([layer.bias.detach() for layer in layers]) if biased else None
    start = 0
    for layer in layers:
        end = start + layer.out_features
        layer.weight = nn.Parameter(weight[start:end], requires_grad=False)
        if bias is not None:
            layer.bias = nn.Parameter(bias[start:end], requires_grad=False)
        start = end
    return _Linear(weight, bias)
