"""The policy: loading a base model and its tokenizer, adapters, the frozen reference, plain weights, export.

Every model goes through here, the nano model that ships with the package and any Hugging Face folder or hub name alike.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from vibethinker import attention
from vibethinker.problems import Problem
from vibethinker.staging import staged_folder

NANO = "nano"
_weightless: ContextVar[bool] = ContextVar("weightless", default=False)
_NANO_FOLDER = Path(__file__).parent / "nano"


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


def locate(model: str) -> str:
    """A folder or hub name for transformers; `nano` is the model inside this package.

    Raises:
        ValueError: a local folder that is no checkpoint.
    """
    folder = Path(model)
    if model == NANO and not folder.exists():
        return str(_NANO_FOLDER)
    hub_name = model.count("/") <= 1 and not model.startswith((".", "/", "~"))
    if folder.exists() or not hub_name or (len(folder.parts) > 1 and folder.parent.is_dir()):
        folder = folder.expanduser()
        if not (folder / "config.json").is_file():
            raise ValueError(f"model {model!r} is not a checkpoint folder: it has no config.json")
        if not any(folder.glob("*.safetensors")):
            raise ValueError(f"model {model!r} is not a checkpoint folder: it has no *.safetensors")
        return str(folder)
    return model


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, which must carry a chat template and an end-of-sequence token."""
    tokenizer = AutoTokenizer.from_pretrained(locate(model))
    if not tokenizer.chat_template:
        raise ValueError(f"model {model!r}: its tokenizer has no chat template; add chat_template.jinja to the folder")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"model {model!r}: its tokenizer has no eos_token")
    return tokenizer


def load_policy(
    model: str,
    *,
    lora: Lora | None = None,
    quantization: Literal["4bit", "8bit"] | None = None,
    gradient_checkpointing: bool = False,
) -> PreTrainedModel:
    """A causal model ready to be trained on packed rows, with float32 master weights where it is trained.

    Args:
        model: folder, hub name, or `nano`.
        lora: train an adapter; the base is frozen.
        quantization: hold the frozen base in 4 or 8 bits (bitsandbytes); needs `lora`.
        gradient_checkpointing: recompute activations in backward.
    """
    if quantization and lora is None:
        raise ValueError("quantization needs lora: quantized weights cannot be trained themselves")
    if _weightless.get():
        hollow = skeleton(AutoConfig.from_pretrained(locate(model)), lora, torch.float32)
        return with_checkpointing(hollow) if gradient_checkpointing else hollow
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": attention.NAME}
    if quantization:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=quantization == "4bit", load_in_8bit=quantization == "8bit", bnb_4bit_quant_type="nf4"
        )
    policy: Any = AutoModelForCausalLM.from_pretrained(locate(model), **options)
    _check_head(model, policy)
    if gradient_checkpointing:
        with_checkpointing(policy)
    return (policy if lora is None else with_adapter(policy, lora)).train()


@contextmanager
def weightless() -> Iterator[None]:
    """Policies that are loaded here have shapes and no content: to check options, and what they come to."""
    token = _weightless.set(True)
    try:
        yield
    finally:
        _weightless.reset(token)


def skeleton(config: PreTrainedConfig, lora: Lora | None, dtype: torch.dtype) -> Any:
    """A policy on the meta device, unquantized."""
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with no_init_weights(), torch.device("meta"):
        policy: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention.NAME)
        policy.tie_weights()
        return (policy if lora is None else with_adapter(policy, lora)).train()


def with_checkpointing(policy: Any) -> Any:
    """The same policy, its activations recomputed in backward."""
    policy.gradient_checkpointing_enable({"use_reentrant": False})
    policy.enable_input_require_grads()  # with a frozen base the first layer's input must still carry a gradient
    return policy


def with_adapter(policy: PreTrainedModel, lora: Lora) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft scales by a float as well
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    adapted: Any = get_peft_model(policy, config)
    if any(hasattr(part(), "base_layer") for part in (adapted.get_input_embeddings, adapted.get_output_embeddings)):
        raise ValueError("lora.target_modules must leave out the embedding and the head: their weights may be one")
    return adapted


def _check_head(model: str, policy: PreTrainedModel) -> None:
    """Log-probs are computed from hidden states and the head's weight alone; a head that does more is refused."""
    if getattr(policy.get_output_embeddings(), "bias", None) is not None:
        raise ValueError(f"model {model!r} is not supported: its head has a bias")
    for option in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(policy.config, option, None) not in (None, 1):
            raise ValueError(f"model {model!r} is not supported: its config.json has {option}")


def stop_token_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """The end-of-sequence tokens of a model's generation config."""
    eos = model.generation_config.eos_token_id if model.generation_config else None
    return tuple(eos) if isinstance(eos, list) else () if eos is None else (int(eos),)


class FrozenCopy:
    """The policy's plain weights as they are now, without gradients. No module: it enters no checkpoint."""

    def __init__(self, policy: PreTrainedModel):
        self.model: Any = empty_model(policy, torch.float32, next(policy.parameters()).device)
        copy_weights(policy, self.model)

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        self.model.to(device, dtype)

    def __call__(self) -> AbstractContextManager[PreTrainedModel]:
        return nullcontext(self.model)


