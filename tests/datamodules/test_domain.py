"""Data modules: what is in each split, one batch on any number of processes, resume through Lightning's checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI

from tests.support import recorder
from tests.support.recorder import Recorder, trainer, write_rows
from vibethinker.datamodules import (
    AlgebraDataModule,
    CalculusDataModule,
    CodeDataModule,
    DomainDataModule,
    GeometryDataModule,
    StatisticsDataModule,
)
from vibethinker.datamodules.generators import DOMAINS, generate
from vibethinker.problems import normalized_prompt, split_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "set.jsonl"
    write_rows(path, 200)
    return str(path)


def ids(batches: Any) -> list[list[str]]:
    return [[problem.id for problem in batch] for batch in batches]


def test_each_domain_has_its_class() -> None:
    modules = (AlgebraDataModule, GeometryDataModule, CalculusDataModule, StatisticsDataModule, CodeDataModule)
    for name, module in zip(("algebra", "geometry", "calculus", "statistics", "code"), modules, strict=True):
        data = module(batch_size=4, probe_size=3)
        assert {p.domain for p in data.problems("probe")} == {name}
        assert {p.domain for p in next(iter(data.train_dataloader()))} == {name}


def test_options_of_a_domain_class_are_known_to_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    def data(*arguments: str) -> Any:
        cli = LightningCLI(Recorder, DomainDataModule, subclass_mode_data=True, run=False, args=list(arguments))
        return cli.datamodule

    algebra = data("--data=AlgebraDataModule", "--data.batch_size=8", "--data.fields={prompt: text}")
    assert isinstance(algebra, AlgebraDataModule)
    assert (algebra.batch_size, algebra.fields) == (8, {"prompt": "text"})
    assert data("--data=DomainDataModule", "--data.domain=[algebra, calculus]").domains == ["algebra", "calculus"]
    with pytest.raises(SystemExit):
        data("--data.help=AlgebraDataModule")
    assert "problems per global batch" in capsys.readouterr().out


def test_embedded_training_problems_come_in_index_order() -> None:
    data = AlgebraDataModule(batch_size=4, seed=5)
    stream = [problem for batch in islice(data.train_dataloader(), 3) for problem in batch]
    assert stream == [generate("algebra", "train", i, seed=5) for i in range(12)]
    problems = data.problems("train")
    assert problems[7] == stream[7]
    assert problems[2:4] == stream[2:4]
    assert len(problems) > 10**8
    with pytest.raises(IndexError):
        problems[len(problems)]


def test_a_bounded_embedded_set_is_shuffled_pass_by_pass() -> None:
    loader = AlgebraDataModule(batch_size=4, train_size=12).train_dataloader()
    expected = sorted(generate("algebra", "train", i).id for i in range(12))
    first, second = (list(chain(*ids(loader))) for _ in range(2))
    assert sorted(first) == sorted(second) == expected
    assert first != second


def test_every_batch_of_a_mix_has_every_domain_equally() -> None:
    data = DomainDataModule(domain=list(DOMAINS), batch_size=10, probe_size=12)
    for batch in islice(data.train_dataloader(), 3):
        assert sorted(p.domain for p in batch) == sorted(DOMAINS * 2)
    assert [p.domain for p in data.problems("probe")] == [*DOMAINS, *DOMAINS, *DOMAINS[:2]]


def test_held_out_sets_are_fixed_disjoint_and_as_large_as_asked() -> None:
    data = DomainDataModule(domain=list(DOMAINS), probe_size=20, val_size=24, test_size=28, train_size=600)
    sets = [{normalized_prompt(p.prompt) for p in data.problems(split)} for split in ("probe", "val", "test")]
    assert [len(prompts) for prompts in sets] == [20, 24, 28]
    sets.append({normalized_prompt(p.prompt) for p in data.problems("train")})
    assert sum(map(len, sets)) == len(set().union(*sets))
    again = DomainDataModule(domain=list(DOMAINS), probe_size=20, seed=3)
    assert again.problems("probe") == data.problems("probe")
    assert again.problems("train")[:8] != data.problems("train")[:8]


def test_file_splits_domains_and_sizes(file: str) -> None:
    data = DomainDataModule(["algebra", "geometry"], data=file, batch_size=8, probe_size=6, test_size=256)
    assert sorted(p.domain for p in data.problems("probe")) == ["algebra"] * 3 + ["geometry"] * 3
    assert all(split_of(p.prompt) == "test" for p in data.problems("test"))
    assert 0 < len(data.problems("test")) < 256
    alone = DomainDataModule("geometry", data=file, train_size=10)
    assert {p.domain for p in alone.problems("train")} == {"geometry"}
    assert len(alone.problems("train")) == 10


def test_choice_from_a_file_does_not_depend_on_its_order(tmp_path: Path, file: str) -> None:
    lines = Path(file).read_text().splitlines(keepends=True)
    turned = tmp_path / "turned.jsonl"
    turned.write_text("".join(reversed(lines)))
    prompts = [
        {p.prompt for p in DomainDataModule("algebra", data=str(path), train_size=20).problems("train")}
        for path in (file, turned)
    ]
    assert prompts[0] == prompts[1]
    assert prompts[0] != {p.prompt for p in DomainDataModule("algebra", data=file).problems("train")[:20]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "algbra"}, "domain 'algbra' is not embedded; there are algebra, geometry, calculus, statistics"),
        ({"domain": []}, "domain must name one or more different domains"),
        ({"domain": ["algebra", "algebra"]}, "domain must name one or more different domains"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"train_size": -1}, "train_size must be at least 1, not -1"),
        ({"test_size": 0}, "test_size must be at least 1, not 0"),
        ({"domain": ["algebra", "geometry"], "val_size": 1}, "val_size=1 is fewer than the 2 domains"),
        ({"difficulty": 9}, "difficulty=9 is none of 1, 2, 3, 4"),
        ({"seed": -1}, "seed must not be negative"),
        ({"fields": {"promt": "q"}}, "fields maps 'promt', which is none of prompt, answer"),
        ({"max_unusable": 2}, "max_unusable must lie between 0 and 1, not 2"),
        ({"weights": {"algbra": 1}}, "weights names 'algbra', which is none of algebra"),
        ({"domain": ["algebra", "code"], "weights": {"code": 1}}, "weights has none for domain 'algebra'"),
        ({"weights": {"algebra": -1}}, "weights must not be negative, not -1 for 'algebra'"),
        ({"weights": {"algebra": float("nan")}}, "weights must not be negative, not nan"),
        ({"weights": {"algebra": 0}}, "weights are all zero"),
        ({"data": {"code": "a/b"}}, "data names no source for domain 'algebra'"),
        ({"data": {"algebra": "a/b", "code": "a/b"}}, "data names a source for 'code', which is none of algebra"),
        ({"data": {"algebra": "no.jsonl"}}, r"data: there is no file or folder no\.jsonl"),
        (
            {"data": {"algebra": "a/b"}, "fields": {"code.tests": "t"}},
            "fields maps 'code.tests', and 'code' is none of",
        ),
        ({"data": "a/b", "fields": {"algebra.tests": "t"}}, "fields maps 'algebra.tests', which is none of prompt"),
        ({"data": "no/such/file.jsonl"}, r"data: there is no file or folder no/such/file\.jsonl"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        DomainDataModule(**({"domain": "algebra"} | options))


@pytest.mark.slow
def test_sets_that_cannot_be_had_are_refused(tmp_path: Path, file: str) -> None:
    with pytest.raises(ValueError, match="split 'dev' is none of train, probe, val, test"):
        AlgebraDataModule().problems("dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"test_size=100000: .*algebra/test at difficulty 1 has only"):
        AlgebraDataModule(difficulty=1, test_size=100_000).problems("test")
    with pytest.raises(ValueError, match=r"batch_size=500 is more than the .* training problems"):
        DomainDataModule("algebra", data=file, batch_size=500).train_dataloader()
    write_rows(tmp_path / "test.jsonl", 4)
    with pytest.raises(ValueError, match="no train problems of algebra; give more rows, or a train file"):
        DomainDataModule("algebra", data=str(tmp_path / "test.jsonl").removesuffix("/test.jsonl")).problems("train")


def test_module_decides_how_often_a_batch_is_repeated() -> None:
    data = AlgebraDataModule(batch_size=4, train_size=8)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        overfit_batches=0.0,
        train_dataloader=None,
        lightning_module=SimpleNamespace(updates_per_rollout=3, unaskable=len, unusable_demonstrations=len),
        global_rank=1,
        world_size=2,
    )
    loader = data.train_dataloader()
    batches = ids(loader)
    assert len(loader) == len(batches) == 6
    assert batches[0] == batches[1] == batches[2] != batches[3]
    assert all(len(batch) == 2 for batch in batches)


# Weights


def test_weights_decide_how_much_of_each_domain_comes(file: str) -> None:
    weights = {"algebra": 1.0, "geometry": 3.0}
    sources: list[str | dict[str, str] | None] = [file, {"algebra": file, "geometry": file}, None]
    for data in sources:
        mix = DomainDataModule(list(weights), data=data, batch_size=8, weights=weights)
        for batch in islice(mix.train_dataloader(), 20):
            assert [sum(p.domain == name for p in batch) for name in weights] == [2, 6]
    alone = DomainDataModule(list(weights), batch_size=8, weights={"algebra": 1, "geometry": 0})
    taken = [p for batch in islice(alone.train_dataloader(), 3) for p in batch]
    assert taken == [generate("algebra", "train", i) for i in range(24)]


def test_a_domain_that_has_no_training_problems_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", 40)
    rows = [{"prompt": f"held {i}", "answer": "1", "domain": "calculus"} for i in range(4)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DomainDataModule(
        ["algebra", "calculus"], data=str(tmp_path), batch_size=2, weights={"algebra": 1, "calculus": 1}
    )
    with pytest.raises(ValueError, match="no train problems of calculus"):
        data.train_dataloader()


def test_a_weighted_fit_goes_on_exactly(tmp_path: Path, file: str) -> None:
    def data(**weights: float) -> DomainDataModule:
        given = {"algebra": 5.0, "geometry": 2.0} | weights
        return DomainDataModule(["algebra", "geometry"], data=file, batch_size=4, weights=given)

    whole, resumed = Recorder(), Recorder()
    at_stop = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=11, save_top_k=-1)
    options: dict[str, Any] = {"limit_val_batches": 0, "max_steps": 30}
    trainer(tmp_path, callbacks=[at_stop], **options).fit(whole, datamodule=data())
    saved = str(tmp_path / "step=11.ckpt")
    options["enable_checkpointing"] = False
    trainer(tmp_path, **options).fit(resumed, datamodule=data(), ckpt_path=saved)
    assert resumed.train_ids == whole.train_ids[11:]
    with pytest.raises(ValueError, match=r"^weights\.algebra was 5.0 .* is 1.0"):
        trainer(tmp_path, **options).fit(Recorder(), datamodule=data(algebra=1.0), ckpt_path=saved)


def test_sources_and_weights_on_the_command_line(file: str) -> None:
    sources = json.dumps({"algebra": file, "geometry": file})
    arguments = ["--data=DomainDataModule", "--data.domain=[algebra, geometry]", f"--data.data={sources}"]
    more = ['--data.weights={"algebra": 2, "geometry": 1}', "--data.fields={geometry.answer: answer}"]
    cli = LightningCLI(Recorder, DomainDataModule, subclass_mode_data=True, run=False, args=[*arguments, *more])
    assert cli.datamodule.data == {"algebra": file, "geometry": file}
    assert cli.datamodule.weights == {"algebra": 2.0, "geometry": 1.0}
    one = LightningCLI(
        Recorder, DomainDataModule, subclass_mode_data=True, run=False, args=[*arguments, f"--data.data={file}"]
    )
    assert one.datamodule.data == file


# Resume


@pytest.mark.parametrize("stop", [3, 12, 13, 24])  # inside a window; an epoch's end; inside the second epoch; its end
@pytest.mark.parametrize("limit", [{"max_steps": 30}, {"max_epochs": 3}])
@pytest.mark.parametrize("estimate", [False, True])
def test_resume_from_a_checkpoint_goes_on_exactly(
    tmp_path: Path, file: str, stop: int, limit: dict[str, int], estimate: bool
) -> None:
    def data() -> DomainDataModule:
        return DomainDataModule("algebra", data=file, train_size=24, batch_size=4, seed=1)

    whole = Recorder(estimate)
    at_stop = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=stop, save_top_k=-1)
    trainer(tmp_path, callbacks=[at_stop], **limit).fit(whole, datamodule=data())
    assert [len(set(map(str, whole.train_ids[i : i + 2]))) for i in range(0, 30, 2)] == [1] * 15
    resumed = Recorder(estimate)
    saved = str(tmp_path / f"step={stop}.ckpt")
    trainer(tmp_path, enable_checkpointing=False, **limit).fit(resumed, datamodule=data(), ckpt_path=saved)
    assert resumed.train_ids == whole.train_ids[stop:]


def test_resume_at_an_epoch_end_shuffles_anew(tmp_path: Path, file: str) -> None:
    def data() -> DomainDataModule:
        return DomainDataModule("algebra", data=file, train_size=8, batch_size=4)

    whole, first, second = Recorder(), Recorder(), Recorder()
    trainer(tmp_path, max_epochs=2, enable_checkpointing=False).fit(whole, datamodule=data())
    start = trainer(tmp_path, max_epochs=1)
    start.fit(first, datamodule=data())
    saved = cast(Any, start.checkpoint_callback).best_model_path
    trainer(tmp_path, max_epochs=2, enable_checkpointing=False).fit(second, datamodule=data(), ckpt_path=saved)
    assert first.train_ids + second.train_ids == whole.train_ids
    assert first.train_ids != second.train_ids


def test_resume_with_another_batch_size_or_seed_names_it(tmp_path: Path) -> None:
    def data(**changes: int) -> DomainDataModule:
        return AlgebraDataModule(**({"batch_size": 4, "seed": 1} | changes))

    start = trainer(tmp_path, max_steps=2, limit_val_batches=0)
    start.fit(Recorder(), datamodule=data())
    saved = cast(Any, start.checkpoint_callback).best_model_path
    for option, change in (("batch_size", {"batch_size": 8}), ("seed", {"seed": 2})):
        with pytest.raises(ValueError, match=f"^{option} was"):
            trainer(tmp_path, max_steps=4).fit(Recorder(), datamodule=data(**change), ckpt_path=saved)


def test_a_loader_made_anew_in_training_goes_on(tmp_path: Path) -> None:
    module = Recorder()
    options: dict[str, Any] = {"max_epochs": 2, "limit_train_batches": 4, "limit_val_batches": 0}
    trainer(tmp_path, reload_dataloaders_every_n_epochs=1, **options).fit(
        module, datamodule=AlgebraDataModule(batch_size=2)
    )
    assert module.train_ids[::2] == ids(islice(AlgebraDataModule(batch_size=2).train_dataloader(), 4))


def test_a_fit_without_checkpoint_begins_at_the_beginning(tmp_path: Path) -> None:
    data = AlgebraDataModule(batch_size=2)
    modules = Recorder(), Recorder(), Recorder()
    start = trainer(tmp_path, max_steps=4, limit_val_batches=0)
    start.fit(modules[0], datamodule=data)
    saved = cast(Any, start.checkpoint_callback).best_model_path
    options: dict[str, Any] = {"limit_val_batches": 0, "enable_checkpointing": False}
    trainer(tmp_path, max_steps=8, **options).fit(modules[1], datamodule=data, ckpt_path=saved)
    trainer(tmp_path, max_steps=8, **options).fit(modules[2], datamodule=data)
    assert modules[2].train_ids == modules[0].train_ids + modules[1].train_ids


def test_mixed_precision_leaves_problems_alone(tmp_path: Path) -> None:
    module = Recorder()
    data = AlgebraDataModule(batch_size=2, val_size=5)
    trainer(tmp_path, max_steps=2, precision="bf16-mixed", enable_checkpointing=False).fit(module, datamodule=data)
    assert module.train_ids[0] == [problem.id for problem in data.problems("train")[:2]]


def test_overfit_batches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"overfit_batches .* set train_size=64 instead"):
        trainer(tmp_path, max_steps=1, overfit_batches=1).fit(Recorder(), datamodule=AlgebraDataModule())


@pytest.mark.slow
def test_two_processes_share_the_batches_of_one(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, recorder.__file__, str(tmp_path)], env=environment, timeout=120, check=True)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    data = DomainDataModule("algebra", data=str(tmp_path / "set.jsonl"), batch_size=4, val_size=7)
    together = [first + second for first, second in zip(ranks[0]["train"], ranks[1]["train"], strict=True)]
    assert together[::2] == together[1::2] == ids(islice(data.train_dataloader(), 5))
    assert all(len(batch) == 2 for rank in ranks for batch in rank["train"])
    validated = [first + second for first, second in zip(ranks[0]["val"], ranks[1]["val"], strict=True)]
    assert list(chain(*validated)) == [p.id for p in data.problems("val")]


def test_a_batch_that_processes_cannot_share_is_refused_before_training() -> None:
    data = AlgebraDataModule(batch_size=5)
    data.trainer = SimpleNamespace(global_rank=0, world_size=2)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="batch_size=5 is not divisible by the 2 processes of this run"):
        data.setup("fit")
