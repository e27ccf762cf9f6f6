"""Demonstrations on disk: the tokens that there would be without, made once, whatever happens beside."""

from __future__ import annotations

import json
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from tests.support.fits import SHAPE, Recorder, SaveAt, assert_same_weights, sft, weights
from tests.support.models import load_tokenizer
from vibethinker import Problem, SFTModule
from vibethinker.datamodules import DomainDataModule
from vibethinker.models.prompts import prompt_ids
from vibethinker.training import token_cache as tokens
from vibethinker.training.token_cache import FOLDER, Demonstrations

PROBLEMS = [
    Problem(
        f"p{i}", "algebra", f"What is {i} + ½?\n" * (i % 3 + 1), str(i), None, (f"So \\boxed{{{i}}}", "ab" * i)[: i % 3]
    )
    for i in range(12)
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def write(path: Path, count: int, **changes: dict[str, Any]) -> str:
    rows = [
        {"prompt": f"{i}?", "answer": "1", "domain": "algebra", "id": f"p{i}", "solutions": ["ab" * (i % 9 + 1), "c"]}
        | changes.get(f"p{i}", {})
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def train(
    module: SFTModule, data: str, *callbacks: Callback, steps: int = 6, resume: Path | None = None, **options: Any
) -> list[dict[str, float]]:
    recorder = Recorder()
    quiet: Any = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=[*callbacks, recorder],
        accelerator="cpu",
        devices=1,
        logger=False,
        limit_val_batches=0,
        log_every_n_steps=1,
        **quiet,
    )
    source = DomainDataModule("algebra", data=data, batch_size=4, **options)
    trainer.fit(module, datamodule=source, ckpt_path=resume, weights_only=True)
    return recorder.steps


@pytest.mark.parametrize("instruction", [None, "", "Box it."])
def test_tokens_are_those_of_one_at_a_time(
    tiny_model: str, instruction: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_CHUNK", 5)
    tokenizer: Any = load_tokenizer(tiny_model)
    found = Demonstrations(tokenizer, PROBLEMS, instruction)
    lengths = []
    for problem, ids in zip(PROBLEMS, prompt_ids(tokenizer, PROBLEMS, instruction), strict=True):
        for solution in problem.solutions:
            pair = found.find(problem, solution)
            assert pair is not None
            assert [part.tolist() for part in pair] == [ids, tokenizer.encode(solution, add_special_tokens=False)]
            lengths.append(sum(map(len, pair)))
    assert found.lengths.tolist() == lengths
    assert found.find(PROBLEMS[1], "another") is None
    assert found.find(replace(PROBLEMS[1], prompt="another"), PROBLEMS[1].solutions[0]) is None


def test_what_decides_the_tokens_names_the_file(tiny_model: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer: Any = load_tokenizer(tiny_model)
    Demonstrations(tokenizer, PROBLEMS)
    written: list[Path] = []
    write = tokens._write

    def spy(path: Path, *rest: Any) -> None:
        written.append(path)
        write(path, *rest)

    monkeypatch.setattr(tokens, "_write", spy)
    Demonstrations(load_tokenizer(tiny_model), list(PROBLEMS))
    assert not written
    Demonstrations(tokenizer, PROBLEMS, "")
    Demonstrations(tokenizer, PROBLEMS[2:])
    tokenizer.chat_template += "\n"
    Demonstrations(tokenizer, PROBLEMS)
    assert len(set(written)) == 3
    assert {path.suffix for path in cache.iterdir()} == {".arrow"}


def test_nothing_half_written_is_found_again(tiny_model: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer: Any = load_tokenizer(tiny_model)
    broken = [*PROBLEMS, Problem("x", "algebra", "x", "1", None, (5,))]  # type: ignore[arg-type]
    monkeypatch.setattr(Demonstrations, "_key", lambda self, problem, solution: problem.id.encode())
    with pytest.raises((TypeError, ValueError)):
        Demonstrations(tokenizer, broken)
    assert not list(cache.iterdir())


def test_whoever_comes_second_waits_for_the_first(
    tiny_model: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizers = [load_tokenizer(tiny_model) for _ in range(3)]
    written: list[Path] = []
    write = tokens._write

    def slowly(path: Path, *rest: Any) -> None:
        written.append(path)
        time.sleep(0.3)
        write(path, *rest)

    monkeypatch.setattr(tokens, "_write", slowly)
    with ThreadPoolExecutor() as pool:  # the lock is of an open file: threads have to wait as processes do
        found = list(pool.map(lambda tokenizer: Demonstrations(tokenizer, PROBLEMS), tokenizers))
    assert len(written) == len(list(cache.iterdir())) == 1
    assert found[0].lengths.tolist() == found[1].lengths.tolist() == found[2].lengths.tolist()


def test_a_fit_from_tokens_on_disk_is_bitwise_the_same(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "set.jsonl", 60)
    looked_up: list[tuple[Tensor, Tensor] | None] = []
    find = Demonstrations.find

    def spy(self: Demonstrations, *arguments: Any) -> tuple[Tensor, Tensor] | None:
        looked_up.append(find(self, *arguments))
        return looked_up[-1]

    monkeypatch.setattr(Demonstrations, "find", spy)
    cached, plain = sft(tiny_model), sft(tiny_model)
    train(cached, data)
    assert len(looked_up) == 24
    assert all(looked_up)
    monkeypatch.setattr(SFTModule, "unusable_demonstrations", lambda self, problems: None)
    train(plain, data)
    assert len(looked_up) == 24
    assert_same_weights(weights(cached), weights(plain))


def test_what_is_too_long_or_missing_is_known_before_the_first_step(tiny_model: str, tmp_path: Path) -> None:
    long = {"solutions": ["x" * 80, "y"]}
    data = write(tmp_path / "set.jsonl", 120, p3=long, p5={"solutions": ["x" * 80]}, p7={"solutions": []})
    module = sft(tiny_model)
    with pytest.raises(ValueError, match=r"problem 'p\d': .* demonstrations cannot be used \(.*max_unusable=0 allows"):
        train(module, data, max_unusable=0)
    assert module.trainer.global_step == 0
    with pytest.warns(UserWarning, match=r"longer than max_length=64") as told:
        train(sft(tiny_model), data, steps=60, max_unusable=0.05)
    assert sum("demonstrations cannot be used" in str(w.message) for w in told) == 1


@pytest.mark.filterwarnings("ignore")
def test_a_stream_goes_on_without_what_is_too_long(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "set.jsonl", 40, p3={"solutions": ["x" * 80]}, p7={"solutions": []})
    logged = train(sft(tiny_model), data, SaveAt(5, tmp_path / "a.ckpt"), steps=10, streaming=True)
    assert logged[-1]["train/left_out"] == 2
    resumed = train(sft(tiny_model), data, steps=10, resume=tmp_path / "a.ckpt", streaming=True)
    assert [s["train/left_out"] for s in resumed] == [s["train/left_out"] for s in logged[5:]]
    monkeypatch.setattr("vibethinker.sft._ENOUGH", 20)
    with pytest.raises(
        ValueError, match=r"\d of \d+ training problems have no solution of at most max_length=64 tokens"
    ):
        train(sft(tiny_model), data, steps=20, streaming=True)


@pytest.mark.filterwarnings("ignore")
def test_a_batch_of_which_nothing_fits_changes_nothing(tiny_model: str, tmp_path: Path) -> None:
    data = write(tmp_path / "set.jsonl", 8, **{f"p{i}": {"solutions": ["x" * 80]} for i in range(8)})
    module = sft(tiny_model)
    before = weights(module)
    train(module, data, steps=2, streaming=True, max_unusable=1)
    assert_same_weights(before, weights(module))


def test_embedded_problems_leave_nothing_on_disk(tiny_model: str, cache: Path) -> None:
    module = sft(tiny_model, **{**SHAPE, "max_length": 400})
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", logger=False, limit_val_batches=0, enable_checkpointing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=DomainDataModule("algebra", batch_size=2))
    assert not cache.exists()
