"""An expert as fusion sees it: a model folder, or an adapter over one, giving float32 weights range by range.

Weights in 4 or 8 bits are expanded, of the folder itself or of an adapter's base.

A LoRA adapter (arXiv 2106.09685) is added to its base here, before any averaging: the mean of the products B·A is not
the product of the means.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from vibethinker.models.quantization import (
    QuantizedRef,
    check_method,
    need_bitsandbytes,
    quantized_on_loading,
    stored_in_full,
)
from vibethinker.utils.safetensors_io import Files, TensorRef, read_header, read_tensors, weight_files

FLOATS: Final = (torch.float32, torch.bfloat16, torch.float16)
ADAPTER: Final = "adapter_model.safetensors"
ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_BASE: Final = "adapter_base.json"  # ours: what else than base_model_name_or_path says makes the base
_SIDECARS: Final = (
    *("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*"),
    *("additional_chat_templates/*", "generation_config.json", "*.py"),
)
# Bookkeeping and generation defaults; every other key of config.json decides what the weights mean.
_FREE_KEYS: Final = {
    *("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
}
# Options of peft's LoraConfig under which the merged weight is not base + scale · B·A.
_UNMERGEABLE: Final = (
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "lora_bias", "monteclora_config"),
    *("target_parameters", "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora", "velora_config"),
)
_PLAIN_INITS: Final = (True, False, "gaussian", "eva", "orthogonal")  # the others also change the base weights
_LORA_KEY: Final = re.compile(r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(\.weight)?")

Fill = Callable[[int, Tensor], None]  # (number of the first element, flat float32 to fill)


@dataclass(frozen=True, slots=True)
class LowRank:
    """An update of one weight: scale · left @ right, with left [rows, r] and right [r, columns]."""

    a: TensorRef  # [r, columns]; of a transposed layer (embedding, Conv1D) [r, rows]
    b: TensorRef  # [rows, r]; transposed [columns, r]
    scale: float
    transposed: bool

    def load(self, files: Files) -> tuple[Tensor, Tensor]:
        """Left, scaled, and right in float32."""
        a, b = files.tensor(self.a).float(), files.tensor(self.b).float()
        return (a.T * self.scale, b.T) if self.transposed else (b * self.scale, a)

    def shape(self) -> tuple[int, int]:
        """Of the update."""
        rows, columns = self.b.shape[0], self.a.shape[1]
        return (columns, rows) if self.transposed else (rows, columns)


@dataclass(frozen=True)
class Expert:
    """One checkpoint.

    Attributes:
        folder: as given.
        config: its `config.json` without traces of quantization; of an adapter, the base's as it was trained.
        tensors: every tensor once; tied copies are left out, modules that an adapter replaces are its own.
        deltas: what an adapter adds, by tensor name.
        folders: where tokenizer and other small files are found; later ones win.
        files: the weight files.
    """

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, TensorRef]
    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    deltas: dict[str, LowRank] = field(default_factory=dict)

    def dtype(self, name: str) -> torch.dtype:
        """Of the weight; of an adapted one the widest of base, A and B."""
        refs = [self.tensors[name]]
        if delta := self.deltas.get(name):
            refs += [delta.a, delta.b]
        return reduce(torch.promote_types, [ref.dtype for ref in refs])

    def reader(self, name: str, files: Files, scratch: Tensor) -> Fill:
        """A function that fills float32 ranges of a weight, the adapter merged; `scratch` holds a range as stored."""
        ref = self.tensors[name]
        whole = ref.expanded(files).view(-1) if isinstance(ref, QuantizedRef) else None

        def plain(start: int, values: Tensor) -> None:
            if whole is not None:
                values.copy_(whole[start : start + values.numel()])
            elif ref.dtype == torch.float32:
                files.read(ref, start, values)
            else:
                stored = scratch.view(ref.dtype)[: values.numel()]
                files.read(ref, start, stored)
                values.copy_(stored)

        if name not in self.deltas:
            return plain
        left, right = self.deltas[name].load(files)
        columns = right.shape[1]

        def merged(start: int, values: Tensor) -> None:
            plain(start, values)
            stop = start + values.numel()
            first = start // columns
            update = left[first : math.ceil(stop / columns)] @ right
            values += update.view(-1)[start - first * columns : stop - first * columns]

        return merged

    def sidecars(self) -> dict[str, Path]:
        """Tokenizer, chat template, generation config, remote code: name within the folder → file."""
        return {
            str(path.relative_to(folder)): path
            for folder in self.folders
            for pattern in _SIDECARS
            for path in sorted(folder.glob(pattern))
            if path.is_file()
        }

    def vocabulary_file(self) -> Path | None:
        """Where its tokens are listed; None without a tokenizer."""
        files = self.sidecars()
        names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
        return next((files[name] for name in names if name in files), None)


def open_expert(folder: Path) -> Expert:
    """Read what is needed to fuse a folder: configuration and headers, no weights.

    Raises:
        FileNotFoundError, ValueError: one line that names the folder, file and key at fault.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if is_adapter(folder):
        return _open_adapter(folder)
    files = weight_files(folder)
    config = read_json(folder / "config.json")
    quantization = config.pop("quantization_config", None)
    if quantization is not None:
        check_method(str(folder), quantization)
    tensors = _untied(folder, config, read_tensors(folder))
    if quantization is not None:
        tensors = stored_in_full(tensors)
    return Expert(folder, config, tensors, (folder,), tuple(files))


