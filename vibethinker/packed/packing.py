"""Sequence packing: several sequences of different lengths concatenated into one row, without padding.

A packed row is the concatenation of several sequences with no padding between them: `input_ids` and `position_ids` of
shape [T] and the boundaries `cu_seqlens` [S+1]. Attention sees the boundaries (`vibethinker.packed.attention`), every
other layer sees a plain row. Only positions that predict a completion token ever reach the head.

The completions of one prompt share it: it is in the row once, is computed once, and each of them sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vibethinker.utils.async_copy import moved


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Several sequences in one row; `T` input tokens, `S` segments, `N` predicted completion tokens.

    A segment is a whole sequence, unless its prompt is shared. The `P` shared prompts are the first segments, the
    completions that continue them come next, those of the first prompt first, then whole sequences. Attention is causal
    in each segment, and a completion's tokens see all of their prompt besides.

    Attributes:
        input_ids: [T] tokens; a sequence's last token is left out, since it predicts nothing.
        position_ids: [T] positions, from 0 in every sequence.
        cu_seqlens: [S+1] int32, where segments begin and end.
        lengths: the same boundaries as Python integers, so that no kernel launch waits for the device.
        predictors: [N] places in the row whose hidden state predicts a completion token.
        targets: [N] the completion tokens themselves, sequence by sequence as they were given.
        owner: [N] the sequence, by its number as given, each target belongs to.
        members: how many segments continue each shared prompt, two at the least; empty where no prompt is shared.
    """

    input_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    lengths: tuple[int, ...]
    predictors: Tensor
    targets: Tensor
    owner: Tensor
    members: tuple[int, ...] = ()

    @property
    def prompts(self) -> slice:
        """The shared prompts' part of the row."""
        return slice(0, sum(self.lengths[: len(self.members)]))

    @property
    def continuations(self) -> slice:
        """The part that continues them."""
        shared = len(self.members)
        return slice(self.prompts.stop, sum(self.lengths[: shared + sum(self.members)]))

    def to(self, device: torch.device | str) -> PackedRow:
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors: dict[str, Any] = {n: moved(x, torch.device(device)) for n, x in named.items() if isinstance(x, Tensor)}
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


def pack(prompts: Sequence[Tensor], completions: Sequence[Tensor]) -> PackedRow:
    """Concatenates prompt and completion pairs into one row; without any it has one token and predicts nothing.

    Sequences share a prompt if theirs is the same tensor object, as it is in a group of rollouts: equal tokens alone
    are not looked for. A row of whole sequences keeps the order in which they are given.

    Args:
        prompts: `S` one-dimensional token tensors, none empty.
        completions: `S` one-dimensional token tensors, none empty.
    """
    if not prompts:  # a rank without work still takes part in the gradient exchange
        bounds, none = torch.tensor([0, 1], dtype=torch.int32), torch.empty(0, dtype=torch.long)
        return PackedRow(torch.tensor([0]), torch.tensor([0]), bounds, (1,), none, none, none)
    completion_lengths = torch.tensor([len(c) for c in completions])
    if min(map(len, prompts)) == 0 or int(completion_lengths.min()) == 0:
        raise ValueError("packing: every prompt and every completion needs at least one token")
    segments, members = _segments(prompts, completions)
    lengths = torch.tensor([sum(map(len, segment.parts)) for segment in segments])
    ends = lengths.cumsum(0)
    after_prompt, first_input = torch.zeros(2, len(prompts), dtype=torch.long)
    for segment, start in zip(segments, (ends - lengths).tolist(), strict=True):
        for i in segment.sequences:
            first_input[i] = start + len(prompts[i]) - segment.begin
            if segment.begin == 0:
                after_prompt[i] = first_input[i]
    owner = torch.arange(len(prompts)).repeat_interleave(completion_lengths)
    within = _count_up(completion_lengths)
    return PackedRow(
        input_ids=torch.cat([part for segment in segments for part in segment.parts]),
        position_ids=_count_up(lengths) + torch.tensor([s.begin for s in segments]).repeat_interleave(lengths),
        cu_seqlens=torch.cat([ends.new_zeros(1), ends]).int(),
        lengths=tuple(lengths.tolist()),
        predictors=torch.where(within == 0, after_prompt[owner], first_input[owner]) + within - 1,
        targets=torch.cat(list(completions)),
        owner=owner,
        members=members,
    )


class _Segment(NamedTuple):
    """Tokens that stand together, the sequences they are of, and the position of the first."""

    sequences: list[int]
    parts: list[Tensor]
    begin: int


def _segments(prompts: Sequence[Tensor], completions: Sequence[Tensor]) -> tuple[list[_Segment], tuple[int, ...]]:
    """The segments of a row in its order, and how many continue each shared prompt."""
    # A completion of one token has no inputs: nothing of its sequence is in the row but the prompt
    continued = [(group, [i for i in group if len(completions[i]) > 1]) for group in grouped(prompts)]
    shared = [(group, inputs) for group, inputs in continued if len(inputs) > 1]
    whole = [(group, inputs) for group, inputs in continued if len(inputs) <= 1]
    segments = [
        *(_Segment(group, [prompts[group[0]]], 0) for group, _ in shared),
        *(_Segment([i], [completions[i][:-1]], len(prompts[i])) for _, inputs in shared for i in inputs),
        *(_Segment(g, [prompts[g[0]], *(completions[i][:-1] for i in inputs)], 0) for g, inputs in whole),
    ]
    return segments, tuple(len(inputs) for _, inputs in shared)


def grouped(prompts: Sequence[Tensor]) -> list[list[int]]:
    """The sequences of each prompt object, prompts in the order in which they first come."""
    groups: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(id(prompt), []).append(index)
    return list(groups.values())


def _count_up(lengths: Tensor) -> Tensor:
    """[3, 2] → [0, 1, 2, 0, 1]."""
    starts = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum())) - starts.repeat_interleave(lengths)
