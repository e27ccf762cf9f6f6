"""What a model's name stands for: a folder, a hub name, an adapter over either, or the model inside this package.

What can be known without the weights is found out here: configuration, tokenizer, context.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from vibethinker.models.adapters import ADAPTER, base_changes, base_name, is_adapter
from vibethinker.utils.hub import ask_the_hub

NANO = "nano"
_NANO_FOLDER = Path(__file__).parents[1] / "nano"
_VOCABULARIES = ("tokenizer.*", "vocab.*", "*.model", "*.tiktoken")  # without one transformers makes up a tokenizer


def locate(model: str) -> str:
    """A folder or hub name for transformers; `nano` is the model inside this package.

    Raises:
        ValueError: a local folder that is neither a checkpoint nor an adapter.
    """
    folder = Path(model)
    if model == NANO and not folder.exists():
        return str(_NANO_FOLDER)
    hub_name = model.count("/") <= 1 and not model.startswith((".", "/", "~"))
    if not (folder.exists() or not hub_name or (len(folder.parts) > 1 and folder.parent.is_dir())):
        return model
    folder = folder.expanduser()
    if not folder.exists():
        raise ValueError(f"model {model!r}: there is no such folder")
    if is_adapter(folder):
        if not (folder / ADAPTER).is_file():
            raise ValueError(f"model {model!r} is not an adapter folder: it has no {ADAPTER}")
    elif not (folder / "config.json").is_file():
        raise ValueError(f"model {model!r} is not a checkpoint folder: it has no config.json")
    elif not any(folder.glob("*.safetensors")):
        raise ValueError(f"model {model!r} is not a checkpoint folder: it has no *.safetensors")
    return str(folder)


def base_of(model: str) -> str:
    """Where configuration and base weights are: the model itself, or what an adapter was trained over."""
    where = locate(model)
    return locate(base_name(Path(where))) if is_adapter(where) else where


def load_config(model: str, context_length: int | None = None, rope_theta: float | None = None) -> PreTrainedConfig:
    """A model's configuration, of an adapter as it was trained.

    Args:
        model: folder, hub name, or `nano`.
        context_length: longest sequence in tokens, in place of what config.json says.
        rope_theta: base of the rotary embedding, likewise; a longer context usually wants a larger one.

    Raises:
        FileNotFoundError: there is no such model; asked before anything large is loaded.
        ValueError: an option that the model has no place for.
    """
    where, base = locate(model), base_of(model)
    with _found(model, base):
        config: PreTrainedConfig = AutoConfig.from_pretrained(base)
    for name, value in (base_changes(Path(where)).get("config") or {}).items() if is_adapter(where) else ():
        setattr(config, name, value)
    if context_length is not None:
        if context_length < 1:
            raise ValueError(f"context_length must be at least 1, got {context_length}")
        config.max_position_embeddings = context_length
    if rope_theta is not None:
        rope = getattr(config, "rope_parameters", None) or {}
        if not rope_theta > 0 or "rope_theta" not in rope:
            what = "has no single one" if rope_theta > 0 else f"cannot be {rope_theta}"
            raise ValueError(f"rope_theta: model {model!r} {what}")
        config.rope_parameters = {**rope, "rope_theta": float(rope_theta)}
    return config


def context_length(model: str, context_length: int | None = None) -> int:
    """The longest sequence in tokens of a model that may be given another context (`load_config`)."""
    config = load_config(model, context_length)
    if getattr(config, "max_position_embeddings", None) is None:
        raise ValueError(f"model {model!r} is not supported: its config.json has no max_position_embeddings")
    return context_of(config)


def context_of(config: PreTrainedConfig) -> int:
    """The longest sequence in tokens that comes out the same whatever lies beside it.

    That is the model's context, unless its rotary angles are `longrope`'s: transformers chooses these for a whole
    batch, by whether its longest sequence is longer than those of the model's first training.
    """
    bounds = [r["original_max_position_embeddings"] for r in rotations(config) if r.get("rope_type") == "longrope"]
    return int(min([config.max_position_embeddings, *bounds]))


def rotations(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """The settings of the rotary embedding: one for all layers, or one for each kind of layer."""
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    return [rope] if "rope_type" in rope else [kind for kind in rope.values() if isinstance(kind, dict)]


def load_tokenizer(model: str, context_length: int | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, which must carry a chat template and an end-of-sequence token.

    Args:
        model: folder, hub name, or `nano`.
        context_length: what its own limit is raised to, which others hold exported folders to.
    """
    where = locate(model)
    if is_adapter(where) and not (Path(where) / "tokenizer_config.json").is_file():
        where = base_of(model)
    if Path(where).is_dir() and not any(file for kind in _VOCABULARIES for file in Path(where).glob(kind)):
        raise ValueError(f"model {model!r}: its folder has no tokenizer.json")
    with _found(model, where):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(where)
    if not tokenizer.chat_template:
        raise ValueError(f"model {model!r}: its tokenizer has no chat template; add chat_template.jinja to the folder")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"model {model!r}: its tokenizer has no eos_token")
    tokenizer.model_max_length = max(tokenizer.model_max_length, context_length or 0)
    return tokenizer


@contextmanager
def _found(model: str, where: str) -> Iterator[None]:
    """One line for what transformers and the hub have pages about."""
    try:
        if not Path(where).is_dir():
            ask_the_hub("model", where)
        yield
    except (OSError, ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).partition("\n\n")[0].split())
        if Path(where).is_dir():
            raise ValueError(f"model {model!r}: {reason}") from error
        raise FileNotFoundError(f"model {model!r} is neither a folder here nor found on the hub: {reason}") from error
