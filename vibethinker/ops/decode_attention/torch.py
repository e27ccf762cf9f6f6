"""Decode attention in PyTorch's operations; the scores of a prompt are one product for all rows of its group."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vibethinker.ops.decoder_layers.torch import Rotation

ROTATES = False
# From so many sequences × key heads on: tokens that one program takes, of sequences of about equal length and of
# others. Once programs keep the device busy, splitting costs more than it gives, unless a few would be at work when all
# others are done.
_CHUNKS = ((512, 4096, 512), (128, 1024, 1024), (0, 256, 256))
_EVEN = 1.5  # the longest sequence over the mean one


class Split(NamedTuple):
    """A sequence's tokens in so many `programs` of the kernel, a power of two, of `chunk` tokens each."""

    programs: int
    chunk: int

    @classmethod
    def of(cls, lengths: NDArray[np.int64], rows: int, kv_heads: int) -> Split:
        """The split for sequences of these lengths; it takes few different values, since each has a CUDA graph.

        Args:
            lengths: tokens of each sequence.
            rows: rows of the decode step, at least as many as sequences.
            kv_heads: heads of keys and values.
        """
        longest = int(lengths.max())
        even, uneven = next(chunks for least, *chunks in _CHUNKS if rows * kv_heads >= least)
        chunk = even if longest <= _EVEN * lengths.mean() else uneven
        return cls(1 << (-(-longest // chunk) - 1).bit_length(), chunk)


class Plan:
    """The values that all layers of a step share: groups, masks and where the new token goes; see `plan`."""

    def __init__(self, rows: tuple[Tensor, Tensor, Tensor], completions: Tensor, previous: Plan | None):
        lengths, prompts, prompt_lengths = rows
        same = previous is not None and torch.equal(previous.groups.prompts, prompts)
        self.groups: _Groups = previous.groups if previous and same else _Groups(prompts)
        generated = lengths - prompt_lengths
        self.prompt_room, self.room = int(prompt_lengths.max()), int(generated.max()) + 1
        unseen = torch.cat([_unseen(prompt_lengths, self.prompt_room), _unseen(generated + 1, self.room)], 1)
        self.bias = torch.zeros(unseen.shape, device=unseen.device).masked_fill_(unseen, -torch.inf)[:, None, None]
        kv_heads, room = completions.shape[2:4]
        head = torch.arange(len(generated) * kv_heads, device=generated.device).view(len(generated), -1)
        self.new = (head * room + generated[:, None]).flatten()


def plan(rows: tuple[Tensor, Tensor, Tensor], completions: Tensor, split: Split, previous: Plan | None) -> Plan:
    """Prepares a step for all layers.

    Args:
        rows: int64 [R] each: tokens in the cache before this step, the prompt's included; the prompt's slot; its
            tokens.
        completions: keys and values of any layer, see `attend`.
        split: programs for a sequence; they must reach the longest one.
        previous: plan of the step before, or `None`.
    """
    return Plan(rows, completions, previous)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prompts: Tensor,
    completions: Tensor,
    rows: tuple[Tensor, Tensor, Tensor],
    scale: float,
    plan: Plan,
    rotation: Rotation | None = None,
) -> Tensor:
    """Adds one new token of each of `R` sequences to the cache and attends to what is there of its sequence.

    Args:
        query: [R, heads, D].
        key: [R, kv_heads, D] of the new token.
        value: [R, kv_heads, D] of the new token.
        prompts: keys and values of prompts [2, slots, kv_heads, M, D], contiguous.
        completions: keys and values of completions [2, ≥ R, kv_heads, N, D], contiguous; row i is sequence i's.
        rows: see `plan`.
        scale: of the scores.
        plan: of this step.
        rotation: of query and key, not yet applied; a token's position is its sequence's length.

    Returns:
        [R, heads, D] in the query's precision.
    """
    for store, new in zip(completions, (key, value), strict=True):
        store.flatten(0, 2).index_put_((plan.new,), new.flatten(0, 1))
    count, kv_heads, size = len(query), key.shape[1], query.shape[-1]
    q = scale * query.view(count, kv_heads, -1, size)  # query heads of one key head, as if they were tokens
    k, v = completions[:, :count, :, : plan.room]
    prompt_k, prompt_v = prompts[:, plan.groups.slots, :, : plan.prompt_room]
    to_prompt = plan.groups.apart(_product(plan.groups.together(q), prompt_k.mT))
    scores = torch.cat([to_prompt, _product(q, k.mT)], -1).float().add_(plan.bias)
    weights = scores.softmax(-1).to(v.dtype)
    of_prompt, of_completion = weights[..., : plan.prompt_room], weights[..., plan.prompt_room :]
    out = _product(of_completion, v)
    out.add_(plan.groups.apart(_product(plan.groups.together(of_prompt), prompt_v)))
    return out.view(query.shape)


def copy_rows_(store: Tensor, sources: Tensor, targets: Tensor, lengths: Tensor, longest: int) -> None:
    """Copies tokens of some rows of a cache to others; no row is both.

    Args:
        store: [..., rows, heads, M, D], contiguous.
        sources: int64 [C].
        targets: int64 [C].
        lengths: tokens to copy, int64 [C].
        longest: the largest of them.
    """
    for of_layer in store.flatten(0, -5):
        of_layer[targets, :, :longest] = of_layer[sources, :, :longest]


class _Groups:
    """Rows that share a prompt, the same for as long as no row comes, goes or moves.

    Args:
        prompts: int64 [R], the slot of each row's prompt.
    """

    def __init__(self, prompts: Tensor):
        count, device = len(prompts), prompts.device
        self.prompts = prompts.clone()
        slots, group = prompts.unique(return_inverse=True)
        first, last = int(slots[0]), int(slots[-1])
        neighbours = last - first < len(slots)
        self.slots = slice(first, last + 1) if neighbours else slots  # a view where it can be
        members = group.bincount()
        order, row = group.argsort(stable=True), torch.arange(count, device=device)
        rank = torch.empty_like(group)
        rank[order] = row - (members.cumsum(0) - members)[group[order]]
        self.size = int(members.max())
        self.within = group * self.size + rank  # index of a row among groups padded to the largest
        self.member = torch.zeros(len(members) * self.size, dtype=torch.long, device=device)
        self.member[self.within] = row
        self.in_order = len(self.member) == count and torch.equal(self.member, row)

    def together(self, x: Tensor) -> Tensor:
        """[R, kv_heads, T, X] of rows → [P, kv_heads, members · T, X] of groups, all rows' heads as if tokens."""
        x = x if self.in_order else x.index_select(0, self.member)
        return x.unflatten(0, (-1, self.size)).transpose(1, 2).flatten(2, 3)

    def apart(self, x: Tensor) -> Tensor:
        """The inverse of `together`."""
        x = x.unflatten(2, (self.size, -1)).transpose(1, 2).flatten(0, 1)
        return x if self.in_order else x.index_select(0, self.within)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Many small products: PyTorch's attention for the CPU is meant for longer queries, and `matmul` copies."""
    return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).view(*a.shape[:3], b.shape[3])


def _unseen(lengths: Tensor, room: int) -> Tensor:
    """True at the indices from `lengths` [R] on, [R, room]."""
    return torch.arange(room, device=lengths.device) >= lengths[:, None]
