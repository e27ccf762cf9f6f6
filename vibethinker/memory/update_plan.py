"""How long the packed rows of an update are, and whether it recomputes its activations, from the memory there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import torch

from vibethinker.memory.estimate import Estimate, Workload, estimate

USABLE: Final = 0.88  # of a GPU: the allocator was seen to take 4 to 17% more than is in use, and CUDA half a GiB
LONGEST: Final = 65_536  # tokens of a row by itself: longer ones are no faster
CPU_ROW_TOKENS: Final = 16_384
_CAUTIOUS: Final = 0.75  # of a GPU, for rows that are longer than they need to be
_SHORT: Final = 8_192  # tokens of a row; shorter ones leave a GPU idle
_GIB: Final = 2**30


@dataclass(frozen=True)
class UpdatePlan:
    """A workload that was chosen for a GPU.

    Attributes:
        work: with its rows and recomputation.
        estimated: its memory.
        size: bytes of the GPU.
    """

    work: Workload
    estimated: Estimate
    size: float

    def __str__(self) -> str:
        recomputed = "on" if self.work.checkpointing else "off"
        needed, there = self.estimated.in_updates / _GIB, self.size / _GIB
        return (
            f"packed rows of at most {self.work.row_tokens:,} tokens, gradient_checkpointing {recomputed}: "
            f"updates take {needed:.1f} GiB of {there:.1f} GiB, of which {USABLE:.0%} can be counted on"
        )


def plan_update(work: Workload, size: float, *, auto_rows: bool, auto_checkpointing: bool) -> UpdatePlan:
    """The longest rows for which updates are estimated to fit, without recomputation if that is possible.

    Deterministic: the same workload and size give the same plan. Where nothing fits, the last candidate is it.

    Args:
        work: its rows are the longest there may be, and stay where they are not automatic.
        size: bytes of the GPU.
        auto_rows: True to choose the length of rows.
        auto_checkpointing: True to choose recomputation.
    """
    for candidate, fraction in _candidates(work, auto_rows, auto_checkpointing):
        plan = UpdatePlan(candidate, estimate(candidate), size)
        if plan.estimated.in_updates <= fraction * size:
            break
    return plan


def _candidates(work: Workload, auto_rows: bool, auto_checkpointing: bool) -> Iterator[tuple[Workload, float]]:
    """Workloads from the fastest to the smallest, each with the fraction of the memory it may take."""
    lengths = [work.row_tokens]
    while auto_rows and lengths[-1] > work.max_length:
        lengths.append(max(lengths[-1] // 2, work.max_length))
    long = [length for length in lengths if length >= _SHORT] or lengths[:1]
    modes = [False, True] if auto_checkpointing else [work.checkpointing]
    for checkpointing in modes:
        for length in long if checkpointing != modes[-1] else lengths:
            fraction = USABLE if length == long[-1] or length not in long else _CAUTIOUS
            yield replace(work, row_tokens=length, checkpointing=checkpointing), fraction


def gpu_memory(device: torch.device) -> int:
    """Bytes of a GPU that no other process has; 0 of a CPU."""
    if device.type != "cuda":
        return 0
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
