"""A policy's plain weights: adapters merged, 4 and 8 bits expanded."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from vibethinker.models.adapters import plain_name
from vibethinker.models.quantization import expanded


def plain_weights(policy: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The policy's weights under their plain Hugging Face names: adapters merged in float32, 4 and 8 bits expanded.

    Tied weights come once. Made one at a time, so that a merged copy of the model never exists.
    """
    seen: set[int] = set()
    for prefix, module in policy.named_modules():
        delta = hasattr(module, "get_delta_weight") and bool(getattr(module, "active_adapters", ()))
        transient = module._non_persistent_buffers_set
        buffers = [(name, b) for name, b in module.named_buffers(recurse=False) if name not in transient]
        for name, parameter in [*module.named_parameters(recurse=False), *buffers]:
            path = f"{prefix}.{name}"
            if "lora_" in path or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            yield plain_name(path), expanded(module, parameter)
        if delta:
            layer: Any = module
            base = layer.get_base_layer()
            seen.add(id(base.weight))
            merged = expanded(base, base.weight).float()
            for adapter in layer.active_adapters:
                merged = merged + layer.get_delta_weight(adapter).float()
            yield plain_name(f"{prefix}.weight"), merged


def plain_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """A configuration without traces of quantization."""
    plain = copy.deepcopy(config)
    for trace in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(plain, trace):
            delattr(plain, trace)
    return plain


@torch.no_grad()
def copy_weights(policy: PreTrainedModel, into: PreTrainedModel) -> None:
    """Copies the policy's plain weights into a model of the same architecture, in that model's precision."""
    targets, copied = into.state_dict(), set()
    for name, weight in plain_weights(policy):
        copied.add(targets[name].copy_(weight).data_ptr())
    if missing := [name for name, target in targets.items() if target.data_ptr() not in copied]:
        raise RuntimeError(f"the policy has no {missing[0]}")
