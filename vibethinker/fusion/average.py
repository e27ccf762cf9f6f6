"""Expert fusion: the weighted average of checkpoints, streamed.

Implements the fusion of VibeThinker-1.5B (arXiv 2511.06221, section 3.3): θ = Σ w_i θ_i with w_i ≥ 0 and Σ w_i = 1, by
default w_i = 1/N; and task arithmetic (arXiv 2212.04089): θ = θ_0 + s Σ w_i (θ_i − θ_0).

Both are one formula around an anchor `a`, a − Σ c_i (a − θ_i): the anchor is the base, or for the average the heaviest
expert. Experts of one trajectory differ little, so the differences are exact or nearly so in float32 and only the last
subtraction rounds at the scale of the weights; summing w_i θ_i rounds there N times. Equal experts give the anchor
bitwise whatever the weights (1/3 + 1/3 + 1/3 does not), the sign of zero included, and so does a weight of one.

Weights are computed in float32 and rounded once, when stored.
"""

from __future__ import annotations

import errno
import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch

from vibethinker.fusion.compatibility import check_compatible
from vibethinker.fusion.expert import FLOATS, Expert, opened_experts
from vibethinker.fusion.safetensors_io import Spec, lay_out
from vibethinker.fusion.stream import Blend, stream
from vibethinker.utils.atomic import staged_folder

Method = Literal["linear", "task_arithmetic"]
Dtype = Literal["keep", "float32", "bfloat16", "float16"]
RECORD: Final = "fusion.json"


@dataclass(frozen=True)
class Fusion:
    """Record of a fusion: its inputs, options and the hashes of the files; stored as `fusion.json`.

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
    """Averages checkpoints into a new Hugging Face model folder that appears whole or not at all.

    >>> from tempfile import TemporaryDirectory
    >>> from vibethinker.models.source import ModelSource
    >>> with TemporaryDirectory() as folder:
    ...     fuse([ModelSource.of("nano").path] * 2, f"{folder}/fused", [0.75, 0.25], progress=False).weights
    [0.75, 0.25]

    Everything but the weights (configuration, tokenizer, chat template, generation config) comes from the first expert.

    Args:
        experts: Hugging Face folders with safetensors, sharded or not, or LoRA adapter folders, which are merged first;
            weights in 4 or 8 bits (bitsandbytes) are expanded. Either takes a float32 copy of the model in memory, one
            at a time, and one on disk beside `out` until the end.
        out: folder to make. Only an earlier fusion of the same inputs is replaced without `overwrite`.
        weights: non-negative, sum 1; uniform by default.
        method: `linear` average, or `task_arithmetic` over `base`.
        base: what the experts were trained from (task arithmetic only).
        scaling: multiplies the mean difference from the base (task arithmetic only).
        dtype: precision of the stored weights. `keep`: per tensor the widest among the inputs; what an adapter changes
            and what is expanded counts as float32. `float32` loses nothing for training that follows; bfloat16 can
            cost a third of a small expert's difference.
        overwrite: replace an earlier fusion of other inputs.
        workers: threads; by default one per core, at most eight.
        shard_bytes: largest weight file.
        progress: show a progress bar.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: before anything is written, naming option, file or tensor.
        ValueError: while averaging, for NaN or infinity, or for integer buffers that differ; nothing is left behind.
        OSError: the disk is full; nothing is left behind.
    """
    out = Path(out)
    record = _record(experts, weights, method, base, scaling, dtype)
    _check_output(out, record, overwrite)
    inputs = dict.fromkeys((*record.experts, *filter(None, [record.base])))
    with opened_experts(inputs, out) as opened:
        check_compatible(list(opened.values()))
        first, blend = opened[record.experts[0]], _blend(record, opened)
        specs = {name: (_dtype(blend, name, dtype), ref.shape) for name, ref in first.tensors.items()}
        _check_space(out, sum(math.prod(shape) * kind.itemsize for kind, shape in specs.values()))
        with staged_folder(out) as folder:
            for name, source in first.sidecars().items():
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source, folder / name)
            _write_json(folder / "config.json", _config(first, specs))
            targets = lay_out(folder, specs, shard_bytes)
            files = list(dict.fromkeys(file for expert in opened.values() for file in expert.files))
            record.hashes.update(stream(blend, targets, files, workers, progress))
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
    """Checks the options and records them."""
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
    fractions = [1 / len(experts)] * len(experts) if weights is None else [float(w) for w in weights]
    if len(fractions) != len(experts):
        raise ValueError(f"weights: {len(fractions)} for {len(experts)} experts")
    if not all(fraction >= 0 for fraction in fractions):
        raise ValueError(f"weights: {fractions}, but none may be negative")
    if not math.isclose(math.fsum(fractions), 1, abs_tol=1e-6):
        raise ValueError(f"weights: {fractions} sum to {math.fsum(fractions):.6g}, not to 1")
    try:
        library = f"vibethinker {version('vibethinker')}"
    except PackageNotFoundError:  # run from a source tree that was never installed
        library = "vibethinker"
    folders = [str(Path(path).expanduser().resolve()) for path in experts]
    anchor = None if base is None else str(Path(base).expanduser().resolve())
    return Fusion(method, folders, fractions, anchor, float(scaling), dtype, {}, library)


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
    asked = ("method", "experts", "weights", "base", "scaling", "dtype")  # hashes may differ
    same = isinstance(earlier, dict) and all(earlier.get(key) == getattr(record, key) for key in asked)
    if not (overwrite or same):
        raise FileExistsError(f"{out}: holds a fusion of other inputs; choose another folder, or overwrite it")


def _check_space(out: Path, needed: int) -> None:
    free = shutil.disk_usage(next(parent for parent in out.absolute().parents if parent.exists())).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free", str(out))


def _blend(record: Fusion, opened: dict[str, Expert]) -> Blend:
    fractions: dict[str, float] = {}
    for path, weight in zip(record.experts, record.weights, strict=True):
        fractions[path] = fractions.get(path, 0.0) + weight  # given twice: read once, counted twice
    anchor = record.base or max(fractions, key=lambda path: fractions[path])
    fractions.pop(anchor, None)
    rest = {path: record.scaling * fraction for path, fraction in fractions.items() if fraction}
    return Blend(opened[anchor], tuple(opened[path] for path in rest), tuple(rest.values()))


def _dtype(blend: Blend, name: str, asked: Dtype) -> torch.dtype:
    """Stored precision of a tensor: as asked for, or the widest among the inputs; integers stay what they are."""
    own = blend.anchor.dtype(name)
    if own not in FLOATS or asked != "keep":
        return own if own not in FLOATS else getattr(torch, asked)
    return reduce(torch.promote_types, (expert.dtype(name) for expert in blend.others), own)


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
