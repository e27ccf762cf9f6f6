"""The diversity probe: its figures, what it leaves untouched, what it refuses, resume, and two processes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from tests.support import quick
from vibethinker import SFTModule
from vibethinker.callbacks import DiversityProbe, HuggingFaceExport
from vibethinker.callbacks.diversity_probe import best_checkpoint, diversity_figure
from vibethinker.evaluation.grading import grade, sample
from vibethinker.rollout import RolloutEngine, Sampling
from vibethinker.utils.seeding import stable_seed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> pl.Trainer:
    """Six steps, probed and saved at 2, 4 and 6; every checkpoint kept."""
    folder = tmp_path_factory.mktemp("run")
    checkpoints = [
        quick.best(folder, "algebra", save_top_k=-1),
        quick.best(folder, "geometry"),
        ModelCheckpoint(folder / "resume", filename="{step}", every_n_train_steps=2, save_top_k=-1, save_last=True),
    ]
    return quick.fit(folder, tiny_model, *checkpoints, logger=TensorBoardLogger(folder, name="", version=""))


def record(run: pl.Trainer) -> dict[str, Any]:
    return json.loads((Path(run.default_root_dir) / "probe.json").read_text())


def chosen(run: pl.Trainer, domain: str) -> ModelCheckpoint:
    return next(
        c for c in run.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor == f"probe/{domain}/pass@2"
    )


# Figures


def test_figures_of_one_domain_by_hand() -> None:
    probe = DiversityProbe(1, n=4, k=2)
    figures = probe.metrics([0, 1, 2], "algebra", solved=[0, 1, 2], distinct=[0, 1, 2])
    # pass@2 of 4 samples: 0, 1 − C(3,2)/C(4,2) = 1/2, 1 − C(2,2)/C(4,2) = 5/6
    assert figures["pass@2"] == pytest.approx((0 + 1 / 2 + 5 / 6) / 3)
    assert figures["pass@1"] == pytest.approx((0 + 1 + 2) / 12)
    assert figures["distinct_solutions"] == 1.0
    values = [0, 1 / 2, 5 / 6]
    spread = math.sqrt(sum((v - sum(values) / 3) ** 2 for v in values) / 6)
    assert figures["standard_error"] == pytest.approx(spread)
    assert "gain_low" not in figures


def test_gain_is_against_the_best_so_far_and_paired() -> None:
    probe = DiversityProbe(1, n=4, k=1)
    for step, solved in enumerate([[4, 4, 0], [4, 4, 2], [1, 1, 1]]):
        figures = probe.metrics([0, 1, 2], "algebra", solved, [0, 0, 0])
        probe.checkpoints.append({"step": step, "solved": solved, "figures": {"algebra": figures}})
    gains = [c["figures"]["algebra"] for c in probe.checkpoints]
    assert (gains[1]["gain_low"], gains[1]["gain_high"]) == (0.0, 0.5)  # one problem of three gained 1/2
    # to step 1: −3/4, −3/4, −1/4, whose bootstrapped mean lies between the extremes
    assert gains[2]["gain_low"] == pytest.approx(-0.75)
    assert gains[2]["gain_high"] == pytest.approx(-0.25)


def test_logged_when_model_checkpoint_looks(run: pl.Trainer) -> None:
    checkpoints = record(run)["checkpoints"]
    assert [c["step"] for c in checkpoints] == [2, 4, 6]
    for domain in quick.DOMAINS:
        values = [c["figures"][domain]["pass@2"] for c in checkpoints]
        choice = chosen(run, domain)
        assert choice.best_model_score == pytest.approx(max(values))
        assert Path(choice.best_model_path).name == f"step={checkpoints[values.index(max(values))]['step']}.ckpt"
    saved = {Path(path).name: value.item() for path, value in chosen(run, "algebra").best_k_models.items()}
    assert saved == {f"step={c['step']}.ckpt": pytest.approx(c["figures"]["algebra"]["pass@2"]) for c in checkpoints}


def test_counts_are_those_of_the_checkpoint_on_disk(run: pl.Trainer) -> None:
    module = run.lightning_module
    assert isinstance(module, SFTModule)
    problems = quick.data().problems("probe")
    folder = Path(chosen(run, "algebra").best_model_path).with_name("step=4")
    engine = RolloutEngine(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), max_length=448)
    seeds = [stable_seed(0, p.id) for p in problems]
    samples = sample(
        engine,
        module.tokenizer,
        problems,
        n=4,
        sampling=Sampling(max_new_tokens=8),
        seeds=seeds,
        instruction="",
    )
    assert grade(samples, module.reward).correct.sum(1).tolist() == record(run)["checkpoints"][1]["solved"]
    assert record(run)["problems"] == {"id": [p.id for p in problems], "domain": [p.domain for p in problems]}


def test_mean_is_over_all_problems(run: pl.Trainer) -> None:
    for checkpoint in record(run)["checkpoints"]:
        figures = checkpoint["figures"]
        assert list(figures) == ["algebra", "geometry", "mean"]
        pair = (figures["algebra"]["pass@1"] + figures["geometry"]["pass@1"]) / 2  # four problems each
        assert figures["mean"]["pass@1"] == pytest.approx(pair)
        assert figures["mean"]["pass@1"] == pytest.approx(sum(checkpoint["solved"]) / 32)


def test_tensorboard_has_scalars_and_the_curve(run: pl.Trainer) -> None:
    events = EventAccumulator(run.default_root_dir)
    events.Reload()
    scalars = events.Scalars("probe/algebra/pass@2")
    assert [s.step for s in scalars] == [2, 4, 6]
    assert [s.value for s in scalars] == pytest.approx(
        [c["figures"]["algebra"]["pass@2"] for c in record(run)["checkpoints"]]
    )
    assert events.Images("probe/pass@2 over checkpoints")[-1].step == 6


def test_figure_marks_the_best_point_of_each_domain(run: pl.Trainer) -> None:
    axes = diversity_figure(record(run)).axes[0]
    curves, stars = axes.lines[::2], axes.lines[1::2]
    assert [line.get_label() for line in curves] == quick.DOMAINS
    for curve, star in zip(curves, stars, strict=True):
        assert np.asarray(star.get_ydata()) == [np.asarray(curve.get_ydata()).max()]


# Ties


def test_of_checkpoints_that_tie_the_earliest_stays(tmp_path: Path, tiny_model: str) -> None:
    choice = quick.best(tmp_path, "algebra")
    probe = DiversityProbe(2, problems=2, n=2, k=1)
    choice.monitor = "probe/algebra/pass@1"
    run = quick.trainer(tmp_path, probe, choice)
    module = quick.sft(tiny_model, reward=lambda problems, completions: [1.0] * len(completions))
    run.fit(module, datamodule=quick.data())
    assert Path(choice.best_model_path).name == "step=2.ckpt"
    best = best_checkpoint(probe.checkpoints, "algebra", 1)
    assert best is not None
    assert best["step"] == 2


# What it leaves untouched


def test_training_is_bitwise_the_same_with_and_without(tmp_path: Path, tiny_model: str) -> None:
    ends = []
    for callbacks in ([], [DiversityProbe(2, problems=2, n=2, k=1)]):
        torch.manual_seed(1)
        run = quick.trainer(tmp_path, *callbacks, max_steps=4)
        run.fit(quick.sft(tiny_model), datamodule=quick.data())
        assert run.lightning_module.training
        ends.append((quick.weights(run), torch.get_rng_state()))
    quick.assert_same_weights(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])


def test_steps_that_no_checkpoint_is_due_at_are_not_probed(tmp_path: Path, tiny_model: str) -> None:
    probe = DiversityProbe(2, problems=2, n=2, k=1)
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    quick.trainer(tmp_path, probe, saved, max_steps=5).fit(quick.sft(tiny_model), datamodule=quick.data())
    assert [c["step"] for c in probe.checkpoints] == [2, 4]
    assert sorted(p.name for p in tmp_path.glob("*.ckpt")) == ["step=2.ckpt", "step=4.ckpt"]


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 4, "k": 8}, "k=8 needs at least as many samples"),
        ({"problems": 0}, "problems must be at least 1"),
        ({"every_n_steps": 0}, "every_n_steps must be at least 1"),
        ({"top_p": 0.0}, "top_p"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiversityProbe(**{"every_n_steps": 1, **options})


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({"domain": "calculus"}, r"'probe/calculus/pass@2'; the probe logs probe/algebra/pass@2, probe/algebra/pass@1"),
        ({"domain": "algebra", "k": 8}, "'probe/algebra/pass@8'; the probe logs"),
        ({"domain": "algebra", "mode": "min"}, "set mode='max'"),
        ({"domain": "algebra", "every_n_train_steps": 3}, "multiple of the probe's every_n_steps=2, got 3"),
        ({"domain": "algebra", "every_n_train_steps": None, "every_n_epochs": 1}, "every_n_steps=2, got None"),
    ],
)
def test_refuses_checkpoints_it_would_not_serve(
    tmp_path: Path, tiny_model: str, checkpoint: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        quick.fit(tmp_path, tiny_model, quick.best(tmp_path, **checkpoint))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 7}, "never reached: max_steps=6"),
        (
            {"max_new_tokens": 440},
            r"problem 'algebra/.*' \(embedded\) has \d+ tokens; max_length=448 less max_new_tokens=440",
        ),
    ],
)
def test_refuses_what_would_fail_later(tmp_path: Path, tiny_model: str, options: dict[str, Any], message: str) -> None:
    probe = DiversityProbe(**{"every_n_steps": 2, "n": 4, "k": 2, **options})
    with pytest.raises(ValueError, match=message):
        quick.trainer(tmp_path, probe).fit(quick.sft(tiny_model), datamodule=quick.data())


def test_refuses_data_without_a_probe_set(tmp_path: Path, tiny_model: str) -> None:
    with pytest.raises(ValueError, match=r"needs a data module with problems\('probe'\)"):
        quick.trainer(tmp_path, DiversityProbe(2)).fit(quick.sft(tiny_model), quick.data().train_dataloader())


# Resume


def test_resume_at_a_probed_step_changes_nothing(tmp_path: Path, tiny_model: str, run: pl.Trainer) -> None:
    def checkpoints() -> list[ModelCheckpoint]:
        every = {"every_n_train_steps": 2, "save_top_k": -1, "save_last": True, "enable_version_counter": False}
        return [quick.best(tmp_path, "algebra"), ModelCheckpoint(tmp_path / "resume", filename="{step}", **every)]  # type: ignore[arg-type]

    quick.fit(tmp_path, tiny_model, *checkpoints(), max_steps=4)
    last = tmp_path / "resume" / "last.ckpt"
    before = (tmp_path / "resume" / "step=4.ckpt").stat()
    resumed = quick.fit(tmp_path, tiny_model, *checkpoints(), resume=last)
    quick.assert_same_weights(quick.weights(resumed), quick.weights(run))
    assert record(resumed) == record(run)
    after = (tmp_path / "resume" / "step=4.ckpt").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert Path(chosen(resumed, "algebra").best_model_path).name == Path(chosen(run, "algebra").best_model_path).name


def test_resume_with_other_problems_is_refused(tmp_path: Path, tiny_model: str, run: pl.Trainer) -> None:
    last = next(c.last_model_path for c in run.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.save_last)
    other = quick.trainer(tmp_path, DiversityProbe(2, problems=4, n=4, k=2), HuggingFaceExport(), max_steps=8)
    with pytest.raises(ValueError, match="made with another version of the probe problems; resume"):
        other.fit(quick.sft(tiny_model), datamodule=quick.data(), ckpt_path=last, weights_only=False)


# Processes


def test_two_processes_measure_what_one_does(tmp_path: Path, tiny_model: str) -> None:
    """Five problems on two ranks, and one problem, which leaves a rank without any."""
    command = [sys.executable, quick.__file__, str(tmp_path / "two"), tiny_model]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    quick.measure(tmp_path / "one", tiny_model, processes=1)
    alone = json.loads((tmp_path / "one" / "rank0.json").read_text())
    for rank in range(2):
        assert json.loads((tmp_path / "two" / f"rank{rank}.json").read_text()) == alone
    assert 0 < sum(alone["records"][0]["checkpoints"][0]["solved"]) < 20
