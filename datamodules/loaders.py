"""Which problems a rank gets in each batch, and how that position is saved and restored.

A `TrainStream` yields training problems without end: epochs of a set (`Epochs`), a file read as training goes on
(`vibethinker.datamodules.reading.problem_stream.ProblemStream`), or several streams in given proportions (`Mixture`).
The loaders cut it into batches. They are plain sized iterables rather than `torch.utils.data.DataLoader`s: Lightning
then injects no distributed sampler of its own, creating an iterator consumes no random numbers, and nothing is
prefetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from vibethinker.problems import Problem
from vibethinker.utils.provenance import Provenance

ENDLESS = 10**9  # problems in an unbounded train set; finite because a loader without a length is prefetched


def chunk(count: int, index: int, chunks: int) -> range:
    """The contiguous chunk number `index` of `count` things cut into `chunks` whose sizes differ by one at most."""
    return range(count * index // chunks, count * (index + 1) // chunks)


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `count` problems in an epoch: a function of its arguments alone."""
    return np.random.default_rng([seed, epoch]).permutation(count)


class TrainStream(Protocol):
    """An endless stream of problems, the same on every rank, taken batch after batch.

    Attributes:
        size: problems in an epoch.
        options: what the order of the problems depends on, by the names of options.
    """

    size: int
    options: dict[str, Any]

    def take(self, batch: range, own: range) -> list[Problem]:
        """The problems at the indices `own` of the batch at the indices `batch`, which follows the last one.

        A batch may be taken again as long as no later one has been. `own` is a contiguous part of `batch`.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state from which the last batch is taken again, or the next one; the same on every rank."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state."""
        ...


class Epochs:
    """Epoch after epoch of a set, each in an order of its own when shuffled.

    Args:
        problems: the train set.
        seed: seed of the shuffling.
        shuffle: true to order each epoch anew; needs a set small enough to permute.
    """

    def __init__(self, problems: Sequence[Problem], *, seed: int = 0, shuffle: bool = True) -> None:
        self.problems = problems
        self.size = len(problems)
        self.options = {"seed": seed, "shuffle": shuffle, "train_size": len(problems)}
        self._seed, self._shuffle = seed, shuffle
        self._order: tuple[int, np.ndarray] | None = None  # of the epoch that was asked for last

    def take(self, batch: range, own: range) -> list[Problem]:
        """The problems at the indices `own`."""
        return [self._at(index) for index in own]

    def _at(self, index: int) -> Problem:
        epoch, index = divmod(index, self.size)
        if not self._shuffle:
            return self.problems[index]
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, permutation(self.size, self._seed, epoch)
        return self.problems[int(self._order[1][index])]

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the index of a batch is enough."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Does nothing."""


