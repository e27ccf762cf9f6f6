"""What benchmarks/demo.py concludes from a recipe's figures."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "benchmarks" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figures(means: dict[str, dict[str, float]], half: float) -> list[dict[str, Any]]:
    return [
        {"stage": s, "domain": d, "metric": "pass@1", "mean": mean, "low": mean - half, "high": mean + half}
        for s, by_domain in means.items()
        for d, mean in by_domain.items()
    ]


MEANS = {
    "base": {"algebra": 0.3, "geometry": 0.4, "code": 0.4, "all": 0.37},
    "specialist": {"algebra": 0.5, "geometry": 0.39},
    "fused": {"algebra": 0.4, "geometry": 0.5, "code": 0.2, "all": 0.37},
    "signal": {"algebra": 0.6, "geometry": 0.6, "code": 0.1, "all": 0.43},
    "code": {"algebra": 0.6, "geometry": 0.58, "code": 0.5, "all": 0.56},
}


def test_claims_are_of_the_domains_that_a_stage_teaches(demo: ModuleType) -> None:
    assert demo.claims(figures(MEANS, half=0.06)).splitlines() == [
        "- Each chosen specialist beats the base in its own domain: no: geometry.",
        "- The fused model beats the base in each of these domains: yes.",
        "- The signal phase adds +0.150 to their mean pass@1 (asked: +0.100); the intervals do not overlap.",
        "- The code stage adds +0.400 to pass@1 on code; the intervals do not overlap.",
        "- It changes the mean of the other domains by -0.010.",
    ]
    # the half of a mean over two domains is the single one over the root of two: 0.15 = 2 · 0.106 / 1.41
    assert "+0.150 to their mean pass@1 (asked: +0.100); the intervals overlap" in demo.claims(
        figures(MEANS, half=0.12)
    )


def test_a_recipe_without_a_code_stage_claims_nothing_of_it(demo: ModuleType) -> None:
    means = {stage: by_domain for stage, by_domain in MEANS.items() if stage != "code"}
    assert "code" not in demo.claims(figures(means, half=0.06))
