"""How many programs of the decode kernel take the tokens of one sequence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# From so many sequences × key heads on: tokens that one program takes, of sequences of about equal length and of
# others. Once programs keep the device busy, splitting costs more than it gives, unless a few would be at work when all
# others are done.
_CHUNKS = ((512, 4096, 512), (128, 1024, 1024), (0, 256, 256))
_EVEN = 1.5  # the longest sequence over the mean one


class Split(NamedTuple):
    """A sequence's tokens in so many `programs`, a power of two, of `chunk` tokens each."""

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
