"""The policy: loading a model for training or sampling, with an adapter, over a base in full precision, 4 or 8 bits.

Every model goes through here, the nano model that ships with the package and any Hugging Face folder or hub name alike.

Weights that are trained are float32, an adapter's too. A frozen base is bfloat16 on CUDA, half the memory: autocast
would round its matrices to that at every use, and the sampler's replica and the reference hold it so. What changes is
that the residual stream is rounded to bfloat16 as well, as the replica's is. On a CPU it is float32.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from vibethinker.models.adapters import is_adapter
from vibethinker.models.export import export
from vibethinker.models.merging import plain_config, skeleton
from vibethinker.models.quantization import Quantization, check_method, is_quantized, loading_options, need_bitsandbytes
from vibethinker.models.reference import AdapterOff, FrozenCopy
from vibethinker.models.source import context_length, load_config, load_tokenizer, locate
from vibethinker.packed import attention
from vibethinker.problems import Problem

__all__ = [
    "AdapterOff",
    "BaseDtype",
    "FrozenCopy",
    "Lora",
    "Quantization",
    "context_length",
    "export",
    "hollow",
    "load_config",
    "load_policy",
    "load_tokenizer",
    "locate",
    "prompt_ids",
    "weightless",
    "with_checkpointing",
]
BaseDtype = Literal["auto", "float32", "bfloat16"]
_weightless: ContextVar[bool] = ContextVar("weightless", default=False)


@dataclass
class Lora:
    """A low-rank adapter (arXiv 2106.09685) trained instead of the full weights.

    Attributes:
        rank: rank of the update.
        alpha: the update is scaled by alpha / rank.
        dropout: keep 0 for reinforcement learning, where it would put the ratio off before the first update.
        target_modules: names of the layers that get one; `all-linear` is every linear layer but the head.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank must be at least 1, got {self.rank}")


def load_policy(
    model: str,
    *,
    lora: Lora | None = None,
    quantization: Quantization | None = None,
    base_dtype: BaseDtype = "auto",
    gradient_checkpointing: bool = False,
    context_length: int | None = None,
    rope_theta: float | None = None,
    trainable: bool = True,
) -> PreTrainedModel:
    """A causal model ready to be trained on packed rows, with float32 master weights where it is trained.

    Args:
        model: folder, hub name, or `nano`; an adapter folder is its base with the adapter merged.
        lora: train an adapter; the base is frozen.
        quantization: hold the frozen base in 4 or 8 bits (bitsandbytes), `4bit-double` with quantized scales; needs
            `lora`. A checkpoint that is quantized already says so itself.
        base_dtype: precision of a frozen base, and of computing with one in 4 bits; `auto` is bfloat16 on CUDA and
            float32 on CPU.
        gradient_checkpointing: recompute activations in backward.
        context_length: longest sequence, in place of what config.json says; exported folders say it too.
        rope_theta: base of the rotary embedding, likewise.
        trainable: false for a model to sample from, all of it frozen.

    Raises:
        ValueError, FileNotFoundError: one line; before weights are read wherever the configuration can tell.
    """
    config = load_config(model, context_length, rope_theta)
    frozen = lora is not None or not trainable
    _check_quantization(model, config, quantization, frozen)
    if base_dtype != "auto" and not frozen:
        raise ValueError("base_dtype needs lora: weights that are trained stay float32")
    _check_architecture(model, config, lora)
    dtype = _frozen_dtype(base_dtype) if frozen else torch.float32
    if _weightless.get():
        bare = hollow(config, lora, dtype)
        return with_checkpointing(bare) if gradient_checkpointing else bare
    policy: Any = _load(model, config, dtype, quantization)
    if not trainable:
        # Training mode all the same: in evaluation mode bitsandbytes repacks 4-bit weights on a CPU.
        return policy.requires_grad_(False).train()
    if gradient_checkpointing:
        with_checkpointing(policy)
    return (policy if lora is None else _with_adapter(policy, lora)).train()


@contextmanager
def weightless() -> Iterator[None]:
    """Policies that are loaded here have shapes and no content: to check options, and what they come to."""
    token = _weightless.set(True)
    try:
        yield
    finally:
        _weightless.reset(token)


def hollow(config: PreTrainedConfig, lora: Lora | None, dtype: torch.dtype) -> Any:
    """A policy on the meta device, unquantized."""
    policy: Any = skeleton(config, dtype, torch.device("meta"))
    policy.tie_weights()
    with torch.device("meta"):
        return (policy if lora is None else _with_adapter(policy, lora)).train()


def with_checkpointing(policy: Any) -> Any:
    """The same policy, its activations recomputed in backward."""
    # the new name of it, where transformers has it
    enable = getattr(policy, "activation_checkpointing_enable", None) or policy.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    policy.enable_input_require_grads()  # with a frozen base the first layer's input must still carry a gradient
    return policy


