"""Loading a model for training or sampling, with an adapter, over a base in full precision, 4 or 8 bits.

Every model goes through here, the nano model that ships with the package and any Hugging Face folder or hub name alike.

Weights that are trained are float32, an adapter's too. A frozen base is bfloat16 on CUDA, half the memory: autocast
would round its matrices to that at every use, and the sampler's replica and the reference hold it so. What changes is
that the residual stream is rounded to bfloat16 as well, as the replica's is. On a CPU it is float32.
"""

from __future__ import annotations

import copy
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from vibethinker.models.adapters import ADAPTER_BASE, base_changes, base_folder, changed_weights
from vibethinker.models.plain_weights import copy_weights, plain_config
from vibethinker.models.quantization import (
    Quantization,
    check_method,
    is_quantized,
    loading_options,
    need_bitsandbytes,
    round_trip,
)
from vibethinker.models.source import ModelSource
from vibethinker.packed import attention

BaseDtype = Literal["auto", "float32", "bfloat16"]


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


def load_model(
    source: ModelSource,
    *,
    lora: Lora | None = None,
    quantization: Quantization | None = None,
    base_dtype: BaseDtype = "auto",
    gradient_checkpointing: bool = False,
    trainable: bool = True,
) -> PreTrainedModel:
    """A causal language model for packed sequences, with float32 master weights where it is trained.

    Under `with torch.device("meta")` no weights are read: all options are checked, and parameters have shapes alone.

    Args:
        source: of an adapter alone, the adapter is merged into its base.
        lora: train an adapter; the base is frozen.
        quantization: hold the frozen base in 4 or 8 bits (bitsandbytes), `4bit-double` with quantized scales; needs
            `lora`. A checkpoint that is quantized already says so itself.
        base_dtype: precision of a frozen base, and of computing with one in 4 bits; `auto` is bfloat16 on CUDA and
            float32 on CPU.
        gradient_checkpointing: recompute activations in backward.
        trainable: False for a model to sample from, all of it frozen.

    Raises:
        ValueError, FileNotFoundError: one line; before weights are read wherever the configuration can tell.
    """
    frozen = lora is not None or not trainable
    _check_quantization(source, quantization, frozen)
    if base_dtype != "auto" and not frozen:
        raise ValueError("base_dtype needs lora: weights that are trained stay float32")
    half = base_dtype == "bfloat16" or (base_dtype == "auto" and torch.cuda.is_available())
    dtype = torch.bfloat16 if frozen and half else torch.float32
    model = _check_architecture(source, dtype, lora)
    if torch.get_default_device().type != "meta":
        model = _load(source, dtype, quantization)
    if not trainable:
        # Training mode all the same: in evaluation mode bitsandbytes repacks 4-bit weights on a CPU.
        return model.requires_grad_(False).train()
    if gradient_checkpointing:
        with_checkpointing(model)
    return (model if lora is None else with_lora(model, lora)).train()


def build_model(
    config: PreTrainedConfig, dtype: torch.dtype, device: torch.device | str = "meta", *, packed: bool = True
) -> PreTrainedModel:
    """The unquantized model of a configuration, with weights that are not set; on `meta` they take no memory.

    Args:
        config: its traces of quantization are ignored.
        dtype: of the weights.
        device: of the weights.
        packed: attend to packed sequences; otherwise to padded batches, as transformers does.
    """
    config = plain_config(config)
    config._attn_implementation = attention.NAME if packed else None
    with no_init_weights(), torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    return model


