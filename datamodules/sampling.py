"""Which problems a rank sees at which turn, and how that place is saved and found again.

Both loaders are plain sized iterables rather than `torch.utils.data.DataLoader`s. Lightning then injects no
distributed sampler of its own, creating an iterator consumes no random numbers, and nothing is fetched ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from vibethinker.problems import Problem


def share(count: int, part: int, parts: int) -> range:
    """The contiguous part number `part` of `count` things cut into `parts` whose sizes differ by one at most."""
    return range(count * part // parts, count * (part + 1) // parts)


@lru_cache(maxsize=2)  # a batch may lie across the end of one pass and the start of the next
def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of pass number `epoch` through `count` problems: a function of its arguments alone."""
    return np.random.default_rng([seed, epoch]).permutation(count)


class TrainLoader:
    """Yields this rank's share of one global batch after another, each `slices` times in a row.

    The problems form one endless stream: pass after pass, each in an order of its own when shuffled. Batch `b` is
    places `b * batch_size` to `(b + 1) * batch_size` of it, so every problem comes up once per pass and no remainder
    is dropped. An iteration ends with the epoch (`len`); the next one goes on from there. The place is counted in
    items that were handed out, so a run that stops between two slices of a batch goes on between them.

    Args:
        problems: the train set.
        batch_size: problems per global batch, over all ranks.
        seed: seed of the shuffling.
        shuffle: whether each pass has a fresh order; needs a set small enough to permute.
        slices: how many times in a row each batch is handed out.
        rank: this process.
        world_size: number of processes.

    Raises:
        ValueError: if the batch cannot be shared evenly, or is larger than the set.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        slices: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_divisible(batch_size, world_size)
        if batch_size > len(problems):
            raise ValueError(f"batch_size={batch_size} is more than the {len(problems)} training problems there are")
        self.problems = problems
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.slices = slices
        self.places = share(batch_size, rank, world_size)
        self.position = 0
        self.stream = {
            "batch_size": batch_size,
            "seed": seed,
            "shuffle": shuffle,
            "slices_per_batch": slices,
            "train_size": len(problems),
        }

    def __len__(self) -> int:
        return -(-len(self.problems) // self.batch_size) * self.slices

    def __iter__(self) -> Iterator[list[Problem]]:
        while True:
            batch, turn = divmod(self.position, self.slices)
            problems = [self._at(batch * self.batch_size + place) for place in self.places]
            for _ in range(turn, self.slices):
                self.position += 1
                yield list(problems)
            if self.position % len(self) == 0:
                return

    def _at(self, place: int) -> Problem:
        epoch, index = divmod(place, len(self.problems))
        return self.problems[int(permutation(len(self.problems), self.seed, epoch)[index]) if self.shuffle else index]

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream, and what the stream depends on. The same on every rank."""
        return {"position": self.position, "stream": dict(self.stream)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved place.

        Raises:
            ValueError: if an option that decides the order of problems has changed since; names the option.
        """
        for option, now in self.stream.items():
            before = state["stream"].get(option)
            if before != now:
                raise ValueError(
                    f"{option} was {before!r} when the checkpoint was saved and is {now!r} now: "
                    f"the place in the training data cannot be found again; resume with {option}={before!r}"
                )
        self.position = state["position"]


class HeldOutLoader:
    """Yields this rank's share of a fixed set, every problem once over all ranks, in batches of nearly equal size.

    Every rank takes the same number of turns. Its list is empty where a batch has fewer problems than there are ranks.

    Args:
        problems: the held-out set.
        batch_size: upper bound of problems per global batch, over all ranks.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, problems: Sequence[Problem], batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.problems = problems
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return -(-len(self.problems) // self.batch_size)

    def __iter__(self) -> Iterator[list[Problem]]:
        for turn in range(len(self)):
            batch = share(len(self.problems), turn, len(self))
            yield [self.problems[batch[i]] for i in share(len(batch), self.rank, self.world_size)]


def check_divisible(batch_size: int, world_size: int) -> None:
    """Raises ValueError unless each of `world_size` ranks gets the same number of problems of a batch."""
    if batch_size % world_size:
        raise ValueError(f"batch_size={batch_size} is not divisible by the {world_size} processes of this run")