def _check_quantization(model: str, config: PreTrainedConfig, quantization: Quantization | None, frozen: bool) -> None:
    stored = getattr(config, "quantization_config", None)
    if quantization and not frozen:
        raise ValueError("quantization needs lora: quantized weights cannot be trained themselves")
    if quantization:
        need_bitsandbytes("quantization")
    if stored is None or is_adapter(locate(model)):  # merged, an adapter's base is in full precision
        return
    check_method(f"model {model!r}", stored)
    if quantization:
        raise ValueError(f"quantization: model {model!r} is quantized already; leave the option out")
    if not frozen:
        raise ValueError(f"model {model!r} needs lora: it is quantized, and its weights cannot be trained themselves")


def _check_architecture(model: str, config: PreTrainedConfig, lora: Lora | None) -> None:
    """Refuses heads that do more than a matrix product, since log-probs need no more, and adapters without a place."""
    try:
        bare = skeleton(config, torch.float32, torch.device("meta"))
    except KeyError as error:  # a table of its own attention classes, as GPT-J and Falcon have
        reason = "its attention does not go through transformers' AttentionInterface"
        raise ValueError(f"model {model!r} is not supported: {reason}") from error
    if getattr(bare.get_output_embeddings(), "bias", None) is not None:
        raise ValueError(f"model {model!r} is not supported: its head has a bias")
    for option in ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier"):
        if getattr(config, option, None) not in (None, 1):
            raise ValueError(f"model {model!r} is not supported: its config.json has {option}")
    if lora is None or lora.target_modules == "all-linear":
        return
    ends = (bare.get_input_embeddings(), bare.get_output_embeddings())
    linear = [n for n, m in bare.named_modules() if isinstance(m, nn.Linear | Conv1D) and m not in ends]
    for target in lora.target_modules:
        if any(f".{name}".endswith(f".{target}") for name, module in bare.named_modules() if module in ends):
            raise ValueError("lora.target_modules must leave out the embedding and the head: their weights may be one")
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            there = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ValueError(f"lora.target_modules: {target!r} is no linear layer of model {model!r}; it has {there}")


def _frozen_dtype(asked: BaseDtype) -> torch.dtype:
    if asked == "auto":
        return torch.bfloat16 if torch.cuda.is_available() else torch.float32
    dtype: torch.dtype = getattr(torch, asked)
    return dtype


def _load(model: str, config: PreTrainedConfig, dtype: torch.dtype, quantization: Quantization | None) -> Any:
    """The weights in a model for packed rows; those not in 4 or 8 bits in the dtype asked for."""
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention.NAME}
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # refused below, in one line
    merged = is_adapter(locate(model))
    config = plain_config(config) if merged else config
    stored = getattr(config, "quantization_config", None)
    if quantization:
        options["quantization_config"] = loading_options(quantization, dtype)
    elif stored:
        stored["bnb_4bit_compute_dtype"] = str(dtype).removeprefix("torch.")
    if (quantization or stored) and torch.cuda.is_available():
        options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", 0))}
    with _in_full(model) as folder:
        try:
            loader: Any = AutoModelForCausalLM
            policy, info = loader.from_pretrained(folder, config=config, **options)
        except (OSError, RuntimeError, ValueError, ImportError, SafetensorError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"model {model!r} cannot be loaded: {reason}") from error
    if missing := sorted(info["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"model {model!r}: its files have no {missing[0]}{more}")
    for name, stored_shape, shape in sorted(info["mismatched_keys"]):
        raise ValueError(
            f"model {model!r}: {name} has shape {list(stored_shape)} in its files, {list(shape)} by its config.json"
        )
    for parameter in policy.parameters():
        if not is_quantized(parameter):
            parameter.data = parameter.data.to(dtype)  # transformers keeps what a quantized checkpoint has
    policy.name_or_path = policy.config._name_or_path = locate(model)
    return policy


@contextmanager
def _in_full(model: str) -> Iterator[str]:
    """The model's folder or hub name; for an adapter a folder, gone afterwards, with its base and it merged."""
    where = locate(model)
    if not is_adapter(where):
        yield where
        return
    from vibethinker.fusion import fuse

    with TemporaryDirectory(prefix="vibethinker-") as scratch:
        merged = Path(scratch) / "merged"
        fuse([where], merged)
        yield str(merged)


def _with_adapter(policy: PreTrainedModel, lora: Lora) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft scales by a float as well
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(policy, config)


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], instruction: str | None = None
) -> list[list[int]]:
    """What a completion continues: the chat template's rendering of each problem, opened for the assistant."""
    render: Any = tokenizer.apply_chat_template
    return [render(p.messages(instruction), add_generation_prompt=True, return_dict=False) for p in problems]
