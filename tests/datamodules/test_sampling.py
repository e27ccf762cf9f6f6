"""The order of problems: even shares, fresh passes, exact resume."""

from __future__ import annotations

from itertools import chain, islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibethinker.datamodules.sampling import HeldOutLoader, TrainLoader, permutation, share
from vibethinker.problems import Problem


def make_problems(count: int) -> list[Problem]:
    return [Problem(id=str(i), domain="algebra", prompt=f"question {i}", answer=str(i)) for i in range(count)]


def ids(batches: Any) -> list[list[int]]:
    return [[int(problem.id) for problem in batch] for batch in batches]


@given(count=st.integers(0, 200), parts=st.integers(1, 20))
def test_shares_are_even_contiguous_and_complete(count: int, parts: int) -> None:
    shares = [share(count, part, parts) for part in range(parts)]
    assert [place for part in shares for place in part] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_permutation_depends_on_seed_and_epoch_only() -> None:
    orders = [tuple(permutation(50, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)
    permutation.cache_clear()
    assert tuple(permutation(50, 0, 0)) == orders[0]


def test_unshuffled_batches_are_index_order_and_repeat_per_slice() -> None:
    loader = TrainLoader(make_problems(4), 2, shuffle=False, slices=3)
    assert len(loader) == 6
    assert ids(loader) == [[0, 1]] * 3 + [[2, 3]] * 3


@given(count=st.integers(1, 30), batch_size=st.integers(1, 12), slices=st.integers(1, 3), passes=st.integers(1, 3))
def test_every_pass_has_every_problem_once(count: int, batch_size: int, slices: int, passes: int) -> None:
    batch_size = min(batch_size, count)
    loader = TrainLoader(make_problems(count), batch_size, slices=slices, seed=3)
    stream = [i for _ in range(passes) for batch in ids(loader)[::slices] for i in batch]
    assert len(stream) >= passes * count
    for start in range(0, passes * count, count):
        assert sorted(stream[start : start + count]) == list(range(count))


def test_each_epoch_is_shuffled_anew() -> None:
    loader = TrainLoader(make_problems(32), 8)
    first, second = ids(loader), ids(loader)
    assert first != second
    assert first != [list(range(i, i + 8)) for i in range(0, 32, 8)]


@given(
    count=st.integers(4, 30),
    slices=st.integers(1, 4),
    consumed=st.integers(0, 60),
    shuffle=st.booleans(),
)
def test_resume_anywhere_goes_on_exactly(count: int, slices: int, consumed: int, shuffle: bool) -> None:
    def endless(loader: TrainLoader) -> Any:
        while True:
            yield from loader

    def make() -> TrainLoader:
        return TrainLoader(make_problems(count), 4, slices=slices, shuffle=shuffle, seed=7)

    whole = ids(islice(endless(make()), consumed + 40))
    stopped = make()
    list(islice(endless(stopped), consumed))
    resumed = make()
    resumed.load_state_dict(stopped.state_dict())
    assert ids(islice(endless(resumed), 40)) == whole[consumed:]


def test_resumed_epoch_ends_where_the_epoch_ends() -> None:
    loader = TrainLoader(make_problems(8), 2, slices=2)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    resumed = TrainLoader(make_problems(8), 2, slices=2)
    resumed.load_state_dict(loader.state_dict())
    assert len(list(resumed)) == 5
    assert len(list(resumed)) == 8


def test_ranks_share_the_batch_of_one_process() -> None:
    alone = ids(TrainLoader(make_problems(24), 8, slices=2))
    ranks = [ids(TrainLoader(make_problems(24), 8, slices=2, rank=rank, world_size=4)) for rank in range(4)]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == alone


@pytest.mark.parametrize(
    ("option", "changed"),
    [
        ("batch_size", {"batch_size": 4}),
        ("seed", {"seed": 1}),
        ("shuffle", {"shuffle": False}),
        ("slices_per_batch", {"slices": 2}),
        ("train_size", {"problems": make_problems(9)}),
    ],
)
def test_resume_with_another_stream_names_the_option(option: str, changed: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"problems": make_problems(8), "batch_size": 2}
    state = TrainLoader(**arguments).state_dict()
    with pytest.raises(ValueError, match=f"^{option} was .* is .* now"):
        TrainLoader(**(arguments | changed)).load_state_dict(state)


def test_impossible_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=6 is not divisible by the 4 processes"):
        TrainLoader(make_problems(8), 6, world_size=4)
    with pytest.raises(ValueError, match="batch_size=9 is more than the 8 training problems"):
        TrainLoader(make_problems(8), 9)


@given(count=st.integers(1, 60), batch_size=st.integers(1, 20), world_size=st.integers(1, 5))
def test_held_out_problems_come_once_and_ranks_take_equal_turns(count: int, batch_size: int, world_size: int) -> None:
    loaders = [
        HeldOutLoader(make_problems(count), batch_size, rank=r, world_size=world_size) for r in range(world_size)
    ]
    turns = list(zip(*(ids(loader) for loader in loaders), strict=True))
    assert len(turns) == len(loaders[0])
    assert all(sum(map(len, turn)) <= batch_size for turn in turns)
    assert [i for turn in turns for part in turn for i in part] == list(range(count))
