"""A LoRA adapter alone (arXiv 2106.09685), as PEFT stores it: its base, and whether it can be merged.

PEFT names the base; `adapter_base.json` adds what training changed in it: configuration, and weights that were
quantized on loading.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open

ADAPTER: Final = "adapter_model.safetensors"
ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_BASE: Final = "adapter_base.json"
# Options of peft's LoraConfig under which the merged weight is not base + scale · B·A.
_UNMERGEABLE: Final = (
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "lora_bias", "monteclora_config"),
    *("target_parameters", "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora", "velora_config"),
)
_PLAIN_INITS: Final = (True, False, "gaussian", "eva", "orthogonal")  # the others also change the base weights
_LORA_KEY: Final = re.compile(r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(\.weight)?")


def is_adapter(folder: str | Path) -> bool:
    """True for a folder that PEFT wrote."""
    return (Path(folder) / ADAPTER_CONFIG).is_file()


def adapter_base(folder: Path) -> str:
    """The folder or hub name of an adapter's base.

    Raises:
        ValueError, FileNotFoundError: the adapter cannot be merged, or names no base; names file and option.
    """
    file = folder / ADAPTER_CONFIG
    settings = read_json(file)
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"{file}: peft_type is {settings.get('peft_type')!r}, only LORA can be merged")
    for option in _UNMERGEABLE:
        if settings.get(option):
            raise ValueError(f"{file}: {option} is set; merge with peft (merge_and_unload) and fuse the result")
    init = settings.get("init_lora_weights", True)
    if init not in _PLAIN_INITS:
        raise ValueError(f"{file}: init_lora_weights {init!r} also changes the base; merge with peft first")
    name = settings.get("base_model_name_or_path")
    if not name:
        raise ValueError(f"{file}: base_model_name_or_path is empty")
    found = next((f for f in (Path(name).expanduser(), folder / name) if f.is_dir()), None)
    if found is None and (name.count("/") > 1 or name.startswith((".", "/", "~"))):
        raise _no_base(folder, name)
    if found is not None and is_adapter(found):
        raise ValueError(f"{file}: base_model_name_or_path is itself an adapter")
    return str(found or name)


def base_changes(folder: Path) -> dict[str, Any]:
    """Changes that an adapter's training made in its base: `config` values, and weights `quantized` on loading."""
    return read_json(folder / ADAPTER_BASE) if (folder / ADAPTER_BASE).is_file() else {}


def base_folder(folder: Path) -> Path:
    """The folder with the weights of an adapter's base; a hub name must have been downloaded."""
    name = adapter_base(folder)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        revision = read_json(folder / ADAPTER_CONFIG).get("revision")
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):
        raise _no_base(folder, name) from None


def _no_base(folder: Path, name: str) -> FileNotFoundError:
    what = f"base_model_name_or_path {name!r} is neither a folder nor a downloaded model"
    return FileNotFoundError(f"{folder / ADAPTER_CONFIG}: {what}")


def changed_weights(folder: Path, shapes: Mapping[str, tuple[int, ...]], base: str, tied: bool) -> set[str]:
    """The weights of the base that an adapter changes.

    Args:
        folder: of the adapter.
        shapes: of the base's weights, by name.
        base: its name, for errors.
        tied: True if input embedding and head are one weight.

    Raises:
        ValueError: the adapter does not fit the base; names file and weight.
    """
    file, sides, found = folder / ADAPTER, dict[str, dict[str, list[int]]](), set[str]()
    with safe_open(file, "pt") as tensors:
        stored = {key: list(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    flipped = dict.fromkeys(shapes, bool(read_json(folder / ADAPTER_CONFIG).get("fan_in_fan_out")))
    for key, shape in stored.items():
        plain = plain_name(key)
        match = _LORA_KEY.fullmatch(plain)
        name = f"{match['module']}.weight" if match else plain
        if name not in shapes:
            raise ValueError(f"{file}: {key} belongs to no tensor of the base {base}")
        if tied and re.search(r"embed|wte|lm_head", name):
            raise ValueError(f"{file}: {key} changes a tied embedding; merge with peft and fuse the result")
        found.add(name)
        if match:
            sides.setdefault(name, {})[match["side"]] = shape
            flipped[name] |= bool(match["kind"])
        elif tuple(shape) != shapes[name]:
            raise ValueError(f"{file}: {key} has shape {tuple(shape)}, the base {shapes[name]}")
    for name, side in sides.items():
        if set(side) != {"A", "B"}:
            raise ValueError(f"{file}: {name} has lora_{next(iter(side))} without its partner")
        (rank, columns), (rows, inner) = side["A"], side["B"]
        if inner != rank or ((columns, rows) if flipped[name] else (rows, columns)) != shapes[name]:
            raise ValueError(f"{file}: lora_A and lora_B of {name} do not fit its shape {shapes[name]}")
    return found


def plain_name(path: str) -> str:
    """A parameter's name without what an adapter puts around it."""
    return path.removeprefix("base_model.model.").replace(".base_layer.", ".")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        FileNotFoundError, ValueError: one line that names the file.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: missing, so {file.parent} is not a checkpoint")
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: not a JSON object")
    return content
