"""The recipe file, and the commands it comes down to."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.support import miniature
from vibethinker.cli.main import main
from vibethinker.cli.recipe.definition import load_recipe
from vibethinker.cli.recipe.tasks import Task, tasks_of
from vibethinker.utils.provenance import Provenance

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    miniature.write(tmp_path, sft=miniature.sft("base"), mgpo=miniature.mgpo("base"), recipe=miniature.recipe("base"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finish(task: Task, **chosen: str) -> None:
    """Leaves what the task's command would leave."""
    for model in (*chosen.values(), "checkpoints/last", "model"):
        (task.folder / model).mkdir(parents=True, exist_ok=True)
        (task.folder / model / "config.json").write_text("{}")
    (task.folder / "chosen.json").write_text(json.dumps(chosen))
    task.sign(task.provenance(), seconds=1.0, peak_memory_bytes=1)


def test_tasks_and_their_commands(folder: Path) -> None:
    tasks = {task.name: task for task in tasks_of(load_recipe(Path("recipe.yaml")))}
    assert list(tasks) == [
        *("base", "specialist/algebra", "specialist/geometry", "fused", "signal", "signal/evaluation"),
    ]
    assert shlex.join(tasks["base"].command(tasks["base"].models())) == (
        "vibethinker evaluate base --out out/base/evaluation.json --domains algebra geometry --problems 4 --samples 2 "
        "--k 1 2 --max-new-tokens 8 --difficulty 1 --stage base"
    )
    algebra = tasks["specialist/algebra"]
    assert shlex.join(algebra.command(algebra.models())) == (
        "vibethinker fit --config sft.yaml --trainer.default_root_dir out/specialist/algebra --model.model base "
        "--data.domain algebra --trainer.callbacks.monitor probe/algebra/pass@2"
    )
    for name, step in (("algebra", 2), ("geometry", 6)):
        finish(tasks[f"specialist/{name}"], **{f"probe/{name}/pass@2": f"checkpoints/step={step}"})
    fused = tasks["fused"]
    assert shlex.join(fused.command(fused.models())) == (
        "vibethinker fuse out/specialist/algebra/checkpoints/step=2 out/specialist/geometry/checkpoints/step=6 "
        "--out out/fused/model"
    )
    finish(fused)
    assert tasks["signal"].models() == ["out/fused/model"]


def test_one_fit_may_choose_several_experts(folder: Path) -> None:
    content = miniature.recipe("base")
    monitors = [f"probe/{domain}/pass@2" for domain in miniature.DOMAINS]
    mixed = {"name": "mixed", "fit": "sft.yaml", "choose": monitors}
    miniature.write(folder, recipe={**content, "stages": [mixed, {"name": "fused", "fuse": "mixed"}]})
    fit, fused = tasks_of(load_recipe(Path("recipe.yaml")))
    finish(fit, **{monitors[0]: "checkpoints/step=2", monitors[1]: "checkpoints/step=4"})
    assert fused.models() == [f"out/mixed/checkpoints/step={step}" for step in (2, 4)]


def test_stages_that_make_data(folder: Path) -> None:
    (folder / "math.yaml").write_text("sources: []\n")
    content = miniature.recipe("base")
    named = {"trainer.callbacks.init_args.filename": "{step}"}  # no stage, and none that is missing
    fit = {"fit": "sft.yaml", "with": {**named, "data.data": "{problems}", "data.domain": "{each}"}}
    stages = [
        {"name": "problems", "prepare": "math.yaml"},
        {"name": "specialist", "each": ["algebra"], **fit},
        {"name": "pool", "filter": "{problems}", "from": "specialist", "with": {"samples": 8}},
        {"name": "signal", "fit": "mgpo.yaml", "from": "specialist", "with": {"data.data": "{pool}"}, "evaluate": "x"},
        {"name": "contest", "from": "signal", "evaluate": ["aime.jsonl", "hmmt.parquet"]},
    ]
    evaluation = {"data": "{problems}", "problems": 9, "samples": 4}
    miniature.write(folder, recipe={**content, "evaluation": evaluation, "stages": stages})
    tasks = {task.name: task for task in tasks_of(load_recipe(Path("recipe.yaml")))}
    assert {name: [t.name for t in task.before] for name, task in tasks.items()} == {
        "problems": [],
        "specialist/algebra": ["problems"],
        "pool": ["specialist/algebra", "problems"],
        "signal": ["specialist/algebra", "pool"],
        "signal/evaluation": ["signal", "problems"],
        "contest": ["signal"],
    }
    commands = {
        name: shlex.join(task.command(["M"] if task.needs or task.base else [])) for name, task in tasks.items()
    }
    assert commands["problems"] == "vibethinker prepare math.yaml --out out/problems/data"
    assert commands["pool"] == "vibethinker filter M out/problems/data --out out/pool/data --samples 8"
    assert commands["specialist/algebra"].endswith("--data.data out/problems/data --data.domain algebra")
    assert commands["signal/evaluation"] == (
        "vibethinker evaluate M --out out/signal/evaluation/evaluation.json --domains x --data out/problems/data "
        "--problems 9 --samples 4 --stage signal"
    )
    assert commands["contest"] == (
        "vibethinker evaluate M aime.jsonl hmmt.parquet --out out/contest/evaluation.json --samples 4 --stage contest"
    )
    with pytest.raises(FileNotFoundError, match="out/problems/data: the stage has left no data"):
        tasks["problems"].sign(Provenance(), seconds=1.0)


