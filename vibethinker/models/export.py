"""The policy as a folder: a Hugging Face model that any tool loads, or the adapter alone."""

from __future__ import annotations

import copy
import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vibethinker.models.adapters import ADAPTER, ADAPTER_BASE, is_adapter, plain_name
from vibethinker.models.loading import build_model
from vibethinker.models.plain_weights import copy_weights
from vibethinker.models.quantization import describe
from vibethinker.models.source import ModelSource
from vibethinker.utils.atomic import staged_folder

_SHARD = "5GB"
_OVERRIDES = ("max_position_embeddings", "rope_parameters")  # what ModelSource.of may have changed


def export(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    *,
    adapter_only: bool = False,
) -> Path:
    """Writes a folder with weights, tokenizer, chat template and generation config; it appears whole or not at all.

    Args:
        policy: full, LoRA or quantized; adapters are merged into what quantized weights stand for.
        tokenizer: saved beside the weights with its chat template.
        folder: replaced if it exists.
        dtype: precision of the file, float32 by default so that fusing and further training lose nothing.
        adapter_only: write PEFT's files instead, which name the base; `vibethinker fuse` and everything that takes a
            model merges them.
    """
    folder = Path(folder)
    if adapter_only:
        check_adapter(policy)
    generation: Any = copy.deepcopy(policy.generation_config)
    # demonstrations end with the tokenizer's token: whoever samples this model has to stop there too
    stops = list(dict.fromkeys([*stop_token_ids(policy), tokenizer.eos_token_id]))
    generation.eos_token_id = stops if len(stops) > 1 else stops[0]
    try:
        generation.validate(strict=True)
    except ValueError:  # some models are published with a temperature and without do_sample; that cannot be saved
        generation.do_sample = True
    with staged_folder(folder) as scratch, one_line_write_errors(folder):
        if adapter_only:
            _write_adapter(policy, scratch)
            generation.save_pretrained(scratch)
        else:
            model = build_model(policy.config, dtype or torch.float32, "cpu")
            copy_weights(policy, model)
            model.generation_config = generation
            model.save_pretrained(scratch, max_shard_size=_SHARD)
        tokenizer.save_pretrained(scratch)
    return folder


@contextmanager
def one_line_write_errors(folder: Path) -> Iterator[None]:
    """Turns an error of the safetensors library into an `OSError` that names the folder."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, f"the weights could not be written: {error}", str(folder)) from error


def stop_token_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """The end-of-sequence tokens of a model's generation config."""
    eos = model.generation_config.eos_token_id if model.generation_config else None
    return tuple(eos) if isinstance(eos, list) else () if eos is None else (int(eos),)


def check_adapter(policy: Any) -> None:
    """Checks that the adapter alone describes the trained policy."""
    if not hasattr(policy, "peft_config"):
        raise ValueError("adapter_only needs lora: this policy has no adapter")
    base = policy.get_base_model().name_or_path
    if is_adapter(base):
        raise ValueError(f"adapter_only: the base {base} is itself an adapter folder; fuse it into a model first")


def _write_adapter(policy: Any, folder: Path) -> None:
    """PEFT's two files, and what else makes the base: changed configuration, weights quantized on loading."""
    from peft import get_peft_model_state_dict

    name = policy.get_base_model().name_or_path
    config = copy.deepcopy(policy.peft_config[policy.active_adapter])
    config.base_model_name_or_path = str(Path(name).resolve()) if Path(name).is_dir() else name
    config.inference_mode = True
    config.save_pretrained(folder)
    weights = get_peft_model_state_dict(policy, save_embedding_layers=False)
    save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, folder / ADAPTER, {"format": "pt"})
    stored = ModelSource.of(name).config
    changes = {key: getattr(policy.config, key, None) for key in _OVERRIDES}
    changes = {key: value for key, value in changes.items() if value != getattr(stored, key, None)}
    plain = ((plain_name(path), parameter) for path, parameter in policy.named_parameters())
    quantized = None if hasattr(stored, "quantization_config") else describe(plain, policy.config.dtype)
    (folder / ADAPTER_BASE).write_text(json.dumps({"config": changes, "quantized": quantized}, indent=2) + "\n")
