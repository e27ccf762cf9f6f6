"""Tiny Qwen2 checkpoints for the tests of fusion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

WORDS = {"[UNK]": 0, "[EOS]": 1, "one": 2, "two": 3, "three": 4}


def tiny_model(seed: int, *, tied: bool = True, spread: float = 0.05, **options: Any) -> Any:
    """A random model, near the one of seed 0 as experts of one trajectory are; biases and norms differ too."""
    config = Qwen2Config(
        **{
            "vocab_size": 37,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "tie_word_embeddings": tied,
            **options,
        }
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    torch.manual_seed(1000 + seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return model


def save_expert(
    folder: Path, seed: int, *, dtype: torch.dtype = torch.float32, shard: str = "5GB", **model: Any
) -> Path:
    """A model folder with a tokenizer that has a chat template."""
    tiny_model(seed, **model).to(dtype).save_pretrained(folder, max_shard_size=shard)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]")), eos_token="[EOS]", unk_token="[UNK]"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


def weights_of(folder: Path) -> dict[str, Tensor]:
    """Everything stored, read by the safetensors library."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def rewrite(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Other weights in a folder of one file."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def edit_json(file: Path, **changes: Any) -> None:
    """Other values in a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def bits(tensor: Tensor) -> Tensor:
    """What is stored, so that −0 differs from 0."""
    return tensor.contiguous().view(-1).view(torch.uint8)


def listing(folder: Path) -> set[str]:
    """Names in a folder, hidden ones included."""
    return {path.name for path in folder.iterdir()}
