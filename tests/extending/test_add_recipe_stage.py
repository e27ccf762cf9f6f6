"""A recipe stage of one's own: an entry of the recipe file, with any module's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support import miniature
from vibethinker import GRPOModule
from vibethinker.cli.main import main

pytestmark = pytest.mark.slow


class TerseModule(GRPOModule):
    """MGPO for which short correct completions count more."""

    def __init__(self, model: str, **options: object) -> None:
        super().__init__(model, objective={"long2short": 0.5}, **options)  # type: ignore[arg-type]


def test_a_recipe_runs_it(tmp_path: Path, tiny_model: str) -> None:
    config = miniature.mgpo(tiny_model, max_steps=2)
    config["model"]["class_path"] = "tests.extending.test_add_recipe_stage.TerseModule"
    stages = [{"name": "brevity", "fit": "terse.yaml", "evaluate": ["algebra"]}]
    evaluation = {"problems": 2, "samples": 2, "k": [1], "max_new_tokens": 8, "difficulty": 1}
    recipe = {"output": "out", "model": tiny_model, "evaluation": evaluation, "stages": stages}
    miniature.write(tmp_path, terse=config, recipe=recipe)
    assert main(["run", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "out")]) == 0
    rows = yaml.safe_load((tmp_path / "out" / "results.json").read_text())
    assert {row["stage"] for row in rows} == {"brevity"}