class Mixture:
    """Several streams in fixed proportions, each exact to within one problem after any number of problems.

    The next stream follows from the counts so far, by Tijdeman's rule for the chairman assignment problem (Discrete
    Mathematics 32, 1980): of the `D` streams that lag behind by 1/(2D−2) or more, the one whose next problem is due
    first. No stream is then ever 1 − 1/(2D−2) of a problem or more away from its proportion.

    Args:
        streams: by name.
        weights: of each stream, relative to their sum; a stream without weight is left out.
    """

    def __init__(self, streams: Mapping[str, TrainStream], weights: Mapping[str, float]) -> None:
        total = sum(weights.values())
        self.streams = {name: stream for name, stream in streams.items() if weights[name] > 0}
        self.fractions = {name: weights[name] / total for name in self.streams}
        self.size = min(sum(stream.size for stream in self.streams.values()), ENDLESS)
        self.options = {"weights": dict(weights)} | {
            f"{option} of {name}": value
            for name, stream in self.streams.items()
            for option, value in stream.options.items()
        }
        self._taken = dict.fromkeys(self.streams, 0)
        self._before = dict(self._taken)  # the same at the beginning of the last batch

    def take(self, batch: range, own: range) -> list[Problem]:
        """The problems at the indices `own`, each from the stream that follows then."""
        self._taken = dict(self._before)
        while sum(self._taken.values()) < batch.start:
            self._next()
        self._before = dict(self._taken)
        chosen = [(index, *self._next()) for index in batch]
        problems: dict[tuple[str, int], Problem] = {}
        for name, stream in self.streams.items():
            indices = [(whole, part) for whole, stream_name, part in chosen if stream_name == name]
            mine = [part for whole, part in indices if whole in own]
            if indices:
                span = range(indices[0][1], indices[-1][1] + 1)
                taken = stream.take(span, range(mine[0], mine[-1] + 1) if mine else span[:0])
                problems |= {(name, part): problem for part, problem in zip(mine, taken, strict=True)}
        return [problems[name, part] for index, name, part in chosen if index in own]

    def _next(self) -> tuple[str, int]:
        """The name of the next stream, and how many problems were taken of it before."""
        slack = 1 / max(2 * len(self.fractions) - 2, 1)
        after = sum(self._taken.values()) + 1
        lag = {name: fraction * after - self._taken[name] for name, fraction in self.fractions.items()}
        late = [name for name in lag if lag[name] > slack - 1e-6]
        name = min(late, key=lambda name: (1 - slack - lag[name]) / self.fractions[name])
        self._taken[name] += 1
        return name, self._taken[name] - 1

    def state_dict(self) -> dict[str, Any]:
        """The counts at the beginning of the last batch, and the states of the streams."""
        streams = {name: stream.state_dict() for name, stream in self.streams.items()}
        return {"taken": dict(self._before), "streams": streams}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state."""
        self._before = dict(state["taken"])
        for name, stream in self.streams.items():
            stream.load_state_dict(state["streams"][name])


class TrainLoader:
    """Yields this rank's part of one global batch after another, each `repeats` times in a row.

    Batch `b` is indices `b * batch_size` to `(b + 1) * batch_size` of the stream, so no remainder is dropped at the end
    of an epoch. An iteration ends with the epoch (`len`); the next one goes on from there. The position is counted in
    batches that were yielded, so a run that stops between two repeats of a batch goes on between them.

    Args:
        stream: where the problems come from.
        batch_size: problems per global batch, over all ranks.
        repeats: how many times in a row each batch is yielded.
        rank: this process.
        world_size: number of processes.

    Raises:
        ValueError: if the batch cannot be split evenly, or is larger than an epoch.
    """

    def __init__(
        self, stream: TrainStream, batch_size: int, *, repeats: int = 1, rank: int = 0, world_size: int = 1
    ) -> None:
        check_divisible(batch_size, world_size)
        if batch_size > stream.size:
            raise ValueError(f"batch_size={batch_size} is more than the {stream.size} training problems there are")
        self.stream = stream
        self.batch_size = batch_size
        self.repeats = repeats
        self.own = chunk(batch_size, rank, world_size)
        self.position = 0
        self.options = {"batch_size": batch_size, "updates_per_rollout": repeats, **stream.options}

    def __len__(self) -> int:
        return -(-self.stream.size // self.batch_size) * self.repeats

    def __iter__(self) -> Iterator[list[Problem]]:
        while True:
            number, repeat = divmod(self.position, self.repeats)
            start = number * self.batch_size
            own = range(start + self.own.start, start + self.own.stop)
            problems = self.stream.take(range(start, start + self.batch_size), own)
            for _ in range(repeat, self.repeats):
                self.position += 1
                yield list(problems)
            if self.position % len(self) == 0:
                return

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream, and what the stream depends on. The same on every rank."""
        return {"position": self.position, "options": dict(self.options), "stream": self.stream.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved position.

        Raises:
            ValueError: if an option that decides the order of problems has changed since; names the option.
        """
        if changed := Provenance(self.options).difference(Provenance(state["options"])):
            raise ValueError(
                f"{changed.name} was {changed.saved!r} when the checkpoint was saved and is {changed.now!r} now: "
                f"the position in the training data is lost; resume with {changed.name}={changed.saved!r}"
            )
        self.position = state["position"]
        self.stream.load_state_dict(state["stream"])


class HeldOutLoader:
    """Yields this rank's part of a fixed set, every problem once over all ranks, in batches of nearly equal size.

    Every rank yields the same number of batches; one is empty where it has fewer problems than there are ranks.

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
        for index in range(len(self)):
            batch = chunk(len(self.problems), index, len(self))
            yield [self.problems[batch[i]] for i in chunk(len(batch), self.rank, self.world_size)]


def check_divisible(batch_size: int, world_size: int) -> None:
    """Raises ValueError unless each of `world_size` ranks gets the same number of problems of a batch."""
    if batch_size % world_size:
        raise ValueError(f"batch_size={batch_size} is not divisible by the {world_size} processes of this run")
