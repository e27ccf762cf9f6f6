"""Tables as a narrow terminal shows them."""

from __future__ import annotations

import pytest
from rich.console import Console

from vibethinker.cli.report.result_table import hardest_table, metrics_table

METRICS = {
    "pass@1": 0.5,
    "pass@64": 0.75,
    "majority@64": 0.25,
    "truncated": 0,
    "unboxed": 0,
    "timeout": 0,
    "length": 85,
}


@pytest.mark.parametrize("width", [80, 200])
def test_every_metric_is_seen(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"file": file, "domain": domain, "metric": metric, "mean": mean, "standard_error": error}
        for file, error in (("bench[1]", 0.01), ("other", None))
        for domain in ("number_theory", "all")
        for metric, mean in METRICS.items()
    ]
    Console(width=width).print(metrics_table(rows, "title"))
    said = capsys.readouterr().out
    assert "…" not in said
    assert all(name.partition("@")[0] in said for name in METRICS)
    assert said.count("85") == 4
    assert said.count("±0.01") == 2 * 6
    assert "bench[1]" in said
    assert said.count("0.25") == 4


def test_the_hardest_with_their_wrong_answers(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [{"answer": "7", "samples": 4, "right": True}, {"answer": "[8]", "samples": 2, "right": False}]
    problem = {"file": "f", "id": "f/1", "pass_rate": 0.5, "expected": "x" * 50, "answers": answers}
    Console(width=100).print(hardest_table([problem, {**problem, "answers": []}]))
    said = capsys.readouterr().out
    assert "[8] ×2" in said
    assert "x" * 24 + "…" in said
