"""Partitions sequences into packed rows whose token counts are balanced."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence

from vibethinker.packed.packing import group_members


def balance(lengths: Sequence[int], bins: int) -> list[list[int]]:
    """Partitions sequences into a fixed number of bins with close token counts (longest first, LPT).

    Deterministic: ties go to the lower index. With fewer sequences than bins some bins are empty.

    Returns:
        For every bin, the indices of its sequences in ascending order.
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


def split(lengths: Sequence[int], budget: int | None) -> list[list[int]]:
    """Partitions sequences into balanced rows of at most `budget` tokens, as few as `balance` finds room in.

    A sequence longer than the budget is a row of its own; with no sequence there is one empty row.

    Args:
        lengths: tokens of each sequence.
        budget: tokens of a row; `None` puts all sequences into one.

    Returns:
        For every row, the indices of its sequences in ascending order.
    """
    if budget is None or sum(lengths) <= budget:
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


def partition(lengths: Sequence[int], bins: int, budget: int | None) -> list[list[list[int]]]:
    """Balances sequences over `bins` micro-batches and each of these over rows of at most `budget` tokens."""
    parts = balance(lengths, bins)
    return [[[part[i] for i in row] for row in split([lengths[i] for i in part], budget)] for part in parts]


def partition_groups(
    prompts: Sequence[int], completions: Sequence[int], group: Sequence[int], bins: int, budget: int | None
) -> list[list[list[int]]]:
    """Balances sequences that share prompts over micro-batches and rows, those of a group together where they fit.

    A row costs the tokens of its completions, and each of its prompts once. Sequences stand in a line, group after
    group, and the line is cut: a group may end in the next part, which computes the prompt again. The costliest
    micro-batch, and in each the costliest row, is as cheap as cuts can make it; rows are the fewest within the budget.
    A sequence longer than that is a row of its own.

    Args:
        prompts: tokens of each sequence's prompt.
        completions: tokens of each sequence's completion.
        group: a number for each sequence; those with the same number share their prompt.
        bins: micro-batches; with few sequences some are one empty row.
        budget: tokens of a row; `None` makes each micro-batch one row.

    Returns:
        For every micro-batch its rows, for every row the indices of its sequences.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    line = [(i, g, prompts[i], completions[i]) for g, members in enumerate(group_members(group)) for i in members]
    parts = _evenly(line, bins)
    partitioned = []
    for part in [*parts, *[[]] * (bins - len(parts))]:
        rows = _evenly(part, 1 if budget is None else len(_filled(part, budget)))
        partitioned.append([[i for i, *_ in row] for row in rows] or [[]])
    return partitioned


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


def _evenly(line: _Line, count: int) -> list[_Line]:
    """Cuts a line into at most `count` parts such that the highest cost of a part is lowest."""
    most = sum(prompt + completion for *_, prompt, completion in line)
    return _filled(line, bisect_left(range(most), True, key=lambda capacity: len(_filled(line, capacity)) <= count))
