"""Two processes with half of the problems each make the updates of one process with all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.fits import CASES, run_case

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "support" / "fits.py"


ACCELERATORS = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=ACCELERATORS)
def accelerator(request: pytest.FixtureRequest) -> str:
    if request.param == "gpu" and torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    return str(request.param)


@pytest.fixture(scope="module")
def two_ranks(accelerator: str, tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case on two processes, in one go: starting them is what takes the time."""
    out = tmp_path_factory.mktemp("two")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), tiny_model, str(out), accelerator]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one(two_ranks: Path, accelerator: str, tiny_model: str, tmp_path: Path, case: str) -> None:
    """Unequal token counts, a rank whose groups are all dead, only dead groups, and rows without a rollout."""
    run_case(case, tiny_model, tmp_path, accelerator=accelerator)
    ours, theirs = (torch.load(folder / f"{case}.weights", "cpu") for folder in (tmp_path, two_ranks))
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, atol=1e-6, rtol=1e-5)
    ours, theirs = (logged(folder, case) for folder in (tmp_path, two_ranks))
    for one, two in zip(ours, theirs, strict=True):
        assert two == pytest.approx(one, abs=1e-5)


def logged(folder: Path, case: str) -> list[dict[str, float]]:
    """At each step, without times and rates."""
    steps: list[dict[str, float]] = json.loads((folder / f"{case}.json").read_text())
    return [{name: value for name, value in step.items() if "second" not in name} for step in steps]


def test_the_dead_rank_was_dead(two_ranks: Path) -> None:
    steps = logged(two_ranks, "grpo-dead-rank")
    assert all(step["rollout/dead_groups"] >= 2 for step in steps)
    assert any(step["rollout/dead_groups"] < 4 for step in steps)


def test_two_ranks_go_on_between_two_steps_on_a_rollout_batch(two_ranks: Path, accelerator: str) -> None:
    """Each rank goes on with its own rollouts, not with those of the rank that wrote the checkpoint."""
    before, after = (torch.load(folder / "grpo.weights", "cpu") for folder in (two_ranks, two_ranks / "again"))
    last_bits = 1e-8 if accelerator == "gpu" else 0.0  # sums on a GPU are made in any order
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=last_bits, rtol=0)