def with_lora(model: PreTrainedModel, lora: Lora) -> Any:
    """The model frozen, with an adapter to train."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft scales by a float as well
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    with model.device if model.device.type == "meta" else nullcontext():
        return get_peft_model(model, config)


def with_checkpointing(policy: Any) -> Any:
    """The same model, its activations recomputed in backward."""
    # the new name of it, where transformers has it
    enable = getattr(policy, "activation_checkpointing_enable", None) or policy.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    policy.enable_input_require_grads()  # with a frozen base the first layer's input must still carry a gradient
    return policy


def _check_quantization(source: ModelSource, quantization: Quantization | None, frozen: bool) -> None:
    stored = getattr(source.config, "quantization_config", None)
    if quantization and not frozen:
        raise ValueError("quantization needs lora: quantized weights cannot be trained themselves")
    if quantization:
        need_bitsandbytes("quantization")
    if stored is None or source.adapter:  # merged, an adapter's base is in full precision
        return
    check_method(f"model {source.name!r}", stored)
    if quantization:
        raise ValueError(f"quantization: model {source.name!r} is quantized already; leave the option out")
    if not frozen:
        raise ValueError(
            f"model {source.name!r} needs lora: it is quantized, and its weights cannot be trained themselves"
        )


def _check_architecture(source: ModelSource, dtype: torch.dtype, lora: Lora | None) -> Any:
    """The model on the meta device, with an attention, a head and target layers as training and sampling need them."""
    model = f"model {source.name!r}"
    try:
        bare = build_model(source.config, dtype)
    except KeyError as error:  # a table of its own attention classes, as GPT-J and Falcon have
        reason = "its attention does not go through transformers' AttentionInterface"
        raise ValueError(f"{model} is not supported: {reason}") from error
    if getattr(bare.get_output_embeddings(), "bias", None) is not None:
        raise ValueError(f"{model} is not supported: its head has a bias")
    for option in ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier"):
        if getattr(source.config, option, None) not in (None, 1):
            raise ValueError(f"{model} is not supported: its config.json has {option}")
    if lora is None or lora.target_modules == "all-linear":
        return bare
    ends = (bare.get_input_embeddings(), bare.get_output_embeddings())
    linear = [n for n, m in bare.named_modules() if isinstance(m, nn.Linear | Conv1D) and m not in ends]
    for target in lora.target_modules:
        if any(f".{name}".endswith(f".{target}") for name, module in bare.named_modules() if module in ends):
            raise ValueError("lora.target_modules must leave out the embedding and the head: their weights may be one")
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            there = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ValueError(f"lora.target_modules: {target!r} is no linear layer of {model}; it has {there}")
    return bare


def load_in_full(source: ModelSource) -> Any:
    """The model on the CPU with its adapter merged and 4 and 8 bits expanded, in float32.

    Raises:
        ValueError, FileNotFoundError: one line; the adapter does not fit its base.
    """
    config, folder, quantized = copy.deepcopy(source.config), source.path, None
    if source.adapter:
        path = Path(source.path)
        folder, quantized = str(base_folder(path)), base_changes(path).get("quantized")
        weights = build_model(config, torch.float32).state_dict()
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        changed_weights(path, shapes, source.base, bool(config.tie_word_embeddings))
        if quantized and (missing := sorted(set(quantized["weights"]) - shapes.keys())):
            raise ValueError(f"{path / ADAPTER_BASE}: {missing[0]} is no tensor of the base {source.base}")
    model = _from_pretrained(source, folder, config=config, dtype=torch.float32, device_map={"": "cpu"})
    if hasattr(config, "quantization_config"):
        full = build_model(config, torch.float32, "cpu")
        copy_weights(model, full)
        full.generation_config, model = model.generation_config, full
    if quantized:
        need_bitsandbytes(str(path / ADAPTER_BASE))
        for name in quantized["weights"]:
            weight = model.get_parameter(name)
            weight.data = round_trip(weight.data, quantized).float()
    if source.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, source.path, low_cpu_mem_usage=True).merge_and_unload()
        if (path / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(path)
    return model.requires_grad_(True)


def _load(source: ModelSource, dtype: torch.dtype, quantization: Quantization | None) -> Any:
    """The weights in a model for packed sequences; those not in 4 or 8 bits in the dtype asked for."""
    config, folder = copy.deepcopy(source.config), source.path
    options: dict[str, Any] = {"dtype": dtype}
    stored = None if source.adapter else getattr(config, "quantization_config", None)
    if quantization:
        options["quantization_config"] = loading_options(quantization, dtype)
    elif stored:
        stored["bnb_4bit_compute_dtype"] = str(dtype).removeprefix("torch.")
    if (quantization or stored) and torch.cuda.is_available():
        options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", 0))}
    if not source.adapter:
        model = _from_pretrained(source, folder, config=config, **options)
    else:
        model = load_in_full(source)
        if quantization:
            generation = model.generation_config
            options |= {"config": plain_config(config), "state_dict": model.state_dict()}
            model = _from_pretrained(source, None, **options)
            model.generation_config = generation
    for parameter in model.parameters():
        if not is_quantized(parameter):
            parameter.data = parameter.data.to(dtype)  # transformers keeps what a quantized checkpoint has
    model.name_or_path = model.config._name_or_path = source.path
    return model


def _from_pretrained(source: ModelSource, folder: str | None, **options: Any) -> Any:
    """A model for packed sequences as transformers loads it, every weight from the files."""
    what = f"model {source.name!r}"
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # errors below, in one line
    kind: Any = type(build_model(options["config"], options["dtype"]))
    try:
        model, info = kind.from_pretrained(folder, attn_implementation=attention.NAME, **options)
    except (OSError, RuntimeError, ValueError, ImportError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{what} cannot be loaded: {reason}") from error
    if missing := sorted(info["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{what}: its files have no {missing[0]}{more}")
    for name, stored, shape in sorted(info["mismatched_keys"]):
        raise ValueError(f"{what}: {name} has shape {list(stored)} in its files, {list(shape)} by its config.json")
    return model
