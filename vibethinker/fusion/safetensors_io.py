"""Random access to safetensors: reads and writes ranges of named tensors without loading them whole.

The format (https://huggingface.co/docs/safetensors): eight bytes of little-endian header length, a JSON header
`{name: {dtype, shape, data_offsets}}`, then the tensors back to back. Only that is used here, through positioned reads
and writes, because memory-mapped or whole-tensor loading costs several times the memory and the time.
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
Spec = tuple[torch.dtype, tuple[int, ...]]  # of a tensor that is not stored yet: element type, shape
_CODES: Final = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Location of one tensor in a file.

    Attributes:
        file: the safetensors file.
        name: the tensor's name in it.
        dtype: of its elements.
        shape: of the tensor; elements are stored row-major.
        offset: bytes from the start of the file to the first element.
    """

    file: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.numel * self.dtype.itemsize


def read_header(file: Path) -> dict[str, TensorRef]:
    """The tensors of one file, in file order.

    Raises:
        ValueError: the file is not a whole safetensors file; the message names it.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if 2 <= length <= size - 8 else b""
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        refs = {
            name: TensorRef(file, name, DTYPES[e["dtype"]], tuple(e["shape"]), 8 + length + e["data_offsets"][0])
            for name, e in sorted(entries.items(), key=lambda item: item[1]["data_offsets"])
        }
    except KeyError as error:
        raise ValueError(f"{file}: safetensors header has an unknown dtype or no field {error}") from None
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"{file}: not a safetensors file (Git LFS pointer, or a broken download?)") from None
    end = 8 + length
    for ref in refs.values():
        if ref.offset != end:
            raise ValueError(f"{file}: tensor {ref.name} does not start where the one before it ends")
        end += ref.nbytes
    if end != size:
        raise ValueError(f"{file}: {size} bytes long, but its header describes {end} (cut short?)")
    return refs


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face model folder: one, or those its index names.

    Raises:
        FileNotFoundError: no such folder, no weights in it, or a shard of the index is missing.
        ValueError: it only has `pytorch_model.bin`, or the index is not one.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if index.is_file():
        try:
            files = [folder / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ValueError(f"{index}: not an index of safetensors shards") from None
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(f"{file}: named by {INDEX}, but missing")
        return files
    if any(folder.glob("pytorch_model*.bin")):
        raise ValueError(f"{folder}: only pytorch_model.bin; convert to safetensors first (load, then save_pretrained)")
    raise FileNotFoundError(f"{folder}: not a checkpoint, it has neither {SINGLE} nor {INDEX}")


def read_tensors(folder: Path) -> dict[str, TensorRef]:
    """Every tensor of a model folder by name, however it is sharded."""
    refs: dict[str, TensorRef] = {}
    for file in weight_files(folder):
        for name, ref in read_header(file).items():
            if name in refs:
                raise ValueError(f"{file}: tensor {name} is also in {refs[name].file.name}")
            refs[name] = ref
    if not refs:
        raise ValueError(f"{folder}: holds no tensors")
    return refs


def lay_out(folder: Path, specs: Mapping[str, Spec], shard_bytes: int) -> list[TensorRef]:
    """Reserves the files of a model folder: headers and index written, room on disk allocated, values still zero.

    Tensors keep the order of `specs`; a new shard begins where the next tensor would pass `shard_bytes`.

    Returns:
        Where each tensor goes, for `Files.write`.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, (dtype, shape) in specs.items():
        nbytes = math.prod(shape) * dtype.itemsize
        if shards[-1] and filled + nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += nbytes
    count = len(shards)
    names = [SINGLE] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    refs = [
        ref
        for name, shard in zip(names, shards, strict=True)
        for ref in _reserve(folder / name, {tensor: specs[tensor] for tensor in shard})
    ]
    if count > 1:
        metadata = {"total_parameters": sum(r.numel for r in refs), "total_size": sum(r.nbytes for r in refs)}
        index = {"metadata": metadata, "weight_map": {ref.name: ref.file.name for ref in refs}}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    return refs


def _reserve(file: Path, specs: Mapping[str, Spec]) -> list[TensorRef]:
    # Wide elements first, as the format's own writer does: every tensor then starts at a multiple of its element size.
    ordered = sorted(specs.items(), key=lambda item: -item[1][0].itemsize)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begins, end = [], 0
    for name, (dtype, shape) in ordered:
        begins.append(end)
        end += math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [begins[-1], end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.flush()
        _allocate(stream.fileno(), start + end)
    return [TensorRef(file, name, *spec, start + at) for (name, spec), at in zip(ordered, begins, strict=True)]


def _allocate(fd: int, size: int) -> None:
    """Real blocks where the file system can: a full disk shows now, and writing is several times faster."""
    os.ftruncate(fd, size)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise


class Files:
    """Open files shared by threads: positioned reads and writes of tensor ranges, each file opened once."""

    def __init__(self) -> None:
        self._open: dict[tuple[Path, int], int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def _descriptor(self, file: Path, mode: int) -> int:
        with self._lock:
            if (file, mode) not in self._open:
                self._open[file, mode] = os.open(file, mode)
            return self._open[file, mode]

    def read(self, ref: TensorRef, start: int, values: Tensor) -> None:
        """Fill flat contiguous `values` with elements of `ref` from number `start` on; dtypes must agree."""
        fd, at, view = self._descriptor(ref.file, os.O_RDONLY), ref.offset + start * ref.dtype.itemsize, _bytes(values)
        while view:
            done = os.preadv(fd, [view], at)
            if not done:
                raise ValueError(f"{ref.file}: ended inside tensor {ref.name}; it was changed while being read")
            view, at = view[done:], at + done

    def write(self, ref: TensorRef, start: int, values: Tensor) -> None:
        """Store flat contiguous `values` as elements of `ref` from number `start` on; dtypes must agree."""
        fd, at, view = self._descriptor(ref.file, os.O_WRONLY), ref.offset + start * ref.dtype.itemsize, _bytes(values)
        while view:
            done = os.pwrite(fd, view, at)
            view, at = view[done:], at + done

    def equal(self, a: TensorRef, b: TensorRef, chunk: int = 1 << 20) -> bool:
        """True if two tensors have the same dtype, shape and bits."""
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        for start in range(0, a.numel, chunk):
            left, right = (torch.empty(min(chunk, a.numel - start), dtype=a.dtype) for _ in range(2))
            self.read(a, start, left)
            self.read(b, start, right)
            if _bytes(left) != _bytes(right):
                return False
        return True


def _bytes(values: Tensor) -> memoryview:
    return values.view(torch.uint8).numpy().data