def _untied(folder: Path, config: dict[str, Any], tensors: dict[str, TensorRef]) -> dict[str, TensorRef]:
    """Without `lm_head.weight` where it is stored although tied to the input embedding."""
    head = tensors.get("lm_head.weight")
    if head is None or not config.get("tie_word_embeddings"):
        return tensors
    with Files() as files:
        if not any(files.equal(ref, head) for ref in tensors.values() if ref != head):
            raise ValueError(f"{folder}: tie_word_embeddings is true, but lm_head.weight equals no embedding")
    return {name: ref for name, ref in tensors.items() if ref != head}


def is_adapter(folder: str | Path) -> bool:
    return (Path(folder) / ADAPTER_CONFIG).is_file()


def _open_adapter(folder: Path) -> Expert:
    where = folder / ADAPTER_CONFIG
    settings = read_json(where)
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"{where}: peft_type is {settings.get('peft_type')!r}, only LORA can be merged")
    for option in _UNMERGEABLE:
        if settings.get(option):
            raise ValueError(f"{where}: {option} is set; merge with peft (merge_and_unload) and fuse the result")
    init = settings.get("init_lora_weights", True)
    if init not in _PLAIN_INITS:
        raise ValueError(f"{where}: init_lora_weights {init!r} also changes the base; merge with peft first")
    if not (folder / ADAPTER).is_file():
        raise FileNotFoundError(f"{folder}: {ADAPTER_CONFIG} without {ADAPTER}")
    base = _base_as_trained(folder, open_expert(_base_folder(folder, settings)))
    replaced, deltas = _adapter_tensors(folder / ADAPTER, settings, base)
    return Expert(
        folder,
        base.config,
        {**base.tensors, **replaced},
        (*base.folders, folder),
        (*base.files, folder / ADAPTER),
        deltas,
    )


def base_name(folder: Path) -> str:
    """What an adapter was trained over: a folder, or a hub name."""
    where = folder / ADAPTER_CONFIG
    name = read_json(where).get("base_model_name_or_path")
    if not name:
        raise ValueError(f"{where}: base_model_name_or_path is empty")
    found = next((f for f in (Path(name).expanduser(), folder / name) if f.is_dir()), None)
    if found is None:
        return str(name)
    if is_adapter(found):
        raise ValueError(f"{where}: base_model_name_or_path is itself an adapter")
    return str(found)


