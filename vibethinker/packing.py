"""Ragged sequences as packed rows that are balanced by tokens: how many there are, or how long they may be.

A packed row is the concatenation of several sequences with no padding between them: `input_ids` and `position_ids` of
shape [T] and the boundaries `cu_seqlens` [S+1]. Attention sees the boundaries (`vibethinker.attention`), every other
layer sees a plain row. Only positions that predict a completion token ever reach the head.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Several sequences in one row; `T` input tokens, `S` sequences, `N` predicted completion tokens.

    Attributes:
        input_ids: [T] tokens; a sequence's last token is left out, since it predicts nothing.
        position_ids: [T] positions, from 0 in every sequence.
        cu_seqlens: [S+1] int32, where sequences begin and end.
        lengths: the same boundaries as Python integers, so that no kernel launch waits for the device.
        predictors: [N] places in the row whose hidden state predicts a completion token.
        targets: [N] the completion tokens themselves.
        owner: [N] the sequence (0 … S-1) each target belongs to.
    """

    input_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    lengths: tuple[int, ...]
    predictors: Tensor
    targets: Tensor
    owner: Tensor

    def to(self, device: torch.device | str) -> PackedRow:
        names = ("input_ids", "position_ids", "cu_seqlens", "predictors", "targets", "owner")
        tensors: dict[str, Any] = {name: moved(getattr(self, name), torch.device(device)) for name in names}
        return replace(self, **tensors)


@dataclass(frozen=True)
class Slice:
    """One packed row and what the loss needs to know of each of its `N` targets.

    Attributes:
        row: the packed sequences.
        per_token: named float32 tensors [N].
    """

    row: PackedRow
    per_token: dict[str, Tensor]

    def to(self, device: torch.device) -> Slice:
        return Slice(self.row.to(device), {name: moved(values, device) for name, values in self.per_token.items()})

    def state(self) -> dict[str, Any]:
        return {"row": {f.name: getattr(self.row, f.name) for f in fields(self.row)}, "per_token": self.per_token}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Slice:
        return cls(PackedRow(**state["row"]), state["per_token"])


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; from pinned memory, so that the host need not wait until the GPU gets there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def pack(prompts: Sequence[Tensor], completions: Sequence[Tensor], placeholder: int = 0) -> PackedRow:
    """Concatenates prompt and completion pairs into one row.

    Args:
        prompts: `S` one-dimensional token tensors, none empty.
        completions: `S` one-dimensional token tensors, none empty.
        placeholder: with no sequence at all, the row holds this one token and predicts nothing, so that a rank
            without work still takes part in the gradient exchange.
    """
    if not prompts:
        bounds, none = torch.tensor([0, 1], dtype=torch.int32), torch.empty(0, dtype=torch.long)
        return PackedRow(torch.tensor([placeholder]), torch.tensor([0]), bounds, (1,), none, none, none)
    prompt_lengths = torch.tensor([len(p) for p in prompts])
    completion_lengths = torch.tensor([len(c) for c in completions])
    if int(prompt_lengths.min()) == 0 or int(completion_lengths.min()) == 0:
        raise ValueError("packing: every prompt and every completion needs at least one token")
    lengths = prompt_lengths + completion_lengths - 1
    ends = lengths.cumsum(0)
    owner = torch.arange(len(prompts)).repeat_interleave(completion_lengths)
    within = _count_up(completion_lengths)
    return PackedRow(
        input_ids=torch.cat([part for p, c in zip(prompts, completions, strict=True) for part in (p, c[:-1])]),
        position_ids=_count_up(lengths),
        cu_seqlens=torch.cat([ends.new_zeros(1), ends]).int(),
        lengths=tuple(lengths.tolist()),
        predictors=(ends - lengths + prompt_lengths - 1)[owner] + within,
        targets=torch.cat(list(completions)),
        owner=owner,
    )


def balance(lengths: Sequence[int], bins: int) -> list[list[int]]:
    """Deals sequences into a fixed number of bins so that their token counts are close (longest first, LPT).

    Deterministic: ties go to the lower index. With fewer sequences than bins some bins are empty.

    Returns:
        For every bin, the indices of its sequences in ascending order.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    heap = [(0, b) for b in range(bins)]
    dealt: list[list[int]] = [[] for _ in range(bins)]
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        load, lightest = heapq.heappop(heap)
        dealt[lightest].append(index)
        heapq.heappush(heap, (load + lengths[index], lightest))
    return [sorted(part) for part in dealt]


def split(lengths: Sequence[int], budget: int | None) -> list[list[int]]:
    """Deals sequences into balanced rows of at most `budget` tokens, as few as `balance` finds room in.

    A sequence longer than the budget is a row of its own; with no sequence there is one empty row.

    Args:
        lengths: tokens of each sequence.
        budget: of a row; `None` puts them all into one.

    Returns:
        For every row, the indices of its sequences in ascending order.
    """
    if budget is None or sum(lengths) <= budget:
        return [list(range(len(lengths)))]
    alone = [[i] for i, length in enumerate(lengths) if length > budget]
    rest = [i for i, length in enumerate(lengths) if length <= budget]
    total = sum(lengths[i] for i in rest)
    for bins in range(-(-total // budget), len(rest) + 1):
        dealt = balance([lengths[i] for i in rest], bins) if bins else []
        rows = [[rest[i] for i in part] for part in dealt]
        if all(sum(lengths[i] for i in row) <= budget for row in rows):
            return alone + rows
    raise AssertionError("one sequence a row is within the budget")


def deal(lengths: Sequence[int], bins: int, budget: int | None) -> list[list[list[int]]]:
    """Balances sequences over `bins` micro-batches and each of these over rows of at most `budget` tokens."""
    parts = balance(lengths, bins)
    return [[[part[i] for i in row] for row in split([lengths[i] for i in part], budget)] for part in parts]


def _count_up(lengths: Tensor) -> Tensor:
    """[3, 2] → [0, 1, 2, 0, 1]."""
    starts = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum())) - starts.repeat_interleave(lengths)
