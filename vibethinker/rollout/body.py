"""The decoder of Llama-like models for inference: the replica's own weights, few operations.

What transformers computes in some thirty operations a layer takes eight here: queries, keys and values are one product,
gate and up another, and what lies between products is one pass each. The residual stream is float32, as it is in an
update under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from vibethinker.attention import Attention
from vibethinker.kernels import kernels_of
from vibethinker.rollout import steps
from vibethinker.rollout.cache import DecodeAttention, head_size
from vibethinker.rollout.steps import Rotation

_SERVED = ("llama", "qwen2", "qwen3")
_FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")  # angles that do not change with the sequence


class FusedBody:
    """A model's decoder as a function of tokens, positions and attention, `[T] → [T, H]`.

    The weights stay the model's parameters, under the same names: those that are multiplied together are moved into
    one tensor, of which they are views. Copying new weights into the model is all there is to a new policy.

    Args:
        model: one that `serves` says yes to.
        max_length: positions there are.
    """

    def __init__(self, model: PreTrainedModel, max_length: int):
        config, self.model = model.config, model
        self.kernels: Any = kernels_of(model.device, "steps", steps)
        decoder: Any = model.base_model
        self.embedding, self.norm, self.layers = decoder.embed_tokens, decoder.norm, decoder.layers
        self.heads, self.kv_heads, self.size = config.num_attention_heads, config.num_key_value_heads, head_size(config)
        attention, mlp = [layer.self_attn for layer in self.layers], [layer.mlp for layer in self.layers]
        self.qkv = [_joined([a.q_proj, a.k_proj, a.v_proj]) for a in attention]
        self.gate_up = [_joined([m.gate_proj, m.up_proj]) for m in mlp]
        device = self.embedding.weight.device
        positions = torch.arange(max_length, device=device)[None]
        cos, sin = decoder.rotary_emb(torch.empty(0, dtype=torch.float32, device=device), positions)
        cos, sin = (x[0, :, : self.size // 2].contiguous() for x in (cos, sin))
        self.rotations = [Rotation(cos, sin, _head_norms(a)) for a in attention]

    @staticmethod
    def serves(model: PreTrainedModel) -> bool:
        """Whether the model's decoder is one of those known here."""
        config: Any = model.config
        rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        return (
            config.model_type in _SERVED
            and config.hidden_act == "silu"
            and rotation in _FIXED_ROTATIONS
            and not getattr(config, "use_sliding_window", False)
        )

    def __call__(self, input_ids: Tensor, position_ids: Tensor, attention: Attention) -> Tensor:
        kernels, update = self.kernels, None
        residual = self.embedding(input_ids).float()
        for index, layer in enumerate(self.layers):
            x = kernels.add_norm_(residual, update, *_norm(layer.input_layernorm))
            qkv = F.linear(x, *self.qkv[index])
            mixed = self._attended(index, qkv, position_ids, attention)
            update = layer.self_attn.o_proj(mixed.flatten(1))
            x = kernels.add_norm_(residual, update, *_norm(layer.post_attention_layernorm))
            update = layer.mlp.down_proj(kernels.swiglu(F.linear(x, *self.gate_up[index])))
        hidden: Tensor = kernels.add_norm_(residual, update, *_norm(self.norm))
        return hidden

    def _attended(self, index: int, qkv: Tensor, position_ids: Tensor, attention: Attention) -> Tensor:
        rotation, scale = self.rotations[index], self.layers[index].self_attn.scaling
        q, k, v = qkv.view(len(qkv), -1, self.size).split([self.heads, self.kv_heads, self.kv_heads], 1)
        if isinstance(attention, DecodeAttention) and attention.plain is None:
            return attention.attend(index, q, k, v, scale, rotation)
        self.kernels.rotate_(qkv, position_ids, self.heads, self.kv_heads, rotation)
        return attention.attend(index, q, k, v, scale)


def _norm(module: Any) -> tuple[Tensor, float]:
    return module.weight, module.variance_epsilon


def _head_norms(attention: Any) -> tuple[Tensor, Tensor, float] | None:
    if not hasattr(attention, "q_norm"):
        return None
    return attention.q_norm.weight, attention.k_norm.weight, attention.q_norm.variance_epsilon


def _joined(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
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
    return weight, bias
