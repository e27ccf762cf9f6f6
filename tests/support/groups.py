"""Groups of sequences that share prompts."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

WORDS = 50
GROUPS = [(5, [4, 2, 7]), (1, [3, 3]), (9, [6]), (3, [1, 1, 5]), (4, [1, 8, 1, 2]), (2, [1]), (6, [1, 1])]
Groups = list[tuple[int, list[int]]]
groups = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 30), min_size=1, max_size=6)), min_size=1, max_size=6
)


def sequences(sizes: Groups, seed: int = 0) -> tuple[list[Tensor], list[Tensor], list[int]]:
    """Prompts, completions and groups of random tokens; `sizes` are the tokens of prompt and completions by group."""
    generator = torch.Generator().manual_seed(seed)
    prompts, completions, group = [], [], []
    for number, (prompt_length, lengths) in enumerate(sizes):
        prompt = torch.randint(WORDS, (prompt_length,), generator=generator)
        prompts += [prompt] * len(lengths)
        completions += [torch.randint(WORDS, (n,), generator=generator) for n in lengths]
        group += [number] * len(lengths)
    return prompts, completions, group
