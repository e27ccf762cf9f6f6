"""Expert fusion: the weighted average of checkpoints, streamed.

Implements the fusion of VibeThinker-1.5B (arXiv 2511.06221, section 3.3): θ = Σ w_i θ_i with w_i ≥ 0 and Σ w_i = 1, by
default w_i = 1/N; and task arithmetic (arXiv 2212.04089): θ = θ_0 + s Σ w_i (θ_i − θ_0).

Both are one formula around an anchor `a`, a − Σ c_i (a − θ_i): the anchor is the base, or for the average the heaviest
expert. Experts of one trajectory differ little, so the differences are exact or nearly so in float32 and only the last
subtraction rounds at the scale of the weights; summing w_i θ_i rounds there N times. Equal experts give the anchor
bitwise whatever the weights (1/3 + 1/3 + 1/3 does not), the sign of zero included, and so does a weight of one.

Weights are computed in float32 and rounded once, when stored. Worker threads read, average and write ranges of tensors;
a range fits the processor's cache and no tensor is ever held whole, except one in 4 or 8 bits: it is expanded once
for all experts over the same base, a tensor for each thread at a time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
import xxhash
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from torch import Tensor

from vibethinker.models.adapters import FLOATS, Expert, check_compatible, open_expert
from vibethinker.utils.atomic import staged_folder, sync_folder
from vibethinker.utils.safetensors_io import Files, Spec, TensorRef, lay_out

Method = Literal["linear", "task_arithmetic"]
Dtype = Literal["keep", "float32", "bfloat16", "float16"]
RECORD: Final = "fusion.json"

_RANGE: Final = 1 << 18  # elements averaged at once: buffers of 1 MB stay in cache, and the interpreter is seldom asked
_TASK: Final = 1 << 23  # elements a worker takes at a time: low-rank factors are loaded once per task
_MAX_WORKERS: Final = 8  # beyond that the memory bus is the limit


@dataclass(frozen=True)
class Fusion:
    """What was fused, how, and from which bytes; stored as `fusion.json`.

    Attributes:
        method: `linear` or `task_arithmetic`.
        experts: folders, in the order given; one given twice is there twice.
        weights: one per expert.
        base: folder of task arithmetic's base.
        scaling: of task arithmetic.
        dtype: as asked for.
        hashes: weight file → XXH3-128 of its bytes, as `xxhsum -H2` prints it. It tells versions of a file apart; it
            is no defence against forgery. SHA-256 would take longer than the fusion itself.
        library: what wrote it.
    """

    method: str
    experts: list[str]
    weights: list[float]
    base: str | None
    scaling: float
    dtype: str
    hashes: dict[str, str]
    library: str

    def same_inputs(self, record: Any) -> bool:
        """Whether a stored record asks for the same fusion, whatever the files held then."""
        asked = ("method", "experts", "weights", "base", "scaling", "dtype")
        return isinstance(record, dict) and all(record.get(key) == getattr(self, key) for key in asked)


def anchored_sum(anchor: Tensor, others: Tensor, coefficients: Sequence[float]) -> Tensor:
    """a − Σ c_i (a − θ_i), elementwise in float32.

    The order of the subtractions keeps −0 where all are −0.

    Args:
        anchor: [n], float32.
        others: [m, n], float32; overwritten.
        coefficients: m numbers.

    Returns:
        [n], float32; `anchor` itself when there are no others.
    """
    if not coefficients:
        return anchor
    differences = torch.sub(anchor, others, out=others)
    total = differences[0].mul_(coefficients[0])
    for difference, coefficient in zip(differences[1:], coefficients[1:], strict=True):
        total.add_(difference, alpha=coefficient)
    return torch.sub(anchor, total, out=total)


@dataclass(frozen=True)
class _Blend:
    """The opened inputs: θ = anchor − Σ coefficient · (anchor − other)."""

    anchor: Expert
    others: tuple[Expert, ...]
    coefficients: tuple[float, ...]

    def dtype(self, name: str, asked: Dtype) -> torch.dtype:
        """Stored precision of a tensor: as asked for, or the widest among the inputs; integers stay what they are."""
        own = self.anchor.dtype(name)
        if own not in FLOATS:
            return own
        if asked != "keep":
            return getattr(torch, asked)
        return reduce(torch.promote_types, (expert.dtype(name) for expert in self.others), own)


def fuse(
    experts: Sequence[str | Path],
    out: str | Path,
    weights: Sequence[float] | None = None,
    method: Method = "linear",
    base: str | Path | None = None,
    scaling: float = 1.0,
    dtype: Dtype = "keep",
    *,
    overwrite: bool = False,
    workers: int | None = None,
    shard_bytes: int = 5_000_000_000,
    progress: bool = True,
) -> Fusion:
    """Average checkpoints into a new Hugging Face model folder that appears whole or not at all.

    Everything but the weights (configuration, tokenizer, chat template, generation config) comes from the first expert.

    Args:
        experts: Hugging Face folders with safetensors, sharded or not, or LoRA adapter folders, which are merged first;
            weights in 4 or 8 bits (bitsandbytes) are expanded.
        out: folder to make. An earlier fusion of the same inputs is made anew; nothing else is replaced unasked.
        weights: non-negative, sum 1; uniform by default.
        method: `linear` average, or `task_arithmetic` over `base`.
        base: what the experts were trained from (task arithmetic only).
        scaling: multiplies the mean difference from the base (task arithmetic only).
        dtype: precision of the stored weights. `keep`: per tensor the widest among the inputs, an adapter's included.
            `float32` loses nothing for training that follows; bfloat16 can cost a third of a small expert's difference.
        overwrite: replace an earlier fusion of other inputs.
        workers: threads; by default one per core, at most eight.
        shard_bytes: largest weight file.
        progress: show a progress bar.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: before anything is written, naming option, file or tensor.
        ValueError: on the way, for NaN or infinity, or for integer buffers that differ; nothing is left behind.
        OSError: the disk is full; nothing is left behind.
    """
    out = Path(out)
    record = _record(experts, weights, method, base, scaling, dtype)
    _check_output(out, record, overwrite)
    opened = {path: open_expert(Path(path)) for path in dict.fromkeys((*record.experts, *filter(None, [record.base])))}
    check_compatible(list(opened.values()))
    blend = _blend(record, opened)
    first = opened[record.experts[0]]
    specs = {name: (blend.dtype(name, dtype), ref.shape) for name, ref in first.tensors.items()}
    _check_space(out, sum(math.prod(shape) * kind.itemsize for kind, shape in specs.values()))
    with staged_folder(out) as folder:
        for name, source in first.sidecars().items():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, folder / name)
        _write_json(folder / "config.json", _config(first, specs))
        places = lay_out(folder, specs, shard_bytes)
        files = list(dict.fromkeys(file for expert in opened.values() for file in expert.files))
        record.hashes.update(_stream(blend, places, files, workers, progress))
        _write_json(folder / RECORD, asdict(record))
    return record


def _record(
    experts: Sequence[str | Path],
    weights: Sequence[float] | None,
    method: Method,
    base: str | Path | None,
    scaling: float,
    dtype: Dtype,
) -> Fusion:
    """The options checked and written down."""
    if not experts:
        raise ValueError("experts: none given")
    if method not in get_args(Method):
        raise ValueError(f"method: {method!r} is none of {', '.join(get_args(Method))}")
    if dtype not in get_args(Dtype):
        raise ValueError(f"dtype: {dtype!r} is none of {', '.join(get_args(Dtype))}")
    if (base is not None) != (method == "task_arithmetic"):
        raise ValueError("base: task_arithmetic needs one" if base is None else "base: only task_arithmetic has one")
    if not math.isfinite(scaling) or (method == "linear" and scaling != 1):
        raise ValueError(f"scaling: {scaling} (a finite number, and only task_arithmetic has one)")
    shares = [1 / len(experts)] * len(experts) if weights is None else [float(w) for w in weights]
    if len(shares) != len(experts):
        raise ValueError(f"weights: {len(shares)} for {len(experts)} experts")
    if not all(share >= 0 for share in shares):
        raise ValueError(f"weights: {shares}, but none may be negative")
    if not math.isclose(math.fsum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"weights: {shares} sum to {math.fsum(shares):.6g}, not to 1")
    try:
        library = f"vibethinker {version('vibethinker')}"
    except PackageNotFoundError:  # run from a source tree that was never installed
        library = "vibethinker"
    folders = [str(Path(path).expanduser().resolve()) for path in experts]
    anchor = None if base is None else str(Path(base).expanduser().resolve())
    return Fusion(method, folders, shares, anchor, float(scaling), dtype, {}, library)


def _check_output(out: Path, record: Fusion, overwrite: bool) -> None:
    if str(out.resolve()) in (*record.experts, record.base):
        raise ValueError(f"{out}: is also one of the inputs")
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out}: is a file")
    if not any(out.iterdir()):
        return
    try:
        earlier = json.loads((out / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        raise FileExistsError(f"{out}: not empty and not an earlier fusion; choose another folder") from None
    if not (overwrite or record.same_inputs(earlier)):
        raise FileExistsError(f"{out}: holds a fusion of other inputs; choose another folder, or overwrite it")


def _check_space(out: Path, needed: int) -> None:
    place = next(parent for parent in out.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free", str(out))


def _blend(record: Fusion, opened: dict[str, Expert]) -> _Blend:
    shares: dict[str, float] = {}
    for path, weight in zip(record.experts, record.weights, strict=True):
        shares[path] = shares.get(path, 0.0) + weight  # given twice: read once, counted twice
    anchor = record.base or max(shares, key=lambda path: shares[path])
    shares.pop(anchor, None)
    rest = {path: record.scaling * share for path, share in shares.items() if share}
    return _Blend(opened[anchor], tuple(opened[path] for path in rest), tuple(rest.values()))


def _config(first: Expert, specs: dict[str, Spec]) -> dict[str, Any]:
    """The first expert's, with the precision to load: that of most weights, or the widest where some were widened."""
    sizes: Counter[torch.dtype] = Counter()
    for dtype, shape in specs.values():
        sizes[dtype] += math.prod(shape) if dtype in FLOATS else 0
    widened = any(dtype != first.tensors[name].dtype for name, (dtype, _) in specs.items())
    chosen = reduce(torch.promote_types, +sizes) if widened else max(sizes, key=lambda dtype: sizes[dtype])
    key = "torch_dtype" if "torch_dtype" in first.config else "dtype"  # its name before transformers 5
    return {**first.config, key: str(chosen).removeprefix("torch.")}


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _stream(
    blend: _Blend, places: list[TensorRef], sources: list[Path], workers: int | None, progress: bool
) -> dict[str, str]:
    """Compute every tensor into its place; give the hashes of the source files."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with (
        Files() as files,
        _one_torch_thread(),
        Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar,
        ThreadPoolExecutor(workers or min(_MAX_WORKERS, _cores())) as pool,
    ):
        tasks: dict[Future[None], int] = {}
        for place in places:
            work = _average if place.dtype in FLOATS else _copy
            for start in range(0, place.numel, _TASK):
                stop = min(start + _TASK, place.numel)
                tasks[pool.submit(work, blend, files, place, start, stop)] = (stop - start) * place.dtype.itemsize
        row = bar.add_task("fuse", total=sum(tasks.values()))
        try:
            for done in as_completed(tasks):
                done.result()
                bar.advance(row, tasks[done])
            hashes = pool.map(_hash, sources)
            sync_folder(places[0].file.parent)  # the disk writes while the processor hashes
            return {str(file): digest for file, digest in zip(sources, hashes, strict=True)}
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@torch.inference_mode()
def _average(blend: _Blend, files: Files, place: TensorRef, start: int, stop: int) -> None:
    """Elements start…stop of one tensor, in ranges."""
    width = min(_RANGE, stop - start)
    scratch = torch.empty(width * 2, dtype=torch.uint8)  # two bytes an element; float32 needs none
    rows = torch.empty(1 + len(blend.others), width)
    stored = torch.empty(width, dtype=place.dtype)
    readers = [expert.reader(place.name, files, scratch) for expert in (blend.anchor, *blend.others)]
    for at in range(start, stop, width):
        n = min(width, stop - at)
        for reader, row in zip(readers, rows, strict=True):
            reader(at, row[:n])
        result = anchored_sum(rows[0, :n], rows[1:, :n], blend.coefficients)
        if place.dtype != torch.float32:
            result = stored[:n].copy_(result)
        # The sum is cheap but may overflow for values near the largest; only then is each value looked at.
        if not math.isfinite(result.sum(dtype=torch.float32)) and not bool(result.isfinite().all()):
            raise ValueError(f"{place.name}: NaN or infinity, from an expert or as too large for {place.dtype}")
        files.write(place, at, result)


def _copy(blend: _Blend, files: Files, place: TensorRef, start: int, stop: int) -> None:
    """Elements start…stop of an integer or boolean tensor, which must be the same everywhere."""
    values, theirs = (torch.empty(stop - start, dtype=place.dtype) for _ in range(2))
    files.read(blend.anchor.tensors[place.name], start, values)
    for other in blend.others:
        files.read(other.tensors[place.name], start, theirs)
        if not torch.equal(values, theirs):
            raise ValueError(f"{other.folder}: {place.name} ({place.dtype}) is not that of {blend.anchor.folder}")
    files.write(place, start, values)


def _hash(file: Path) -> str:
    with file.open("rb", buffering=0) as stream:
        return f"xxh3_128:{hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()}"


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """New threads take this setting: the workers are the parallelism, and OpenMP teams inside them would fight."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
