"""The order of problems: even shares, fresh passes, exact resume."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibethinker.datamodules.loaders import Epochs, HeldOutLoader, Mixture, TrainLoader, chunk, permutation
from vibethinker.problems import Problem


def make_problems(count: int) -> list[Problem]:
    return [Problem(id=str(i), domain="algebra", prompt=f"question {i}", answer=str(i)) for i in range(count)]


def loader_of(
    problems: list[Problem], batch_size: int, *, seed: int = 0, shuffle: bool = True, **options: int
) -> TrainLoader:
    return TrainLoader(Epochs(problems, seed=seed, shuffle=shuffle), batch_size, **options)


def ids(batches: Any) -> list[list[int]]:
    return [[int(problem.id) for problem in batch] for batch in batches]


@given(count=st.integers(0, 200), parts=st.integers(1, 20))
def test_chunks_are_even_contiguous_and_complete(count: int, parts: int) -> None:
    shares = [chunk(count, part, parts) for part in range(parts)]
    assert [place for part in shares for place in part] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_permutation_depends_on_seed_and_epoch_only() -> None:
    orders = [tuple(permutation(50, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert tuple(permutation(50, 0, 0)) == orders[0]


def test_unshuffled_batches_are_in_index_order_and_repeat() -> None:
    loader = loader_of(make_problems(4), 2, shuffle=False, repeats=3)
    assert len(loader) == 6
    assert ids(loader) == [[0, 1]] * 3 + [[2, 3]] * 3


@given(count=st.integers(1, 30), batch_size=st.integers(1, 12), repeats=st.integers(1, 3), epochs=st.integers(1, 3))
def test_every_epoch_has_every_problem_once(count: int, batch_size: int, repeats: int, epochs: int) -> None:
    batch_size = min(batch_size, count)
    loader = loader_of(make_problems(count), batch_size, repeats=repeats, seed=3)
    stream = [i for _ in range(epochs) for batch in ids(loader)[::repeats] for i in batch]
    assert len(stream) >= epochs * count
    for start in range(0, epochs * count, count):
        assert sorted(stream[start : start + count]) == list(range(count))


def test_each_epoch_is_shuffled_anew() -> None:
    loader = loader_of(make_problems(32), 8)
    first, second = ids(loader), ids(loader)
    assert first != second
    assert first != [list(range(i, i + 8)) for i in range(0, 32, 8)]


@given(
    count=st.integers(4, 30),
    repeats=st.integers(1, 4),
    consumed=st.integers(0, 60),
    shuffle=st.booleans(),
)
def test_resume_anywhere_goes_on_exactly(count: int, repeats: int, consumed: int, shuffle: bool) -> None:
    def endless(loader: TrainLoader) -> Any:
        while True:
            yield from loader

    def make() -> TrainLoader:
        return loader_of(make_problems(count), 4, repeats=repeats, shuffle=shuffle, seed=7)

    whole = ids(islice(endless(make()), consumed + 40))
    stopped = make()
    list(islice(endless(stopped), consumed))
    resumed = make()
    resumed.load_state_dict(stopped.state_dict())
    assert ids(islice(endless(resumed), 40)) == whole[consumed:]


def test_resumed_epoch_ends_where_the_epoch_ends() -> None:
    loader = loader_of(make_problems(8), 2, repeats=2)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    resumed = loader_of(make_problems(8), 2, repeats=2)
    resumed.load_state_dict(loader.state_dict())
    assert len(list(resumed)) == 5
    assert len(list(resumed)) == 8


def test_ranks_share_the_batch_of_one_process() -> None:
    alone = ids(loader_of(make_problems(24), 8, repeats=2))
    ranks = [ids(loader_of(make_problems(24), 8, repeats=2, rank=rank, world_size=4)) for rank in range(4)]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == alone


@pytest.mark.parametrize(
    ("option", "changed"),
    [
        ("batch_size", {"batch_size": 4}),
        ("seed", {"seed": 1}),
        ("shuffle", {"shuffle": False}),
        ("updates_per_rollout", {"repeats": 2}),
        ("train_size", {"problems": make_problems(9)}),
    ],
)
def test_resume_with_another_stream_names_the_option(option: str, changed: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"problems": make_problems(8), "batch_size": 2}
    state = loader_of(**arguments).state_dict()
    with pytest.raises(ValueError, match=f"^{option} was .* is .* now"):
        loader_of(**(arguments | changed)).load_state_dict(state)


def test_impossible_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=6 is not divisible by the 4 processes"):
        loader_of(make_problems(8), 6, world_size=4)
    with pytest.raises(ValueError, match="batch_size=9 is more than the 8 training problems"):
        loader_of(make_problems(8), 9)


@given(count=st.integers(1, 60), batch_size=st.integers(1, 20), world_size=st.integers(1, 5))
def test_held_out_problems_come_once_and_ranks_take_equal_turns(count: int, batch_size: int, world_size: int) -> None:
    loaders = [
        HeldOutLoader(make_problems(count), batch_size, rank=r, world_size=world_size) for r in range(world_size)
    ]
    turns = list(zip(*(ids(loader) for loader in loaders), strict=True))
    assert len(turns) == len(loaders[0])
    assert all(sum(map(len, turn)) <= batch_size for turn in turns)
    assert [i for turn in turns for part in turn for i in part] == list(range(count))


# Mixtures


WEIGHTS = st.lists(st.floats(0.01, 10), min_size=1, max_size=6)


def mixture(weights: Sequence[float], sizes: Sequence[int] | None = None, seed: int = 0) -> Mixture:
    """A stream for each weight, of problems whose domain is the index of the weight."""
    feeds = {
        str(name): Epochs([Problem(f"{name}/{i}", str(name), f"{name} {i}", "0") for i in range(size)], seed=seed)
        for name, size in enumerate(sizes or [7 + 5 * i for i in range(len(weights))])
    }
    return Mixture(feeds, {str(name): weight for name, weight in enumerate(weights)})


@given(weights=WEIGHTS)
def test_a_mixture_is_exact_to_one_problem_at_any_time(weights: list[float]) -> None:
    feed = mixture(weights)
    shares = {str(name): weight / sum(weights) for name, weight in enumerate(weights)}
    counts = dict.fromkeys(shares, 0)
    bound = 1 - 1 / max(2 * len(weights) - 2, 1) + 1e-5
    for place in range(300):
        (problem,) = feed.take(range(place, place + 1), range(place, place + 1))
        counts[problem.domain] += 1
        assert all(abs(counts[name] - shares[name] * (place + 1)) <= bound for name in shares)


def test_a_mixture_by_hand() -> None:
    drawn = mixture([2, 1]).take(range(9), range(9))
    assert "".join(problem.domain for problem in drawn) == "010010010"
    assert {p.domain for p in mixture([1, 0, 3]).take(range(40), range(40))} == {"0", "2"}


def test_each_part_of_a_mixture_goes_through_all_of_its_problems() -> None:
    drawn = mixture([1, 3], sizes=[4, 12]).take(range(32), range(32))
    for name, size in (("0", 4), ("1", 12)):
        own = [p.id for p in drawn if p.domain == name]
        assert sorted(own[:size]) == sorted(own[size:]) == sorted({p.id for p in drawn if p.domain == name})
        assert len(own) == 2 * size


@given(
    weights=WEIGHTS, repeats=st.integers(1, 3), consumed=st.integers(0, 40), world_size=st.sampled_from([1, 2, 3, 6])
)
def test_a_mixture_is_shared_and_resumed_exactly(
    weights: list[float], repeats: int, consumed: int, world_size: int
) -> None:
    def make(rank: int, world_size: int) -> TrainLoader:
        return TrainLoader(mixture(weights), 6, repeats=repeats, rank=rank, world_size=world_size)

    def endless(loader: TrainLoader) -> Iterator[list[str]]:
        while True:
            yield from ([problem.id for problem in batch] for batch in loader)

    alone = list(islice(endless(make(0, 1)), consumed + 15))
    stopped = make(0, world_size)
    list(islice(endless(stopped), consumed))
    ranks = [make(rank, world_size) for rank in range(world_size)]
    for loader in ranks:
        loader.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    together = zip(*(islice(endless(loader), 15) for loader in ranks), strict=True)
    assert [list(chain(*parts)) for parts in together] == alone[consumed:]


def test_a_mixture_with_other_weights_is_not_resumed() -> None:
    state = TrainLoader(mixture([1, 2]), 2).state_dict()
    with pytest.raises(ValueError, match=r"^weights\.\w+ was .* is .* now"):
        TrainLoader(mixture([1, 3]), 2).load_state_dict(state)
