"""Sequence packing: several sequences of different lengths concatenated into one row, without padding.

A packed row is the concatenation of several sequences with no padding between them: `input_ids` and `position_ids` of
shape [T] and the boundaries `cu_seqlens` [S+1]. Attention sees the boundaries (`vibethinker.packed.attention`), every
other layer sees a plain row. Only positions that predict a completion token ever reach the head.

Completions of a group share their prompt: it is in the row once, is computed once, and each of them attends to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vibethinker.utils.async_copy import moved


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Several sequences packed into one row of `T` input tokens, `S` segments and `N` predicted completion tokens.

    A segment is a whole sequence, unless its prompt is shared. The `P` shared prompts are the first segments, the
    completions that continue them come next, those of the first prompt first, then whole sequences. Attention is causal
    in each segment, and a completion's tokens see all of their prompt besides.

    Attributes:
        input_ids: [T] tokens; a sequence's last token is left out, since it predicts nothing.
        position_ids: [T] positions, from 0 in every sequence.
        cu_seqlens: [S+1] int32, where segments begin and end.
        lengths: tokens of each segment as Python integers, so that no kernel launch waits for the device.
        predictors: [N] indices into the row whose hidden state predicts a completion token.
        targets: [N] the completion tokens, sequence by sequence in the order given to `pack`.
        owner: [N] index of the sequence that each target belongs to, in the same order.
        members: how many segments continue each shared prompt, at least two; empty where no prompt is shared.
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
        """Indices of the tokens of shared prompts."""
        return slice(0, sum(self.lengths[: len(self.members)]))

    @property
    def continuations(self) -> slice:
        """Indices of the tokens that continue a shared prompt."""
        shared = len(self.members)
        return slice(self.prompts.stop, sum(self.lengths[: shared + sum(self.members)]))

    def to(self, device: torch.device | str) -> PackedRow:
        """The row with its tensors on a device."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors: dict[str, Any] = {n: moved(x, torch.device(device)) for n, x in named.items() if isinstance(x, Tensor)}
        return replace(self, **tensors)


def pack(prompts: Sequence[Tensor], completions: Sequence[Tensor], group: Sequence[int] | None = None) -> PackedRow:
    """Concatenates prompt and completion pairs into one row; without any it has one token and predicts nothing.

    A row of whole sequences keeps the order in which they are given.

    >>> row = pack([torch.tensor([1, 2])] * 2, [torch.tensor([3, 4, 5]), torch.tensor([6, 7])], group=[0, 0])
    >>> row.input_ids.tolist(), row.position_ids.tolist(), row.lengths
    ([1, 2, 3, 4, 6], [0, 1, 2, 3, 2], (2, 2, 1))
    >>> row.targets.tolist(), row.predictors.tolist()
    ([3, 4, 5, 6, 7], [1, 2, 3, 1, 4])

    Args:
        prompts: `S` one-dimensional token tensors, none empty.
        completions: `S` one-dimensional token tensors, none empty.
        group: a number for each sequence; those with the same number share their prompt. `None`: none is shared.

    Raises:
        ValueError: an empty prompt or completion, or different prompts in one group.
    """
    if not prompts:  # a rank without work still takes part in the gradient exchange
        bounds, none = torch.tensor([0, 1], dtype=torch.int32), torch.empty(0, dtype=torch.long)
        return PackedRow(torch.tensor([0]), torch.tensor([0]), bounds, (1,), none, none, none)
    completion_lengths = torch.tensor([len(c) for c in completions])
    if min(map(len, prompts)) == 0 or int(completion_lengths.min()) == 0:
        raise ValueError("packing: every prompt and every completion needs at least one token")
    segments, members = _segments(prompts, completions, range(len(prompts)) if group is None else group)
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
    """Consecutive tokens of a row, the sequences they belong to, and the position of the first."""

    sequences: list[int]
    parts: list[Tensor]
    begin: int


def _segments(
    prompts: Sequence[Tensor], completions: Sequence[Tensor], group: Sequence[int]
) -> tuple[list[_Segment], tuple[int, ...]]:
    """The segments of a row in its order, and how many continue each shared prompt."""
    # A completion of one token has no inputs: nothing of its sequence is in the row but the prompt
    shared: list[tuple[list[int], Tensor, list[int]]] = []
    whole: list[tuple[list[int], Tensor, list[int]]] = []
    for members in group_members(group):
        prompt = prompts[members[0]]
        if any(prompts[i] is not prompt and not torch.equal(prompts[i], prompt) for i in members):
            raise ValueError("packing: the sequences of a group must have the same prompt")
        continued = [i for i in members if len(completions[i]) > 1]
        (shared if len(continued) > 1 else whole).append((members, prompt, continued))
    segments = [
        *(_Segment(members, [prompt], 0) for members, prompt, _ in shared),
        *(_Segment([i], [completions[i][:-1]], len(prompt)) for _, prompt, continued in shared for i in continued),
        *(_Segment(members, [prompt, *(completions[i][:-1] for i in rest)], 0) for members, prompt, rest in whole),
    ]
    return segments, tuple(len(continued) for *_, continued in shared)


def group_members(group: Sequence[int]) -> list[list[int]]:
    """The sequences of each group, in the order in which groups first occur: [7, 3, 7] → [[0, 2], [1]]."""
    members: dict[int, list[int]] = {}
    for index, number in enumerate(group):
        members.setdefault(number, []).append(index)
    return list(members.values())


def _count_up(lengths: Tensor) -> Tensor:
    """[3, 2] → [0, 1, 2, 0, 1]."""
    starts = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum())) - starts.repeat_interleave(lengths)