def test_what_changed_is_named(folder: Path) -> None:
    def algebra() -> Task:
        return next(t for t in tasks_of(load_recipe(Path("recipe.yaml"))) if t.name == "specialist/algebra")

    assert not algebra().is_done()
    finish(algebra(), **{"probe/algebra/pass@2": "checkpoints/step=2"})
    assert algebra().is_done()
    (folder / "sft.yaml").write_text("# only a comment more\n" + (folder / "sft.yaml").read_text())
    assert algebra().is_done()
    miniature.write(folder, sft=miniature.sft("base", max_steps=7))
    with pytest.raises(ValueError, match=r"config.trainer.max_steps=6, now it is 7: --redo specialist"):
        algebra().is_done()
    miniature.write(folder, sft=miniature.sft("base"))
    (folder / "base").mkdir()
    (folder / "base" / "model.safetensors").write_bytes(b"another model")
    with pytest.raises(ValueError, match=r"made with another version of base/model\.safetensors"):
        algebra().is_done()


def test_a_choice_that_the_fit_did_not_make(folder: Path) -> None:
    algebra = tasks_of(load_recipe(Path("recipe.yaml")))[1]
    with pytest.raises(ValueError, match=r"'probe/algebra/pass@2', only loss"):
        finish(algebra, loss="checkpoints/step=2")
    assert not (algebra.folder / "stage.json").exists()


def stage(**entry: Any) -> dict[str, Any]:
    return {"stages": [{"name": "a", "fit": "sft.yaml"}, {"name": "b", **entry}]}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"outptu": "x"}, "unknown key 'outptu'"),
    "no output": ({"output": None}, "output is missing"),
    "no stages": ({"stages": []}, "stages must be a list"),
    "not a mapping": ({"stages": ["a"]}, "stage 1: must be a mapping"),
    "no name": ({"stages": [{"fit": "sft.yaml"}]}, "stage 1 needs a unique name"),
    "name twice": (stage(name="a", fit="sft.yaml"), "stage 2 needs a unique name"),
    "a path as a name": (stage(name="../a", fit="sft.yaml"), "stage 2 needs a unique name"),
    "unknown key of a stage": (stage(fitt="sft.yaml"), "stage 'b': unknown key 'fitt'"),
    "nothing to do": (stage(), "nothing to do"),
    "no such preparation": (stage(prepare="nosuch.yaml"), "prepare: there is no file nosuch.yaml"),
    "data of a model": (
        stage(fit="sft.yaml", **{"with": {"data.data": "{a}"}}),
        "{a}: no earlier stage 'a' makes data",
    ),
    "unknown data": (stage(fit="sft.yaml", **{"with": {"data.data": "{z}"}}), "{z}: no earlier stage 'z' makes data"),
    "evaluate data": (stage(filter="x.jsonl", evaluate=["x"]), "it makes data, not a model"),
    "domains and files": (stage(evaluate=["x", "y.jsonl"]), "domains or files, not both"),
    "evaluation on no data": ({"evaluation": {"data": "{a}"}}, "evaluation: {a}: no stage 'a' makes data"),
    "fit and fuse": (stage(fit="sft.yaml", fuse="a"), "either fit or fuse"),
    "no such config": (stage(fit="nosuch.yaml"), "there is no file nosuch.yaml"),
    "from nowhere": (stage(fit="sft.yaml", **{"from": "z"}), "no earlier stage 'z'"),
    "from itself": (stage(fit="sft.yaml", **{"from": "b"}), "no earlier stage 'b'"),
    "fuse nothing": (stage(fuse="z"), "no earlier stage 'z'"),
    "each without fit": (stage(each=["x"], evaluate=["x"]), "each needs fit"),
    "each a path": (stage(fit="sft.yaml", each=["x/y"]), "'x/y' cannot name a folder"),
    "each stands for nothing": (stage(fit="sft.yaml", choose="{each}"), "each is missing"),
    "the same twice": (stage(fit="sft.yaml", each=["x", "x"]), "different texts"),
    "evaluate several": (stage(fit="sft.yaml", choose=["x", "y"], evaluate=["z"]), "chooses 2 models"),
    "from several": (
        {
            "stages": [
                {"name": "a", "fit": "sft.yaml", "each": ["x", "y"]},
                {"name": "b", "from": "a", "fit": "sft.yaml"},
            ]
        },
        "'a' makes 2 models",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recipes(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    change, named = BAD[case]
    miniature.write(folder, recipe={**miniature.recipe("base"), **change})
    assert main(["run", "recipe.yaml"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vibethinker: recipe.yaml: ")
    assert error.count("\n") == 1
    assert named in error
    assert not (folder / "out").exists()


def test_bad_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "recipe.yaml").write_text("stages: [")
    for name, named in (("recipe.yaml", "not valid YAML"), ("nosuch.yaml", "no such file")):
        assert main(["run", name]) == 1
        assert f"{name}: {named}" in capsys.readouterr().err
