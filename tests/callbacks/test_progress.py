"""Progress: plain lines in a log, bars on a terminal, optimizer steps in both."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import pytest
import torch
from rich.console import Console

from tests.support import quick
from vibethinker.callbacks import DiversityProbe, Progress
from vibethinker.callbacks.progress import probe_metrics


def fit(folder: Path, model: str, progress: Progress) -> pl.Trainer:
    # the progress bar comes before the probe: what the probe measures is shown all the same
    run = quick.trainer(folder, progress, DiversityProbe(2, n=4, k=2), enable_progress_bar=True, max_steps=5)
    run.fit(quick.sft(model), datamodule=quick.data())
    return run


def test_a_line_for_each_step_and_each_probe(
    tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, tiny_model, Progress(interval=0))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    steps = [line.split()[1] for line in lines]
    assert set(steps) == {f"{step}/5" for step in range(1, 6)}
    number = r"[\d.e+-]+"
    figures = rf"loss {number}  lr {number}  {number}k tok/s"
    assert re.fullmatch(rf"step 1/5  {figures}  0:\d\d elapsed", lines[0])
    probes = "  ".join(rf"probe/{name}/pass@2 0\.\d\d ±0\.\d\d" for name in (*quick.DOMAINS, "mean"))
    assert sum(bool(re.fullmatch(rf"step [24]/5  {figures}  {probes}  0:\d\d elapsed", line)) for line in lines) == 2


def test_few_lines_where_steps_are_fast(tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, tiny_model, Progress(interval=3600))
    steps = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert steps == ["2/5", "4/5", "5/5"]  # the probes, and the end


def test_a_bar_on_a_terminal_counts_optimizer_steps(tmp_path: Path, tiny_model: str) -> None:
    progress, screen = Progress(), io.StringIO()
    progress._console = Console(file=screen, force_terminal=True, width=200)
    fit(tmp_path, tiny_model, progress)
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", screen.getvalue())
    assert "probe/algebra/pass@2" in shown
    assert re.search(r"step .* 5/5 .*loss", shown)
    assert "/10" not in shown  # two micro-batches a step
    assert re.search(r"probe .*/32 ", shown)  # samples of the probe: 8 problems, 4 each


def test_other_ranks_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(interval=0)
    run = quick.trainer(tmp_path, progress, enable_progress_bar=True)
    cast(Any, run.strategy)._rank = 1
    progress.disable()
    progress.show("probe", 1, 2)
    progress.announce(run)
    progress.print("hello")
    assert capsys.readouterr().out == ""
    progress.enable()
    progress.show("probe", 1, 2)
    assert "probe 1/2" in capsys.readouterr().out


def test_probe_metrics_leave_out_pass_at_1() -> None:
    metrics = {
        "train/loss": torch.tensor(1.0),
        "probe/algebra/pass@16": torch.tensor(0.8125),
        "probe/algebra/pass@1": torch.tensor(0.5),
        "probe/algebra/standard_error": torch.tensor(0.04),
    }
    assert probe_metrics(metrics) == ["probe/algebra/pass@16 0.81 ±0.04"]
