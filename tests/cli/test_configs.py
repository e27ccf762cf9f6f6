"""Every configuration in the repository goes through the real command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from vibethinker.cli.main import main
from vibethinker.cli.prepare import load_settings
from vibethinker.cli.recipe import load_recipe

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(CONFIGS.glob("*/recipe*.yaml"))
PREPARED = sorted(CONFIGS.glob("data/*.yaml"))
FITS = sorted(set(CONFIGS.glob("*/*.yaml")) - {*RECIPES, *PREPARED})


@pytest.mark.parametrize("config", FITS, ids=lambda path: path.stem)
def test_a_fit_runs_its_first_steps(config: Path, tmp_path: Path) -> None:
    options = ["--model.model", "nano", "--data.batch_size", "8", "--trainer.accelerator", "cpu"]
    folder = ["--trainer.fast_dev_run", "2", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--config", str(config), *options, *folder]) == 0


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_well_formed(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    assert loaded.stages
    assert loaded.model == "nano"


@pytest.mark.parametrize("config", PREPARED, ids=lambda path: path.stem)
def test_a_preparation_is_well_formed(config: Path) -> None:
    settings = load_settings(config)
    assert settings.out
    assert settings.domains
