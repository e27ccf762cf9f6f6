"""Partitions sequences into packed rows whose token counts are balanced."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence

from vibethinker.packed.packing import group_members


def balance(lengths: Sequence[int], bins: int) -> list[list[int]]:
    """Partitions sequences into a fixed number of bins with close token counts (longest first, LPT).

    Deterministic: ties go to the lower index. With fewer sequences than bins some bins are empty. Each bin is the
    indices of its sequences in ascending order.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    heap = [(0, b) for b in range(bins)]
    parts: list[list[int]] = [[] for _ in range(bins)]
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        load, lightest = heapq.heappop(heap)
        parts[lightest].append(index)
        heapq.heappush(heap, (load + lengths[index], lightest))
    return [sorted(part) for part in parts]


def partition(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Partitions sequences into balanced rows of at most `budget` tokens, as few as `balance` finds room in.

    A sequence longer than the budget is a row of its own; without any sequence there is one empty row. Each row is the
    indices of its sequences in ascending order.
    """
    if sum(lengths) <= budget:
        return [list(range(len(lengths)))]
    alone = [[i] for i, length in enumerate(lengths) if length > budget]
    rest = [i for i, length in enumerate(lengths) if length <= budget]
    total = sum(lengths[i] for i in rest)
    fewest = max(-(-total // budget), sum(2 * lengths[i] > budget for i in rest))  # no two of these share a row
    for bins in range(fewest, len(rest) + 1):
        parts = balance([lengths[i] for i in rest], bins) if bins else []
        rows = [[rest[i] for i in part] for part in parts]
        if all(sum(lengths[i] for i in row) <= budget for row in rows):
            return alone + rows
    raise AssertionError("one sequence a row is within the budget")


def partition_groups(
    prompts: Sequence[int], completions: Sequence[int], group: Sequence[int], budget: int
) -> list[list[int]]:
    """Partitions sequences that share prompts into rows of at most `budget` tokens, those of a prompt together.

    A row costs the tokens of its completions, and each of its prompts once. Sequences form a line, group after group,
    and the line is cut: a group may end in the next row, which computes the prompt again. Rows are the fewest within
    the budget, and the costliest of them is as cheap as cuts can make it. A sequence longer than the budget is a row of
    its own; without any sequence there is one empty row. Each row is the indices of its sequences.

    Args:
        prompts: tokens of each sequence's prompt.
        completions: tokens of each sequence's completion.
        group: a number for each sequence; those with the same number share their prompt.
        budget: tokens of a row.
    """
    line = [(i, g, prompts[i], completions[i]) for g, members in enumerate(group_members(group)) for i in members]
    most = sum(prompt + completion for *_, prompt, completion in line)
    count = len(_filled(line, budget))
    evenly = bisect_left(range(most), True, key=lambda capacity: len(_filled(line, capacity)) <= count)
    return [[i for i, *_ in row] for row in _filled(line, evenly)] or [[]]


_Line = list[tuple[int, int, int, int]]  # sequence, its group, tokens of its prompt and of its completion


def _filled(line: _Line, capacity: int) -> list[_Line]:
    """Cuts a line into the fewest parts that cost no more than a capacity, or are one sequence."""
    parts: list[_Line] = []
    room = 0
    for sequence in line:
        _, group, prompt, completion = sequence
        cost = completion if parts and parts[-1][-1][1] == group else prompt + completion
        if not parts or cost > room:
            parts.append([])
            room, cost = capacity, prompt + completion
        parts[-1].append(sequence)
        room -= cost
    return parts
