"""Models and tokenizers by name."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vibethinker.models import loading, source
from vibethinker.models.source import ModelSource


def load_model(
    name: str, *, context_length: int | None = None, rope_theta: float | None = None, **options: Any
) -> PreTrainedModel:
    """`load_model` of the source that a name stands for."""
    return loading.load_model(ModelSource.of(name, context_length, rope_theta), **options)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """`load_tokenizer` likewise."""
    return source.load_tokenizer(ModelSource.of(name))