def base_changes(folder: Path) -> dict[str, Any]:
    """What an adapter's training changed in its base: `config` values, and weights `quantized` on loading."""
    return read_json(folder / ADAPTER_BASE) if (folder / ADAPTER_BASE).is_file() else {}


def _base_folder(folder: Path, settings: dict[str, Any]) -> Path:
    name = base_name(folder)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=settings.get("revision"), local_files_only=True))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):
        raise FileNotFoundError(
            f"{folder / ADAPTER_CONFIG}: base_model_name_or_path {name!r} is neither a folder nor a downloaded model"
        ) from None


def _base_as_trained(folder: Path, base: Expert) -> Expert:
    """The base with the changes that the adapter's folder tells of."""
    where, changes = folder / ADAPTER_BASE, base_changes(folder)
    config, quantized = changes.get("config") or {}, changes.get("quantized")
    if "rope_parameters" in config:  # the names before transformers 5
        base = replace(base, config={k: v for k, v in base.config.items() if k not in ("rope_theta", "rope_scaling")})
    base = replace(base, config={**base.config, **config})
    if not quantized:
        return base
    need_bitsandbytes(str(where))
    if missing := sorted(set(quantized["weights"]) - base.tensors.keys()):
        raise ValueError(f"{where}: {missing[0]} is no tensor of the base {base.folder}")
    return replace(base, tensors=quantized_on_loading(base.tensors, quantized))


def _adapter_tensors(
    file: Path, settings: dict[str, Any], base: Expert
) -> tuple[dict[str, TensorRef], dict[str, LowRank]]:
    """Whole weights that the adapter replaces, and the low-rank updates, under the base's names."""
    replaced: dict[str, TensorRef] = {}
    sides: dict[str, dict[str, TensorRef]] = {}
    embeddings: set[str] = set()
    for key, ref in read_header(file).items():
        plain = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
        match = _LORA_KEY.fullmatch(plain)
        name = f"{match['module']}.weight" if match else plain
        if name not in base.tensors:
            raise ValueError(f"{file}: {key} belongs to no tensor of the base {base.folder}")
        if base.config.get("tie_word_embeddings") and re.search(r"embed|wte|lm_head", name):
            raise ValueError(f"{file}: {key} changes a tied embedding; merge with peft and fuse the result")
        if match:
            sides.setdefault(name, {})[match["side"]] = ref
            if match["kind"]:
                embeddings.add(name)
        elif ref.shape != base.tensors[name].shape:
            raise ValueError(f"{file}: {key} has shape {ref.shape}, the base {base.tensors[name].shape}")
        else:
            replaced[name] = ref
    deltas: dict[str, LowRank] = {}
    for name, side in sides.items():
        if set(side) != {"A", "B"}:
            raise ValueError(f"{file}: {name} has lora_{next(iter(side))} without its partner")
        rank = side["A"].shape[0]
        scale = _alpha(settings, name) / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        transposed = name in embeddings or bool(settings.get("fan_in_fan_out"))
        delta = deltas[name] = LowRank(side["A"], side["B"], scale, transposed)
        if side["B"].shape[-1] != rank or delta.shape() != base.tensors[name].shape:
            raise ValueError(f"{file}: lora_A and lora_B of {name} do not fit its shape {base.tensors[name].shape}")
    return replaced, deltas


def _alpha(settings: dict[str, Any], name: str) -> float:
    module = name.removesuffix(".weight")
    for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return float(alpha)
    return float(settings.get("lora_alpha", 8))  # peft's default


def check_compatible(experts: Sequence[Expert]) -> None:
    """Refuse experts that are not the same architecture, tensor by tensor.

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
    """What the tokens of a vocabulary file are, apart from the settings around them."""
    if file.name != "tokenizer.json":
        return file.read_bytes()
    tokenizer = read_json(file)
    added = [(token.get("id"), token.get("content")) for token in tokenizer.get("added_tokens", [])]
    return tokenizer.get("model", {}).get("vocab"), added


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object, or one line that names the file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: missing, so {file.parent} is not a checkpoint")
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: not a JSON object")
    return content
