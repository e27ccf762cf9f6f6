"""What `validate` and `test` log: the figures of an evaluation, over batches and ranks; as a script, on two ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import lightning.pytorch as pl
import pytest

from tests.support.fits import PROBLEMS, Fixed, grpo
from vibethinker.datamodules.loaders import HeldOutLoader
from vibethinker.evaluation.grading import extract_answers
from vibethinker.evaluation.summary import problem_metrics
from vibethinker.utils.seeding import stable_seed

pytestmark = pytest.mark.slow

ASKED = [replace(p, domain=("algebra", "code", "geometry")[i // 3]) for i, p in enumerate(PROBLEMS[:7])]


class Three(Fixed):
    """Seven problems in batches of three: the last domain has one, so a rank has none of it."""

    def test_dataloader(self) -> HeldOutLoader:
        trainer: Any = self.trainer
        return HeldOutLoader(ASKED, 3, rank=trainer.global_rank, world_size=trainer.world_size)


def logged(model: str, **options: Any) -> dict[str, float]:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = pl.Trainer(accelerator="cpu", **{"devices": 1, **quiet, **options})
    (figures,) = trainer.test(grpo(model), datamodule=Three(), verbose=False)
    return dict(figures)


@pytest.fixture(scope="module")
def alone(tiny_model: str) -> dict[str, float]:
    return logged(tiny_model)


def test_they_are_the_figures_of_an_evaluation(alone: dict[str, float], tiny_model: str) -> None:
    module = grpo(tiny_model)
    samples = module.sample_and_grade(ASKED, 8, [stable_seed(module.seed, "test", p.id) for p in ASKED])
    values = problem_metrics(extract_answers(samples), (1, 8))
    names = ["pass@1", "pass@8", "truncated", "unboxed", "timeout", "length"]
    groups = {
        "": ASKED,
        **{f"{domain}/": [p for p in ASKED if p.domain == domain] for domain in ["algebra", "code", "geometry"]},
    }
    assert alone.keys() == {f"test/{group}{name}" for group in groups for name in names}
    for group, members in groups.items():
        for name in names:
            own = [v[name] for v, p in zip(values, ASKED, strict=True) if p in members]
            assert alone[f"test/{group}{name}"] == pytest.approx(sum(own) / len(own), rel=1e-5)


def test_two_ranks_log_what_one_does(alone: dict[str, float], tiny_model: str, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "error::UserWarning:torchmetrics", __file__, tiny_model, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "0.json").read_text()) == pytest.approx(alone, rel=1e-5)


if __name__ == "__main__":
    model, out = sys.argv[1], Path(sys.argv[2])
    found = logged(model, devices=2, strategy="ddp")
    (out / f"{os.environ.get('LOCAL_RANK', '0')}.json").write_text(json.dumps(found))
