"""Two processes with half of the problems each make the updates of one process with all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fits import CASES, assert_same_weights, run_case

SCRIPT = Path(__file__).with_name("fits.py")


@pytest.fixture(scope="module")
def two_ranks(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case on two processes, in one go: starting them is what takes the time."""
    out = tmp_path_factory.mktemp("two")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), tiny_model, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one(two_ranks: Path, tiny_model: str, tmp_path: Path, case: str) -> None:
    """Unequal token counts, a rank whose groups are all dead, only dead groups, and rows without a rollout."""
    run_case(case, tiny_model, tmp_path)
    ours, theirs = (torch.load(folder / f"{case}.weights") for folder in (tmp_path, two_ranks))
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, atol=1e-6, rtol=1e-5)
    ours, theirs = (json.loads((folder / f"{case}.json").read_text()) for folder in (tmp_path, two_ranks))
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        for key in (k for k in one if "second" not in k):
            assert two[key] == pytest.approx(one[key], abs=1e-5)


def test_the_dead_rank_was_dead(two_ranks: Path) -> None:
    steps = json.loads((two_ranks / "grpo-dead-rank.json").read_text())
    assert all(step["rollout/dead_groups"] >= 2 for step in steps)
    assert any(step["rollout/dead_groups"] < 4 for step in steps)


def test_two_ranks_go_on_between_two_updates_of_a_window(two_ranks: Path) -> None:
    """Each rank goes on with its own rollouts, not with those of the rank that wrote the checkpoint."""
    before, after = (torch.load(folder / "grpo.weights") for folder in (two_ranks, two_ranks / "again"))
    assert_same_weights(before, after)