class AdapterOff:
    """The policy's own base weights with the adapter switched off: no second model in memory."""

    def __init__(self, policy: PreTrainedModel):
        if not hasattr(policy, "disable_adapter"):
            raise ValueError("reference 'adapter_off' needs lora: this policy has no adapter to switch off")
        self.policy: Any = policy

    def __call__(self) -> AbstractContextManager[PreTrainedModel]:
        return _adapter_off(self.policy)


@contextmanager
def _adapter_off(policy: Any) -> Iterator[PreTrainedModel]:
    """Training mode stays: nothing drops out, and in evaluation mode bitsandbytes repacks 4-bit weights on a CPU."""
    with policy.disable_adapter():
        yield policy


def plain_weights(policy: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The policy's weights under their plain Hugging Face names: adapters merged in float32, 4 and 8 bits expanded.

    Tied weights come once. Made one at a time, so that a merged copy of the model never exists.
    """
    seen: set[int] = set()
    for prefix, module in policy.named_modules():
        delta = hasattr(module, "get_delta_weight") and bool(getattr(module, "active_adapters", ()))
        for name, parameter in [*module.named_parameters(recurse=False), *_persistent_buffers(module)]:
            path = f"{prefix}.{name}"
            if "lora_" in path or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            yield _plain_name(path), _expanded(module, name, parameter)
        if delta:
            layer: Any = module
            base = layer.get_base_layer()
            seen.add(id(base.weight))
            merged = _expanded(base, "weight", base.weight).float()
            for adapter in layer.active_adapters:
                merged = merged + layer.get_delta_weight(adapter).float()
            yield _plain_name(f"{prefix}.weight"), merged


def _persistent_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    transient = module._non_persistent_buffers_set
    return [(n, b) for n, b in module.named_buffers(recurse=False) if n not in transient]


def _plain_name(path: str) -> str:
    return path.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _expanded(module: nn.Module, name: str, parameter: Tensor) -> Tensor:
    """A quantized weight in full. PEFT's own helper would put another parameter in the place of one on a CPU."""
    kind, quantized = type(parameter).__name__, cast(Any, parameter)
    if name != "weight" or kind not in ("Params4bit", "Int8Params"):
        return parameter.data
    from bitsandbytes import functional

    if kind == "Params4bit":
        return functional.dequantize_4bit(parameter.data, quantized.quant_state)
    state: Any = module.state
    return functional.int8_vectorwise_dequant(parameter.data, quantized.SCB if state.SCB is None else state.SCB)


def plain_config(policy: PreTrainedModel) -> Any:
    """The model's configuration without traces of quantization or of our attention."""
    config = copy.deepcopy(policy.config)
    for trace in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, trace):
            delattr(config, trace)
    return config


def empty_model(policy: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A frozen model of the policy's architecture, weights not yet set, for packed rows."""
    with no_init_weights(), torch.device(device):
        model = AutoModelForCausalLM.from_config(plain_config(policy), dtype=dtype, attn_implementation=attention.NAME)
    model.tie_weights()
    return model.requires_grad_(False).eval()


@torch.no_grad()
def copy_weights(policy: PreTrainedModel, into: PreTrainedModel) -> None:
    """Copies the policy's plain weights into a model of the same architecture, in that model's precision."""
    targets, copied = into.state_dict(), set()
    for name, weight in plain_weights(policy):
        copied.add(targets[name].copy_(weight).data_ptr())
    if missing := [name for name, target in targets.items() if target.data_ptr() not in copied]:
        raise RuntimeError(f"the policy has no {missing[0]}")


def export(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path, dtype: torch.dtype | None = None
) -> Path:
    """Writes a Hugging Face folder that any tool can load; it appears whole or not at all.

    Args:
        policy: full or LoRA; adapters are merged.
        tokenizer: saved beside the weights with its chat template.
        folder: replaced if it exists.
        dtype: precision of the file, float32 by default so that fusing and further training lose nothing.
    """
    folder = Path(folder)
    model = empty_model(policy, dtype or torch.float32, torch.device("cpu"))
    copy_weights(policy, model)
    model.generation_config = copy.deepcopy(policy.generation_config)
    # demonstrations end with the tokenizer's token: whoever samples this model has to stop there too
    stops = list(dict.fromkeys([*stop_token_ids(policy), tokenizer.eos_token_id]))
    model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    with staged_folder(folder) as scratch:
        try:
            model.save_pretrained(scratch)
        except SafetensorError as error:
            raise OSError(errno.EIO, f"the weights could not be written: {error}", str(folder)) from error
        tokenizer.save_pretrained(scratch)
    return folder


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], instruction: str | None = None
) -> list[list[int]]:
    """What a completion continues: the chat template's rendering of each problem, opened for the assistant."""
    render: Any = tokenizer.apply_chat_template
    return [render(p.messages(instruction), add_generation_prompt=True, return_dict=False) for p in problems]


def context_length(model: str) -> int:
    """The longest sequence a model was made for.

    Raises:
        FileNotFoundError: there is no such model; asked before anything large is loaded.
    """
    try:
        return int(AutoConfig.from_pretrained(locate(model)).max_position_embeddings)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise FileNotFoundError(f"model {model!r} is neither a folder here nor found on the hub: {reason}") from error
