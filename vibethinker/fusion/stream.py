"""The weighted average of checkpoints, streamed: worker threads read, average and write ranges of tensors.

A range fits the processor's cache, and no tensor is ever loaded whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from torch import Tensor

from vibethinker.fusion.expert import FLOATS, Expert
from vibethinker.fusion.safetensors_io import Files, TensorRef
from vibethinker.utils.atomic import sync_folder
from vibethinker.utils.process import available_cores
from vibethinker.utils.provenance import file_digest

_RANGE: Final = 1 << 18  # elements averaged at once: buffers of 1 MB stay in cache, and the interpreter is seldom asked
_TASK: Final = 1 << 23  # elements a worker takes at a time
_MAX_WORKERS: Final = 8  # beyond that the memory bus is the limit


def anchored_sum(anchor: Tensor, others: Tensor, coefficients: Sequence[float]) -> Tensor:
    """The sum a − Σ c_i (a − θ_i), elementwise in float32.

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
class Blend:
    """The opened inputs of θ = anchor − Σ coefficient · (anchor − other)."""

    anchor: Expert
    others: tuple[Expert, ...]
    coefficients: tuple[float, ...]


def stream(
    blend: Blend, targets: list[TensorRef], sources: list[Path], workers: int | None, progress: bool
) -> dict[str, str]:
    """Computes every target tensor; returns the hash of each source file.

    Args:
        blend: the inputs.
        targets: reserved tensors of the output folder.
        sources: files to hash.
        workers: threads; by default one per core, at most eight.
        progress: show a progress bar.
    """
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
        ThreadPoolExecutor(workers or min(_MAX_WORKERS, available_cores())) as pool,
    ):
        tasks: dict[Future[None], int] = {}
        for target in targets:
            work = _average if target.dtype in FLOATS else _copy
            for start in range(0, target.numel, _TASK):
                stop = min(start + _TASK, target.numel)
                tasks[pool.submit(work, blend, files, target, start, stop)] = (stop - start) * target.dtype.itemsize
        row = bar.add_task("fuse", total=sum(tasks.values()))
        try:
            for done in as_completed(tasks):
                done.result()
                bar.advance(row, tasks[done])
            hashes = pool.map(file_digest, sources)
            sync_folder(targets[0].file.parent)  # the disk writes while the processor hashes
            return {str(file): digest for file, digest in zip(sources, hashes, strict=True)}
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@torch.inference_mode()
def _average(blend: Blend, files: Files, target: TensorRef, start: int, stop: int) -> None:
    """Elements start…stop of one tensor, in ranges."""
    width = min(_RANGE, stop - start)
    experts = [expert.tensors[target.name] for expert in (blend.anchor, *blend.others)]
    buffers = {dtype: torch.empty(width, dtype=dtype) for dtype in {target.dtype, *(ref.dtype for ref in experts)}}
    rows = torch.empty(len(experts), width)
    for at in range(start, stop, width):
        n = min(width, stop - at)
        for ref, row in zip(experts, rows, strict=True):
            if ref.dtype == torch.float32:
                files.read(ref, at, row[:n])
            else:
                files.read(ref, at, buffers[ref.dtype][:n])
                row[:n] = buffers[ref.dtype][:n]
        result = anchored_sum(rows[0, :n], rows[1:, :n], blend.coefficients)
        if target.dtype != torch.float32:
            result = buffers[target.dtype][:n].copy_(result)
        # The sum is cheap but may overflow for values near the largest; only then is each value looked at.
        if not math.isfinite(result.sum(dtype=torch.float32)) and not bool(result.isfinite().all()):
            raise ValueError(f"{target.name}: NaN or infinity, from an expert or as too large for {target.dtype}")
        files.write(target, at, result)


def _copy(blend: Blend, files: Files, target: TensorRef, start: int, stop: int) -> None:
    """Elements start…stop of an integer or boolean tensor, which must be the same everywhere."""
    values, theirs = (torch.empty(stop - start, dtype=target.dtype) for _ in range(2))
    files.read(blend.anchor.tensors[target.name], start, values)
    for other in blend.others:
        files.read(other.tensors[target.name], start, theirs)
        if not torch.equal(values, theirs):
            raise ValueError(f"{other.folder}: {target.name} ({target.dtype}) is not that of {blend.anchor.folder}")
    files.write(target, start, values)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """New threads take this setting: the workers are the parallelism, and OpenMP teams inside them would fight."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
