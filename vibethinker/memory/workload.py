"""What a fit puts on one GPU, as far as its memory depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedConfig

from vibethinker.models.loading import BaseDtype, Lora
from vibethinker.models.quantization import Quantization

Bits = Literal[4, 8, 16, 32]


@dataclass(frozen=True)
class Workload:
    """The most that the options of a fit put on one device.

    Attributes:
        config: of the model.
        lora: the adapter, where one is trained.
        bits: of a base weight: 32 or 16, or 8 or 4 where linear layers are quantized.
        checkpointing: True where activations are recomputed.
        autocast: True where updates run under bfloat16 autocast.
        fused: True where decoder layers are fused if they can be.
        row_tokens: tokens of the longest packed row.
        update_tokens: tokens of the largest update, `None` where it has no bound.
        max_length: longest prompt plus completion in tokens.
        prompt_length: longest prompt in tokens.
        group: completions of a prompt.
        slots: sequences sampled at one time; 0 when nothing is sampled.
        rollouts: completions that are sampled before an update.
        reference: True where there is a frozen copy of the model.
        replicas: processes that exchange gradients.
    """

    config: PreTrainedConfig
    lora: Lora | None
    bits: Bits
    checkpointing: bool
    autocast: bool
    fused: bool
    row_tokens: int
    update_tokens: int | None
    max_length: int
    prompt_length: int
    group: int
    slots: int
    rollouts: int
    reference: bool
    replicas: int

    @property
    def accumulates(self) -> bool:
        """True where an update takes several rows."""
        return self.update_tokens is None or self.row_tokens < self.update_tokens


def base_bits(
    config: PreTrainedConfig, lora: Lora | None, quantization: Quantization | None, base_dtype: BaseDtype
) -> Bits:
    """Bits of a base weight on a GPU, whatever this machine has.

    Args:
        config: as stored, which may be quantized already.
        lora: the adapter, where one is trained and the base is frozen.
        quantization: of the frozen base.
        base_dtype: precision of the frozen base.
    """
    stored = getattr(config, "quantization_config", None) or {}
    if quantization == "8bit" or stored.get("load_in_8bit"):
        return 8
    if quantization or stored:
        return 4
    return 32 if lora is None or base_dtype == "float32" else 16


def tokens_of_update(sequences: int, max_length: int, prompt_length: int = 0, group: int = 1) -> int:
    """Tokens of so many sequences, each as long as it may be, in one row.

    Args:
        sequences: of the update.
        max_length: of a sequence, its prompt included.
        prompt_length: of a prompt.
        group: sequences that share a prompt, which is in the row once.
    """
    shared = sequences - -(-sequences // group)
    return sequences * max_length - shared * prompt_length
