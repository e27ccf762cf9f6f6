"""What benchmarks/performance.py concludes from its figures."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def page() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("parts.page")


def variant(rate: float, gib: float) -> dict[str, Any]:
    return {"tokens_per_second": rate, "gib": gib, "step_ms": 1.0, "repeats": 3}


def verdicts(page: ModuleType, results: dict[str, Any]) -> dict[str, tuple[float | None, bool | None]]:
    return {goal.work: (goal.value, goal.reached) for goal in page.goals(results)}


def test_without_figures_nothing_is_reached(page: ModuleType) -> None:
    assert {reached for _, reached in verdicts(page, {}).values()} == {None}
    assert page.markdown({}, "command").count("| not measured |") == len(page.goals({}))


def test_verdicts_come_from_the_figures(page: ModuleType) -> None:
    found = verdicts(
        page,
        {
            "rollout": {"short": {"tokens_per_second": 81_000.0, "step_ms": 3.1}},
            "trl-grpo-short": {"rollout_seconds": 9.0, "step_seconds": 11.0},
            "grpo-short": {"rollout_seconds": 1.0, "step_seconds": 4.0},
            "context": {"error": "out of memory"},
        },
    )
    assert found["rollout, 16 × 16, 128 + 256 tokens, whole call"] == (81_000, True)
    assert found["the same within a GRPO step, × TRL's"] == (9, True)
    assert found["decode step of 256 sequences"] == (3.1, False)
    assert found["the same, × TRL"] == (2.75, False)
    assert found["longest sequence of one GRPO update"] == (None, None)


def test_ratios_are_taken_within_a_run_and_against_the_best_peer(page: ModuleType) -> None:
    results: dict[str, Any] = {
        "grpo-short": {"step_seconds": 2.0, "date": "today"},
        "trl-grpo-short": {"step_seconds": 10.0, "date": "today"},
        "trl-grpo-batching": {"step_seconds": 8.0, "date": "today"},
    }
    assert verdicts(page, results)["the same, × TRL"] == (4, True)
    results["trl-grpo-batching"]["date"] = "yesterday"
    assert verdicts(page, results)["the same, × TRL"] == (5, True)
    results["trl-grpo-short"]["date"] = "yesterday"
    assert verdicts(page, results)["the same, × TRL"] == (None, None)


def test_only_variants_without_more_memory_count(page: ModuleType) -> None:
    results = {
        "sft": {"tokens": 16_384, "bare": variant(50.0, 60.0), "recomputed": variant(40.0, 20.0)},
        "trl-sft": {"tokens": 16_384, "defaults": variant(20.0, 25.0), "best": variant(32.0, 59.0)},
    }
    for figures in results["sft"].values():
        if isinstance(figures, dict):
            figures |= {"passes_tokens_per_second": 1.0, "share_of_peak": 0.1}
    found = verdicts(page, results)
    assert found["SFT step, × TRL's best, at no more memory"] == (1.25, False)
    assert found["SFT step, × TRL's defaults, at no more memory"] == (2, True)


def test_a_missed_goal_comes_with_what_it_would_take(page: ModuleType) -> None:
    sft = {"passes_ms": 300.0, "optimizer_and_rest_ms": 20.0, "share_of_peak": 0.5, **variant(50.0, 20.0)}
    results = {
        "long-tail": {
            n: {"seconds": s, "tokens": 4000, "tokens_per_second": 1 / s} for n, s in (("alone", 8), ("equal", 4))
        },
        "sft": {"no recomputation": {**sft, "passes_tokens_per_second": 1.0}},
        "trl-sft": {"defaults": {**variant(45.0, 25.0), "step_ms": 364.0}},
    }
    results["long-tail"]["tail"] = {"tokens_per_second": 0.1}
    told = page.shortfalls(results)
    assert "The longest completion takes 8.0 s by itself, 2.00 ms a step, and all equal ones together 4.0 s" in told
    assert "it would be 50%" in told
    assert "forward and backward in 240 ms, 62% of the peak" in told  # 364 / 1.4 − 20, and 0.5 · 300 / 240
    assert len(told.splitlines()) == 2


def test_failures_are_told(page: ModuleType) -> None:
    assert "- `head` failed: no memory" in page.markdown({"head": {"error": "Traceback\nno memory"}}, "command")


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [
        (None, ".1f ms", ""),
        (8125.0, ".1fk tok/s", "8.1k tok/s"),
        (8125.0, ".1fk", "8.1k"),
        (2.5, ".1f ×", "2.5×"),
        (0.48, ".0%", "48%"),
        (3.0, ".2f ms", "3.00 ms"),
    ],
)
def test_show(page: ModuleType, value: float | None, form: str, shown: str) -> None:
    assert page.show(value, form) == shown
