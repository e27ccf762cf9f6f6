"""Which problems a rank sees at which turn, and how that place is saved and found again.

A feed is an endless stream of training problems: passes through a set (`Passes`), a file read as it goes
(`vibethinker.datamodules.reading.problem_stream.ProblemStream`), or several feeds in given proportions (`Mixture`). The
loaders cut it into batches. They are plain sized iterables rather than `torch.utils.data.DataLoader`s: Lightning then
injects no distributed sampler of its own, creating an iterator consumes no random numbers, and nothing is prefetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from vibethinker.problems import Problem

ENDLESS = 10**9  # problems in an unbounded train set; finite because a loader without a length is prefetched


def share(count: int, part: int, parts: int) -> range:
    """The contiguous part number `part` of `count` things cut into `parts` whose sizes differ by one at most."""
    return range(count * part // parts, count * (part + 1) // parts)


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of pass number `epoch` through `count` problems: a function of its arguments alone."""
    return np.random.default_rng([seed, epoch]).permutation(count)


class Feed(Protocol):
    """An endless stream of problems, the same on every rank, taken batch after batch.

    Attributes:
        size: problems in an epoch.
        options: what the order of the problems depends on, by the names of options.
    """

    size: int
    options: dict[str, Any]

    def take(self, batch: range, own: range) -> list[Problem]:
        """The problems at the places `own` of the batch at the places `batch`, which begins where the last one ended.

        A batch may be taken again as long as no later one has been. `own` is a part of `batch` without gaps.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What is needed to take the last batch again, or the next one; the same on every rank."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state."""
        ...


class Passes:
    """Pass after pass through a set, each in an order of its own when shuffled.

    Args:
        problems: the train set.
        seed: seed of the shuffling.
        shuffle: whether each pass has a fresh order; needs a set small enough to permute.
    """

    def __init__(self, problems: Sequence[Problem], *, seed: int = 0, shuffle: bool = True) -> None:
        self.problems = problems
        self.size = len(problems)
        self.seed = seed
        self.shuffle = shuffle
        self.options = {"seed": seed, "shuffle": shuffle, "train_size": len(problems)}
        self._order: tuple[int, np.ndarray] | None = None  # of the pass that was asked for last

    def take(self, batch: range, own: range) -> list[Problem]:
        return [self._at(place) for place in own]

    def _at(self, place: int) -> Problem:
        epoch, index = divmod(place, self.size)
        if not self.shuffle:
            return self.problems[index]
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, permutation(self.size, self.seed, epoch)
        return self.problems[int(self._order[1][index])]

    def state_dict(self) -> dict[str, Any]:
        return {}  # a place says it all

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return


class Mixture:
    """Several feeds in fixed proportions: after any number of problems each has given its share to within one problem.

    Whose turn it is follows from the counts so far, by Tijdeman's rule for the chairman assignment problem (Discrete
    Mathematics 32, 1980): of the `D` feeds that lag behind by 1/(2D−2) or more, the one whose next problem is due
    first. No feed is then ever 1 − 1/(2D−2) of a problem or more away from its share.

    Args:
        feeds: by name.
        weights: of each feed, relative to their sum; a feed without weight is left out.
    """

    def __init__(self, feeds: Mapping[str, Feed], weights: Mapping[str, float]) -> None:
        total = sum(weights.values())
        self.feeds = {name: feed for name, feed in feeds.items() if weights[name] > 0}
        self.shares = {name: weights[name] / total for name in self.feeds}
        self.size = min(sum(feed.size for feed in self.feeds.values()), ENDLESS)
        self.options = {"weights": dict(weights)} | {
            f"{option} of {name}": value for name, feed in self.feeds.items() for option, value in feed.options.items()
        }
        self._taken = dict.fromkeys(self.feeds, 0)
        self._before = dict(self._taken)  # the same at the beginning of the last batch

    def take(self, batch: range, own: range) -> list[Problem]:
        self._taken = dict(self._before)
        while sum(self._taken.values()) < batch.start:
            self._draw()
        self._before = dict(self._taken)
        drawn = [(place, *self._draw()) for place in batch]
        problems: dict[tuple[str, int], Problem] = {}
        for name, feed in self.feeds.items():
            places = [(whole, part) for whole, feed_name, part in drawn if feed_name == name]
            mine = [part for whole, part in places if whole in own]
            if places:
                span = range(places[0][1], places[-1][1] + 1)
                taken = feed.take(span, range(mine[0], mine[-1] + 1) if mine else span[:0])
                problems |= {(name, part): problem for part, problem in zip(mine, taken, strict=True)}
        return [problems[name, part] for place, name, part in drawn if place in own]

    def _draw(self) -> tuple[str, int]:
        """Whose turn it is, and how often it was that one's turn before."""
        slack = 1 / max(2 * len(self.shares) - 2, 1)
        after = sum(self._taken.values()) + 1
        lag = {name: share * after - self._taken[name] for name, share in self.shares.items()}
        late = [name for name in lag if lag[name] > slack - 1e-6]
        name = min(late, key=lambda name: (1 - slack - lag[name]) / self.shares[name])
        self._taken[name] += 1
        return name, self._taken[name] - 1

    def state_dict(self) -> dict[str, Any]:
        feeds = {name: feed.state_dict() for name, feed in self.feeds.items()}
        return {"taken": dict(self._before), "feeds": feeds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._before = dict(state["taken"])
        for name, feed in self.feeds.items():
            feed.load_state_dict(state["feeds"][name])


class TrainLoader:
    """Yields this rank's part of one global batch after another, each `repeats` times in a row.

    Batch `b` is places `b * batch_size` to `(b + 1) * batch_size` of the feed, so no remainder is dropped at the end of
    a pass. An iteration ends with the epoch (`len`); the next one goes on from there. The place is counted in batches
    that were yielded, so a run that stops between two repeats of a batch goes on between them.

    Args:
        feed: where the problems come from.
        batch_size: problems per global batch, over all ranks.
        repeats: how many times in a row each batch is yielded.
        rank: this process.
        world_size: number of processes.

    Raises:
        ValueError: if the batch cannot be shared evenly, or is larger than an epoch.
    """

    def __init__(self, feed: Feed, batch_size: int, *, repeats: int = 1, rank: int = 0, world_size: int = 1) -> None:
        check_divisible(batch_size, world_size)
        if batch_size > feed.size:
            raise ValueError(f"batch_size={batch_size} is more than the {feed.size} training problems there are")
        self.feed = feed
        self.batch_size = batch_size
        self.repeats = repeats
        self.places = share(batch_size, rank, world_size)
        self.position = 0
        self.stream = {"batch_size": batch_size, "updates_per_rollout": repeats, **feed.options}

    def __len__(self) -> int:
        return -(-self.feed.size // self.batch_size) * self.repeats

    def __iter__(self) -> Iterator[list[Problem]]:
        while True:
            number, repeat = divmod(self.position, self.repeats)
            start = number * self.batch_size
            own = range(start + self.places.start, start + self.places.stop)
            problems = self.feed.take(range(start, start + self.batch_size), own)
            for _ in range(repeat, self.repeats):
                self.position += 1
                yield list(problems)
            if self.position % len(self) == 0:
                return

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream, and what the stream depends on. The same on every rank."""
        return {"position": self.position, "stream": dict(self.stream), "feed": self.feed.state_dict()}

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
        self.feed.load_state_dict(state["feed"])


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
