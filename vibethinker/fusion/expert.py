"""An expert as fusion sees it: a folder of plain weights, read range by range.

An adapter alone, or weights in 4 or 8 bits, become such a folder first: the mean of the products B·A of adapters is
not the product of the means.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch

from vibethinker.fusion.safetensors_io import Files, TensorRef, read_tensors, weight_files
from vibethinker.models.adapters import (
    ADAPTER,
    base_changes,
    base_folder,
    changed_weights,
    is_adapter,
    read_json,
)
from vibethinker.models.quantization import check_method
from vibethinker.utils.atomic import locked

FLOATS: Final = (torch.float32, torch.bfloat16, torch.float16)
_SIDECARS: Final = (
    *("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*"),
    *("additional_chat_templates/*", "generation_config.json", "*.py"),
)


@dataclass(frozen=True)
class Expert:
    """One checkpoint.

    Attributes:
        folder: as given.
        config: its `config.json` without traces of quantization; of an adapter, the base's as it was trained.
        tensors: every tensor once; tied copies are left out. Empty before an adapter is merged or bits are expanded.
        folders: with tokenizer and other small files; later ones win.
        files: the weight files as given, whose hashes tell versions apart.
        dtypes: of tensors that were stored in another precision than `tensors` are.
    """

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, TensorRef]
    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)

    def dtype(self, name: str) -> torch.dtype:
        """Precision of a tensor as it was stored; float32 once an adapter or an expansion has changed it."""
        return self.dtypes.get(name, self.tensors[name].dtype)

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
        """The file that lists its tokens; None without a tokenizer."""
        files = self.sidecars()
        names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
        return next((files[name] for name in names if name in files), None)


@contextmanager
def opened_experts(folders: Iterable[str], out: Path) -> Iterator[dict[str, Expert]]:
    """Opens checkpoints; what has to be merged or expanded is in float32 folders beside `out` until the end.

    Raises:
        FileNotFoundError, ValueError: one line that names the folder, file and key at fault.
    """
    opened = {folder: _open(Path(folder)) for folder in folders}
    waiting = [folder for folder, expert in opened.items() if not expert.tensors]
    if not waiting:
        yield opened
        return
    scratch = out.absolute().with_name(f".{out.name}.inputs")
    with locked(scratch, f"{out}: another process is writing it"):
        try:
            for number, folder in enumerate(waiting):
                opened[folder] = _in_full(opened[folder], scratch / str(number))
            yield opened
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _open(folder: Path) -> Expert:
    """Reads what is needed to compare experts: configuration and headers, no weights."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if is_adapter(folder):
        return _open_adapter(folder)
    files = weight_files(folder)
    config = read_json(folder / "config.json")
    quantization = config.pop("quantization_config", None)
    if quantization is not None:
        check_method(str(folder), quantization)
    tensors = _untied(folder, config, read_tensors(folder)) if quantization is None else {}
    return Expert(folder, config, tensors, (folder,), tuple(files))


def _open_adapter(folder: Path) -> Expert:
    base, changes, file = _open(base_folder(folder)), base_changes(folder), folder / ADAPTER
    if not file.is_file():
        raise FileNotFoundError(f"{folder}: adapter_config.json without {ADAPTER}")
    changed = set((changes.get("quantized") or {}).get("weights", ()))
    if base.tensors:
        shapes = {name: ref.shape for name, ref in base.tensors.items()}
        changed |= changed_weights(folder, shapes, str(base.folder), bool(base.config.get("tie_word_embeddings")))
    config = changes.get("config") or {}
    renamed = ("rope_theta", "rope_scaling") if "rope_parameters" in config else ()  # the names before transformers 5
    return Expert(
        folder,
        {**{key: value for key, value in base.config.items() if key not in renamed}, **config},
        {},
        (*base.folders, folder),
        (*base.files, file),
        {name: ref.dtype for name, ref in base.tensors.items() if name not in changed},
    )


def _in_full(expert: Expert, folder: Path) -> Expert:
    """The expert with an adapter merged or 4 and 8 bits expanded, its weights in a folder in float32."""
    from vibethinker.models.export import one_line_write_errors  # transformers takes seconds to import
    from vibethinker.models.loading import load_in_full
    from vibethinker.models.source import ModelSource

    model = load_in_full(ModelSource.of(expert.folder))
    with one_line_write_errors(folder):
        model.save_pretrained(folder)
    return replace(expert, tensors=read_tensors(folder))


def _untied(folder: Path, config: dict[str, Any], tensors: dict[str, TensorRef]) -> dict[str, TensorRef]:
    """Without `lm_head.weight` where it is stored although tied to the input embedding."""
    head = tensors.get("lm_head.weight")
    if head is None or not config.get("tie_word_embeddings"):
        return tensors
    with Files() as files:
        if not any(files.equal(ref, head) for ref in tensors.values() if ref != head):
            raise ValueError(f"{folder}: tie_word_embeddings is true, but lm_head.weight equals no embedding")
    return {name: ref for name, ref in tensors.items() if ref != head}
