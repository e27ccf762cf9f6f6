"""Where a model comes from: a folder, a hub name, an adapter over either, or the model inside this package.

Everything that is known without reading weights is found out here, once: files, configuration, context, digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from vibethinker.models.adapters import ADAPTER, adapter_base, base_changes, is_adapter
from vibethinker.utils.hub import ask_the_hub
from vibethinker.utils.provenance import digest, file_digest

NANO: Final = "nano"
_NANO_FOLDER: Final = Path(__file__).parents[1] / "nano"
_VOCABULARIES: Final = ("tokenizer.*", "vocab.*", "*.model", "*.tiktoken")  # transformers invents one without any
_DIGESTED: Final = (".json", ".safetensors", ".jinja", ".model", ".txt")  # suffixes of weights, settings, vocabulary


@dataclass(frozen=True, eq=False)
class ModelSource:
    """A model's name, resolved once.

    Attributes:
        name: as given by the user.
        path: folder or hub name, for transformers.
        base: folder or hub name of configuration and base weights; differs from `path` for an adapter alone.
        config: the configuration, of an adapter as it was trained, with the overrides that were asked for.
    """

    name: str
    path: str
    base: str
    config: PreTrainedConfig

    @classmethod
    def of(cls, name: str | Path, context_length: int | None = None, rope_theta: float | None = None) -> ModelSource:
        """Resolves a name and reads the configuration.

        >>> source = ModelSource.of("nano", context_length=1024)
        >>> source.adapter, source.context_length
        (False, 1024)

        Args:
            name: folder, hub name, or `nano`.
            context_length: longest sequence in tokens, in place of what config.json says.
            rope_theta: base of the rotary embedding, likewise; a longer context usually wants a larger one.

        Raises:
            FileNotFoundError: there is no such model.
            ValueError: the folder is neither a checkpoint nor an adapter, or the model does not support an override.
        """
        name = str(name)
        path = _locate(name)
        base = _locate(adapter_base(Path(path))) if is_adapter(path) else path
        with _one_line_errors(name, base):
            config: PreTrainedConfig = AutoConfig.from_pretrained(base)
        for key, value in (base_changes(Path(path)).get("config") or {}).items() if path != base else ():
            setattr(config, key, value)
        if context_length is not None:
            if context_length < 1:
                raise ValueError(f"context_length must be at least 1, got {context_length}")
            config.max_position_embeddings = context_length
        if getattr(config, "max_position_embeddings", None) is None:
            raise ValueError(f"model {name!r} is not supported: its config.json has no max_position_embeddings")
        if rope_theta is not None:
            rope = getattr(config, "rope_parameters", None) or {}
            if not rope_theta > 0 or "rope_theta" not in rope:
                what = "has no single one" if rope_theta > 0 else f"cannot be {rope_theta}"
                raise ValueError(f"rope_theta: model {name!r} {what}")
            config.rope_parameters = {**rope, "rope_theta": float(rope_theta)}
        return cls(name, path, base, config)

    @property
    def adapter(self) -> bool:
        """True if this is an adapter alone, whose weights belong to another model."""
        return self.path != self.base

    @property
    def context_length(self) -> int:
        """Longest sequence in tokens; see `context_of`."""
        return context_of(self.config)

    @cached_property
    def digest(self) -> str:
        """Hash of weights, configuration and tokenizer, of an adapter and its base; of a hub name the commit."""
        return f"{_digest(self.path)} over {_digest(self.base)}" if self.adapter else _digest(self.path)


def _locate(name: str) -> str:
    """The folder or hub name for transformers."""
    folder = Path(name)
    if name == NANO and not folder.exists():
        return str(_NANO_FOLDER)
    hub_name = name.count("/") <= 1 and not name.startswith((".", "/", "~"))
    if not (folder.exists() or not hub_name or (len(folder.parts) > 1 and folder.parent.is_dir())):
        return name
    folder = folder.expanduser()
    if not folder.exists():
        raise ValueError(f"model {name!r}: there is no such folder")
    if is_adapter(folder):
        if not (folder / ADAPTER).is_file():
            raise ValueError(f"model {name!r} is not an adapter folder: it has no {ADAPTER}")
    elif not (folder / "config.json").is_file():
        raise ValueError(f"model {name!r} is not a checkpoint folder: it has no config.json")
    elif not any(folder.glob("*.safetensors")):
        raise ValueError(f"model {name!r} is not a checkpoint folder: it has no *.safetensors")
    return str(folder)


def _digest(path: str) -> str:
    if not Path(path).is_dir():
        return f"commit:{Path(str(cached_file(path, 'config.json'))).parent.name}"
    files = sorted(file for file in Path(path).iterdir() if file.is_file() and file.suffix in _DIGESTED)
    return digest("".join(f"{file.name} {file_digest(file).removeprefix('xxh3_128:')}\n" for file in files))


def context_of(config: PreTrainedConfig) -> int:
    """The longest sequence in tokens whose result does not depend on other sequences of its batch.

    That is the model's context, unless its rotary angles are `longrope`'s: transformers chooses these for a whole
    batch, by whether its longest sequence is longer than those of the model's first training.
    """
    bounds = [r["original_max_position_embeddings"] for r in rotations(config) if r.get("rope_type") == "longrope"]
    return int(min([config.max_position_embeddings, *bounds]))


def rotations(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """The settings of the rotary embedding: one for all layers, or one for each kind of layer."""
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    return [rope] if "rope_type" in rope else [kind for kind in rope.values() if isinstance(kind, dict)]


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; its length limit is at least the model's context.

    Raises:
        ValueError: it has no vocabulary, no chat template or no end-of-sequence token.
    """
    own = not source.adapter or (Path(source.path) / "tokenizer_config.json").is_file()
    path, what = source.path if own else source.base, f"model {source.name!r}"
    if Path(path).is_dir() and not any(file for kind in _VOCABULARIES for file in Path(path).glob(kind)):
        raise ValueError(f"{what}: its folder has no tokenizer.json")
    with _one_line_errors(source.name, path):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    if not tokenizer.chat_template:
        raise ValueError(f"{what}: its tokenizer has no chat template; add chat_template.jinja to the folder")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{what}: its tokenizer has no eos_token")
    tokenizer.model_max_length = max(tokenizer.model_max_length, source.config.max_position_embeddings)
    return tokenizer


@contextmanager
def _one_line_errors(name: str, path: str) -> Iterator[None]:
    """Turns the long errors of transformers and the hub into one line that names the model."""
    try:
        if not Path(path).is_dir():
            ask_the_hub("model", path)
        yield
    except (OSError, ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).partition("\n\n")[0].split())
        if Path(path).is_dir():
            raise ValueError(f"model {name!r}: {reason}") from error
        raise FileNotFoundError(f"model {name!r} is neither a folder here nor found on the hub: {reason}") from error
