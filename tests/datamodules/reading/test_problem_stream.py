"""Streams: bounded reading, exact resume, the same problems on any number of ranks, and what cannot be used."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.support.problem_rows import row, write, write_parquet
from tests.support.recorder import Recorder, trainer
from vibethinker.datamodules import DomainDataModule
from vibethinker.datamodules.loaders import TrainLoader
from vibethinker.datamodules.reading.problem_files import Reader
from vibethinker.datamodules.reading.problem_stream import ProblemStream
from vibethinker.datamodules.reading.tables import Table, open_set

SIZES = (50, 7, 30)


def shards(tmp_path: Path, suffix: str = ".jsonl") -> str:
    """Three shards with unusable rows and rows of another domain, and a held-out file."""
    rows = [row(i, domain="algebra" if i % 3 else "geometry", answer=str(i) if i % 29 else "") for i in range(87)]
    start = 0
    for i, size in enumerate(SIZES):
        path = tmp_path / f"set/train-{i:05}-of-00003{suffix}"
        (write if suffix == ".jsonl" else write_parquet)(path, rows[start : start + size])
        start += size
    write(tmp_path / "set/test.jsonl", [row(i) for i in (1, 2, 4, 500, 501)])
    return str(tmp_path / "set")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return shards(tmp_path)


def stream(data: str, domain: str, **options: Any) -> ProblemStream:
    return ProblemStream(open_set(data, streaming=True)["train"], Reader(data, [domain], {}), **options)


def make(folder: str, *, world: tuple[int, int] = (0, 1), turns: int = 1, **options: Any) -> TrainLoader:
    reader = Reader(folder, ["algebra"], {}, max_unusable=0.2)
    feed = ProblemStream(
        open_set(folder, streaming=True)["train"],
        reader,
        {"question 1", "question 2"},
        **{"block": 8, "seed": 3, **options},
    )
    return TrainLoader(feed, 6, repeats=turns, rank=world[0], world_size=world[1])


def ids(loader: TrainLoader, count: int) -> list[list[str]]:
    return [[problem.id for problem in batch] for batch in islice(loader, count)]


@pytest.mark.filterwarnings("ignore")
def test_every_pass_has_every_usable_problem_once_in_an_order_of_its_own(folder: str) -> None:
    epoch = 54  # 58 rows of algebra, two of them unusable and two held out
    taken = list(chain(*ids(make(folder), 2 * epoch // 6)))
    first, second = taken[:epoch], taken[epoch:]
    assert len(set(first)) == epoch
    assert sorted(first) == sorted(second)
    assert first != second
    in_order = list(chain(*ids(make(folder, shuffle=False), epoch // 6)))
    assert sorted(in_order) == sorted(first)
    assert in_order[:2] == ["train-00000-of-00003/5", "train-00000-of-00003/6"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("block", [3, 8, 1000])
def test_a_resumed_stream_equals_the_undisturbed_one(folder: str, turns: int, shuffle: bool, block: int) -> None:
    options: dict[str, Any] = {"turns": turns, "shuffle": shuffle, "block": block}
    whole = ids(make(folder, **options), 60)
    for stop in (0, 1, 7, 8, 26, 41):
        stopped = make(folder, **options)
        list(islice(stopped, stop))
        resumed = make(folder, **options)
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        assert ids(resumed, 60 - stop) == whole[stop:]


@pytest.mark.filterwarnings("ignore")
def test_parquet_streams_like_lines(tmp_path: Path) -> None:
    lines, tables = shards(tmp_path / "lines"), shards(tmp_path / "tables", ".parquet")
    whole = ids(make(lines), 15)
    stopped, resumed = make(tables), make(tables)
    assert ids(stopped, 7) == whole[:7]
    resumed.load_state_dict(stopped.state_dict())
    assert ids(resumed, 8) == whole[7:]


@pytest.mark.filterwarnings("ignore")
def test_ranks_share_the_batches_of_one_process_and_save_the_same_place(folder: str) -> None:
    alone, ranks = make(folder), [make(folder, world=(rank, 3)) for rank in range(3)]
    for _ in range(20):
        (whole,) = ids(alone, 1)
        assert list(chain(*(ids(rank, 1)[0] for rank in ranks))) == whole
        assert all(rank.state_dict() == alone.state_dict() for rank in ranks)


def test_no_more_is_read_than_a_block() -> None:
    read = 0

    def rows(skip: int) -> Iterator[tuple[int, dict[str, Any]]]:
        nonlocal read
        for i in range(skip, 10**6):
            read += 1
            yield i + 1, row(i)

    feed = ProblemStream([Table("endless", "row", rows)], Reader("endless", ["algebra"], {}), block=500)
    loader = TrainLoader(feed, 100)
    list(islice(loader, 12))
    assert read <= 3 * 500 + 1000  # three blocks, and the rows that the columns are looked for in
    assert len(loader) > 10**6  # Lightning fetches ahead from what has no length


def test_what_cannot_be_used_is_told_at_the_end_of_a_pass(folder: str) -> None:
    loader = make(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(islice(loader, 6))
    with pytest.warns(UserWarning, match=r"2 of 58 rows cannot be used .answer empty: 2.") as told:
        list(islice(loader, 6))
    assert any("2 problems are left out because they are also held out" in str(w.message) for w in told)


def test_too_much_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    data = write(tmp_path / "set.jsonl", [row(i, answer="" if i > 1500 else "1") for i in range(5000)])
    loader = TrainLoader(
        stream(data, "algebra", shuffle=False, block=100),
        50,
    )
    with pytest.raises(ValueError, match=r"line 1502, field 'answer': empty; .* 16 of 1517 rows .* max_unusable=0.01"):
        list(islice(loader, 100))
    short = write(tmp_path / "short.jsonl", [row(i, answer="" if i == 7 else "1") for i in range(50)])
    loader = TrainLoader(stream(short, "algebra"), 10)
    with pytest.raises(ValueError, match=r"line 8, field 'answer': empty: 1 of 50 rows"):
        list(islice(loader, 6))


def test_a_broken_line_and_a_foreign_domain_are_errors(tmp_path: Path) -> None:
    data = write(tmp_path / "set.jsonl", [*[row(i) for i in range(1200)], "{"])
    loader = TrainLoader(stream(data, "algebra"), 10)
    with pytest.raises(ValueError, match=r"set\.jsonl, line 1201: not valid JSON"):
        list(loader)
    data = write(tmp_path / "other.jsonl", [row(i) for i in range(10)])
    loader = TrainLoader(stream(data, "geometry"), 10)
    with pytest.raises(ValueError, match=r"other\.jsonl: no problem of geometry to train on"):
        list(loader)


# Through the data module


def module(folder: str, **options: Any) -> DomainDataModule:
    usual: dict[str, Any] = {"domain": "algebra", "batch_size": 6, "shuffle_buffer": 16, "max_unusable": 0.2, "seed": 1}
    return DomainDataModule(data=folder, streaming=True, **(usual | options))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("weights", [None, {"algebra": 2, "geometry": 1}])
def test_a_fit_goes_on_exactly(tmp_path: Path, folder: str, weights: dict[str, float] | None) -> None:
    def data() -> DomainDataModule:
        return module(folder, domain=["algebra", "geometry"], weights=weights)

    whole = Recorder()
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=7, save_top_k=-1)
    quiet: dict[str, Any] = {"limit_val_batches": 0, "max_steps": 40}
    trainer(tmp_path, callbacks=[saving], **quiet).fit(whole, datamodule=data())
    assert len(whole.train_ids) == 40
    for step in (7, 28):
        resumed = Recorder()
        trainer(tmp_path, enable_checkpointing=False, **quiet).fit(
            resumed, datamodule=data(), ckpt_path=str(tmp_path / f"step={step}.ckpt")
        )
        assert resumed.train_ids == whole.train_ids[step:]


@pytest.mark.filterwarnings("ignore")
def test_held_out_problems_come_from_their_own_file_and_never_from_the_stream(folder: str) -> None:
    data = module(folder)
    test = {p.prompt for p in data.problems("test")}
    assert test == {f"question {i}" for i in (1, 2, 4, 500, 501)}
    taken = {p.prompt for batch in islice(data.train_dataloader(), 40) for p in batch}
    assert len(taken) == 53  # as many rows of algebra are usable and not held out
    assert not taken & test
    with pytest.raises(ValueError, match="no val problems of algebra; with streaming they come from a val file or"):
        data.problems("val")
    with pytest.raises(ValueError, match="there is no list of them"):
        data.problems("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 10}, "train_size cannot be combined with streaming"),
        ({"data": None}, "streaming needs data"),
        ({"shuffle_buffer": 0}, "shuffle_buffer must be at least 1, not 0"),
        (
            {"domain": ["algebra", "code"], "data": {"algebra": "a/b", "code": "c/d"}},
            "streaming from several sources needs weights",
        ),
    ],
)
def test_options_that_do_not_go_with_streaming(folder: str, options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"domain": "algebra", "data": folder, "streaming": True} | options
    with pytest.raises(ValueError, match=message):
        DomainDataModule(**given)


def test_a_stream_without_a_training_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", [row(i) for i in range(5)])
    with pytest.raises(ValueError, match="no train file or split to stream"):
        module(str(tmp_path)).setup("fit")
