"""Every configuration in the repository goes through the real command line; those of real models on shrunken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from vibethinker.cli.main import main
from vibethinker.cli.prepare import load_settings
from vibethinker.cli.recipe.definition import load_recipe

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(CONFIGS.glob("*/recipe*.yaml"))
PREPARED = sorted(CONFIGS.glob("data/*.yaml"))
FITS = sorted(set(CONFIGS.glob("*/*.yaml")) - {*RECIPES, *PREPARED})
NANO = [path for path in FITS if path.parent.name == "nano"]
REAL = [path for path in FITS if path not in NANO]
DOMAINS = ("algebra", "geometry", "calculus", "statistics")


def name(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("config", NANO, ids=name)
def test_a_fit_runs_its_first_steps(config: Path, tmp_path: Path) -> None:
    options = ["--model.model", "nano", "--data.batch_size", "8", "--trainer.accelerator", "cpu"]
    folder = ["--trainer.fast_dev_run", "2", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--config", str(config), *options, *folder]) == 0


@pytest.fixture(scope="module")
def shrunken(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small models of the kind that a folder of configurations is for, and small data of what they name."""
    root = tmp_path_factory.mktemp("shrunken")
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import BitsAndBytesConfig

    quantized: Any = AutoModelForCausalLM.from_pretrained(
        tiny_model, quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    )
    quantized.save_pretrained(root / "bnb4")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(root / "bnb4")
    (root / "math").mkdir()
    for split in ("train", "probe", "val", "test"):
        rows = [
            {"prompt": f"{split} {d} {i}", "domain": d, "answer": str(i), "solutions": [f"\\boxed{{{i}}}"]}
            for d in DOMAINS
            for i in range(16)
        ]
        (root / "math" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code = [{"prompt": f"Return {i}.", "tests": [{"call": "f", "args": [], "expected": i}]} for i in range(60)]
    (root / "code.jsonl").write_text("\n".join(map(json.dumps, code)))
    made = {"bnb4": "bnb4", "math": "math", "code": "code.jsonl"}
    return {"plain": tiny_model, **{what: str(root / file) for what, file in made.items()}}


@pytest.mark.parametrize("config", REAL, ids=name)
def test_a_fit_of_a_real_model_runs_its_first_steps_on_a_shrunken_one(
    config: Path, shrunken: dict[str, str], tmp_path: Path
) -> None:
    small = {
        "model.model": shrunken["bnb4" if "bnb4" in config.parent.name else "plain"],
        "model.max_length": 256,
        "model.sampler.max_new_tokens": 8,
        "model.packing.row_tokens": 256,
        "model.sampler.slots": 8,
        "data.data": shrunken["code" if "code" in config.stem else "math"],
        "data.batch_size": 4,
        "trainer.accelerator": "cpu",
        "trainer.precision": "32-true",
        "trainer.fast_dev_run": 1,
        "trainer.default_root_dir": tmp_path,
    }
    options = [part for option, value in small.items() for part in (f"--{option}", str(value))]
    assert main(["fit", "--config", str(config), *options]) == 0


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_a_recipe_is_well_formed(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load_recipe(recipe)
    assert (loaded.model == "nano") == (recipe.parent.name == "nano")
    assert main(["run", str(recipe), "--output", str(tmp_path / "out"), "--dry-run"]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("to do")]
    assert {line.split()[2].partition("/")[0] for line in shown} == {stage.name for stage in loaded.stages}


@pytest.mark.parametrize("config", PREPARED, ids=name)
def test_a_preparation_is_well_formed(config: Path) -> None:
    settings = load_settings(config)
    assert settings.out
    assert settings.domains
