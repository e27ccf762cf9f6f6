"""MATH's own files through every step, on the nano model: prepared, learned, probed, fused, filtered, evaluated."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vibethinker.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("VIBETHINKER_SHARED", ROOT.parent / "shared")) / "data"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (DATA / "math_train.jsonl").is_file(), reason="no real data")]


def test_real_text_takes_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIBETHINKER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").symlink_to(DATA)
    assert main(["prepare", str(ROOT / "configs/data/math.yaml"), "--out", "math"]) == 0
    removed = [json.loads(line) for line in (tmp_path / "math/removed.jsonl").read_text().splitlines()]
    assert {row["reason"] for row in removed} >= {"contaminated", "no answer"}
    for domain in ("algebra", "statistics"):
        options = {
            "data": "DomainDataModule",
            "data.data": "math",
            "data.domain": domain,
            "data.batch_size": 4,
            "data.max_unusable": 0.8,
            "model.max_length": 512,
            "model.sampler.max_new_tokens": 64,
            "trainer.max_steps": 2,
            "trainer.accelerator": "cpu",
            "trainer.default_root_dir": domain,
            "trainer.callbacks+": "DiversityProbe",
            "trainer.callbacks.every_n_steps": 2,
            "trainer.callbacks.problems": 4,
            "trainer.callbacks.n": 2,
            "trainer.callbacks.k": 2,
        }
        flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        fit = ["fit", "--model", "SFTModule", "--model.model", "nano", *flags]
        assert main(fit) == 0
        assert json.loads((tmp_path / domain / "probe.json").read_text())["checkpoints"][0]["step"] == 2
    assert main(["fuse", "algebra/checkpoints/last", "statistics/checkpoints/last", "--out", "fused"]) == 0
    evaluate = ["evaluate", "fused", "data/aime24.jsonl", "data/hmmt25.jsonl", "--samples", "2", "--k", "1", "2"]
    assert main([*evaluate, "--max-new-tokens", "32", "--skip-long", "--out", "results.json"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["file"] for row in results["rows"]} >= {"aime24", "hmmt25"}
    assert sum(results["left_out"].values()) + len(results["problems"]) == 60
    few = [json.loads(line) for line in (tmp_path / "math/train.jsonl").read_text().splitlines()[:40]]
    (tmp_path / "few.jsonl").write_text("\n".join(map(json.dumps, few)))
    pool = ["filter", "fused", "few.jsonl", "--out", "pool", "--samples", "2", "--max-new-tokens", "32", "--skip-long"]
    assert main([*pool, "--max-error-rate", "1.0"]) == 0
    kept = [json.loads(line) for line in (tmp_path / "pool/train.jsonl").read_text().splitlines()]
    assert {row["pass_rate"] for row in kept} <= {0.0, 0.5, 1.0}
