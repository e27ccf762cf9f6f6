"""Checks that packed rows give the log-probs of the model's own forward pass, by computing a few tokens in both ways.

This library replaces attention alone. Other operations that mix tokens (convolutions, recurrent states) would cross the
borders of a packed row, and a scale or a cap between the last hidden state and the logits would be left out, without
any error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vibethinker.packed.attention import PackedAttention, hidden_states
from vibethinker.packed.packing import pack
from vibethinker.packed.patching import is_supported

_TOKENS: Final = 16
# Mean |Δ log-prob| of a sampled token that other kernels explain. It was 0.01 for small random models in bfloat16, and
# 0.3 to 2.5 for those that are computed wrongly; deeper models round more often.
_ROUNDING: Final = 0.01
_ROUNDING_OF_HALF: Final = 0.2


class _AttendingLayers:
    """An attention that records which layers call it and returns zeros."""

    def __init__(self) -> None:
        self.layers: set[int] = set()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        self.layers.add(layer)
        return torch.zeros_like(query)


@torch.no_grad()
def incompatibility(model: PreTrainedModel) -> str | None:
    """Why packed rows of a model cannot be computed, or differ from its own forward pass; `None` if neither.

    For Llama, Qwen2 and Qwen3 it is enough that every layer attends through this library. Any other model computes a
    few tokens in both ways, three short forward passes in all.
    """
    attending, token = _AttendingLayers(), torch.zeros(1, dtype=torch.long, device=model.device)
    try:
        hidden_states(model, token, token, attending)
        if len(attending.layers) < model.config.num_hidden_layers:
            return "not all of its layers attend through transformers' AttentionInterface"
        return None if is_supported(model.config) else _difference(model)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an architecture raises
        return " ".join((str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}").split())


def _difference(model: Any) -> str | None:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    first, other, second = torch.randint(vocabulary, (3, _TOKENS), generator=torch.Generator().manual_seed(0))
    with _evaluating(model):
        beside_first, beside_other = (_packed(model, [beside, second]) for beside in (first, other))
        by_itself = _own(model, second[:-1])
    allowed = _ROUNDING if beside_first.dtype == torch.float32 else _ROUNDING_OF_HALF
    logp, beside, own = (x.float().log_softmax(-1) for x in (beside_first, beside_other, by_itself))
    if not _apart(logp, beside) <= allowed:
        return "a sequence of a packed row changes with the one before it: more than attention mixes its tokens"
    if not _apart(logp, own) <= allowed:
        return "its log-probs here are not its own: it masks or scales attention or logits in a way not known here"
    return None


def _apart(a: Tensor, b: Tensor) -> float:
    """Mean |Δ log-prob| over samples from `b`: for unlikely tokens rounding is large and means nothing."""
    return (b.exp() * (a - b).abs()).sum(-1).mean().item()


def _packed(model: Any, sequences: list[Tensor]) -> Tensor:
    """Logits of the last sequence of a row."""
    row = pack([s[:1] for s in sequences], [s[1:] for s in sequences]).to(model.device)
    hidden = hidden_states(model, row.input_ids, row.position_ids, PackedAttention(row))
    logits: Tensor = model.get_output_embeddings()(hidden[1 - _TOKENS :])
    return logits


def _own(model: Any, ids: Tensor) -> Tensor:
    """Logits of one sequence from the model's own forward pass."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    packed = plain.config._attn_implementation
    plain.set_attn_implementation("eager")
    try:
        logits: Tensor = model(input_ids=ids[None].to(model.device), use_cache=False).logits[0]
    finally:
        plain.set_attn_implementation(packed)
    return logits


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout. Layers of bitsandbytes stay in training mode: in evaluation they repack their weights on a CPU."""
    training = [m for m in model.modules() if m.training and not type(m).__module__.startswith("bitsandbytes")]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
