"""A metric of one's own: a function of a problem's samples, under its name in `METRICS`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vibethinker.cli.main import main
from vibethinker.evaluation.grading import GradedSamples
from vibethinker.evaluation.summary import METRICS


def shortest(samples: GradedSamples, index: int) -> float:
    """Tokens of a problem's shortest completion."""
    return float(samples.lengths[index].min())


def test_an_evaluation_reports_it(tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "shortest", shortest)
    out = tmp_path / "out.json"
    few = ["--domains", "algebra", "--problems", "2", "--samples", "2", "--k", "1", "--max-new-tokens", "4"]
    assert main(["evaluate", tiny_model, "--split", "test", *few, "--out", str(out)]) == 0
    (row,) = (row for row in json.loads(out.read_text())["rows"] if row["metric"] == "shortest")
    assert row["problems"] == 2
    assert 1 <= row["low"] <= row["mean"] <= row["high"] <= 4
