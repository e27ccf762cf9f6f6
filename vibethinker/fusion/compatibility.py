"""Checks that experts can be averaged: one architecture, one vocabulary, the same tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from vibethinker.fusion.expert import FLOATS, Expert
from vibethinker.models.adapters import read_json

# Bookkeeping and generation defaults; every other key of config.json decides what the weights mean.
_FREE_KEYS: Final = {
    *("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
}


def check_compatible(experts: Sequence[Expert]) -> None:
    """Checks that experts have the same architecture, tensor by tensor.

    Raises:
        ValueError: one line that names the folder and the key or tensor that differs from the first expert.
    """
    first = experts[0]
    for name in first.tensors:
        dtype = first.dtype(name)
        if dtype.is_floating_point and dtype not in FLOATS:
            raise ValueError(f"{first.folder}: {name} is {dtype}; only float32, bfloat16 and float16 can be fused")
    for other in experts[1:]:
        _check_configs(first, other)
        _check_tensors(first, other)
        _check_vocabularies(first, other)


def _check_configs(first: Expert, other: Expert) -> None:
    required = {"architectures", "model_type", "hidden_size", "vocab_size"}
    shared = first.config.keys() & other.config.keys()
    for key in sorted((shared | required) - _FREE_KEYS, key=lambda key: (key not in required, key)):
        ours, theirs = first.config.get(key), other.config.get(key)
        if ours != theirs:
            raise ValueError(f"{other.folder}: config.json has {key} {theirs!r}, {first.folder} has {ours!r}")


def _check_tensors(first: Expert, other: Expert) -> None:
    for one, another in ((first, other), (other, first)):
        if missing := sorted(one.tensors.keys() - another.tensors.keys()):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(f"{another.folder}: no tensor {missing[0]}{more}, which {one.folder} has")
    for name, ref in first.tensors.items():
        shape, ours, theirs = other.tensors[name].shape, first.dtype(name), other.dtype(name)
        if ref.shape != shape:
            raise ValueError(f"{other.folder}: {name} has shape {shape}, {first.folder} has {ref.shape}")
        if ours != theirs and not (ours in FLOATS and theirs in FLOATS):
            raise ValueError(f"{other.folder}: {name} is {theirs}, {first.folder} has {ours}")


def _check_vocabularies(first: Expert, other: Expert) -> None:
    ours, theirs = first.vocabulary_file(), other.vocabulary_file()
    if ours is None or theirs is None or ours.read_bytes() == theirs.read_bytes():
        return
    if ours.name != theirs.name or _tokens(ours) != _tokens(theirs):
        raise ValueError(f"{theirs}: its vocabulary is not that of {ours}")


def _tokens(file: Path) -> Any:
    """The tokens of a vocabulary file without the settings around them."""
    if file.name != "tokenizer.json":
        return file.read_bytes()
    tokenizer = read_json(file)
    added = [(token.get("id"), token.get("content")) for token in tokenizer.get("added_tokens", [])]
    return tokenizer.get("model", {}).get("vocab"), added
