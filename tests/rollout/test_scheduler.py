"""Slots of prompts and rows of sequences, by hand."""

from __future__ import annotations

import numpy as np
import torch

from vibethinker.rollout.scheduler import ActiveRows, PromptSlots


def test_a_prompt_keeps_its_slot_until_its_last_sequence_ends() -> None:
    slots = PromptSlots(2)
    assert (slots.acquire(7, 3), slots.acquire(8, 1)) == (0, 1)
    slots.release(7, 2)
    assert slots[7] == 0
    slots.release(7, 1)
    assert 7 not in slots
    assert slots.acquire(9, 1) == 0


def test_the_last_rows_move_into_the_gaps() -> None:
    rows = ActiveRows()
    for first in (0, 3):
        numbers = torch.arange(first, first + 3)
        rows.append(sequence=numbers, generated=numbers + 10, limit=numbers + 20, prompt_length=numbers + 30)
    source, target = rows.keep(np.array([True, False, True, False, True, True]))
    assert (source.tolist(), target.tolist()) == ([4, 5], [1, 3])
    assert rows.sequence.tolist() == [0, 4, 2, 5]
    assert rows.prompt_length.tolist() == [30, 34, 32, 35]
    assert len(rows) == 4
