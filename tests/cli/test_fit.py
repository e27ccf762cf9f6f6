"""LightningCLI's commands on a tiny model."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

from tests.support import miniature
from vibethinker.cli.main import main

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, tiny_model: str) -> Path:
    miniature.write(tmp_path, sft=miniature.sft(tiny_model), mgpo=miniature.mgpo(tiny_model))
    return tmp_path


def fit(folder: Path, config: str, root: str, *more: str) -> list[str]:
    return ["fit", "--config", str(folder / f"{config}.yaml"), "--trainer.default_root_dir", str(folder / root), *more]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_folder_holds_all_that_a_fit_makes(folder: Path) -> None:
    assert main(fit(folder, "sft", "run")) == 0
    root = folder / "run"
    assert yaml.safe_load((root / "config.yaml").read_text())["trainer"]["max_steps"] == 6
    assert list(root.glob("events.out.tfevents.*"))
    assert [c["step"] for c in json.loads((root / "probe.json").read_text())["checkpoints"]] == [2, 4, 6]
    best = json.loads((root / "chosen.json").read_text())["probe/algebra/pass@2"]
    assert (root / f"{best}.ckpt").is_file()
    assert (root / best / "model.safetensors").is_file()
    checkpoint = torch.load(root / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6
    assert (root / "checkpoints/last/model.safetensors").is_file()


def test_a_fit_ends_with_where_its_models_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # the second time there is nothing left to do
        assert main(fit(folder, "sft", "run")) == 0
        last, best = capsys.readouterr().out.splitlines()[-2:]
        assert last == f"model of step 6: {folder}/run/checkpoints/last"
        assert best.startswith(f"best probe/algebra/pass@2: {folder}/run/checkpoints/")


def test_the_same_command_again_changes_nothing_that_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(fit(folder, "sft", "run")) == 0
    before = files(folder / "run")
    assert main(fit(folder, "sft", "run")) == 0
    assert "resuming from" in capsys.readouterr().out
    after = files(folder / "run")
    assert {name: after[name] for name in before} == before
    assert all("events.out" in name for name in after.keys() - before.keys())


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--model.optimizer.learning_rate", "0.5", "model.optimizer.learning_rate=0.001, now it is 0.5"),
        ("--trainer.max_steps", "8", "trainer.max_steps=6, now it is 8"),
        ("--data.domain", "geometry", "data.domain='algebra', now it is 'geometry'"),
        ("--seed_everything", "1", "seed_everything=0, now it is 1"),
    ],
)
def test_a_folder_of_another_run_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, named: str
) -> None:
    assert main(fit(folder, "sft", "run", "--trainer.max_steps", "6")) == 0
    before = files(folder / "run")
    capsys.readouterr()
    assert main(fit(folder, "sft", "run", option, value)) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
    assert files(folder / "run") == before


def test_a_run_of_an_older_version_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "run" / "checkpoints" / "last.ckpt").touch()
    old = {"model": {"class_path": "SFTModule", "init_args": {"model": "nano", "micro_batches": 2}}}
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(old))
    assert main(fit(folder, "sft", "run")) == 1
    assert "run of an older version, model.micro_batches is gone" in capsys.readouterr().err


def test_options_that_decide_no_weights_may_change(folder: Path) -> None:
    assert main(fit(folder, "sft", "run")) == 0
    assert main(fit(folder, "sft", "run", "--model.sampler.slots", "3", "--trainer.log_every_n_steps", "7")) == 0


@pytest.mark.parametrize(("config", "seed"), [("sft", 0), ("mgpo", 1)])
def test_killed_at_random_moments_it_ends_with_the_same_weights(folder: Path, config: str, seed: int) -> None:
    def start(root: str) -> Any:
        return lambda: miniature.in_a_child(fit(folder, config, root, "--trainer.max_steps", "24"))

    assert miniature.kill_at_random(start("whole"), folder, times=0, seed=seed) == 0
    last = folder / "killed" / "checkpoints" / "last.ckpt"
    assert miniature.kill_at_random(start("killed"), last, times=3, seed=seed) == 0
    whole, killed = (miniature.weights(folder / run / "checkpoints/last") for run in ("whole", "killed"))
    begin = miniature.weights(Path(yaml.safe_load((folder / "sft.yaml").read_text())["model"]["init_args"]["model"]))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert not all(torch.equal(whole[name], begin[name]) for name in whole)
    choices = [(folder / run / "chosen.json").read_text() for run in ("whole", "killed")]
    assert choices[0] == choices[1]
    left = list((folder / "killed" / "checkpoints").iterdir())
    assert all((path / "model.safetensors").is_file() for path in left if path.is_dir())
    assert not [path for path in left if path.name.startswith(".") or "-v1" in path.name]


def test_print_config_shows_overrides_and_makes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--trainer.callbacks.monitor", "probe/geometry/pass@2", "--model.lora.rank", "4", "--print_config")
    assert main(fit(folder, "sft", "run", *options)) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["trainer"]["callbacks"][1]["init_args"]["monitor"] == "probe/geometry/pass@2"
    assert config["model"]["init_args"]["lora"]["rank"] == 4
    assert not (folder / "run").exists()


def test_debug_shows_where(folder: Path) -> None:
    with pytest.raises(ValueError, match="there is no such folder"):
        main([*fit(folder, "sft", "run", "--model.model", str(folder / "nosuch")), "--debug"])


K_99 = ["--trainer.callbacks.every_n_steps", "2", "--trainer.callbacks.k", "99"]
BAD = {
    "missing data file": (["--data.data", "{folder}/nosuch.jsonl"], 1, "nosuch.jsonl"),
    "empty data file": (["--data.data", "{folder}/empty.jsonl"], 1, "empty.jsonl: is empty"),
    "row without an answer": (["--data.data", "{folder}/unanswered.jsonl"], 1, "line 1, field 'answer'"),
    "unknown domain": (["--data.domain", "chemistry"], 1, "'chemistry'"),
    "K > n": (["--trainer.callbacks", "DiversityProbe", *K_99], 1, "k=99"),
    "no checkpoint folder": (["--model.model", "{folder}"], 1, "is not a checkpoint folder"),
    "no chat template": (["--model.model", "{folder}/plain"], 1, "has no chat template"),
    "longer than the context": (["--model.max_length", "4096"], 1, "max_length 4096"),
    "no horizon": (["--trainer.max_steps", "-1"], 1, "trainer.max_steps"),
    "no such option": (["--model.nosuch", "1"], 2, "'nosuch'"),
    "no number": (
        ["--model.optimizer.learning_rate", "abc"],
        2,
        "learning_rate: Expected a <class 'float'>. Got value: abc",
    ),
    "moved option": (["--model.learning_rate", "1"], 2, "model.learning_rate is now model.optimizer.learning_rate"),
    "gone option": (["--model.micro_batches", "8"], 2, "model.micro_batches is gone: packing.row_tokens bounds"),
    "moved option in a file": (["--config", "{folder}/old.yaml"], 2, "model.slots is now model.sampler.slots"),
    "accumulation": (
        ["--trainer.accumulate_grad_batches", "2"],
        1,
        "packing.row_tokens bounds the memory of an update",
    ),
    "no such class": (["--model", "NoModule"], 2, "there is no class NoModule"),
    "no such argument": (["--trainer.nosuch", "1"], 2, "--trainer.nosuch"),
    "no such config": (["--config", "{folder}/nosuch.yaml"], 2, "nosuch.yaml"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    folder: Path, tiny_model: str, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    (folder / "empty.jsonl").touch()
    old = {"model": {"class_path": "SFTModule", "init_args": {"model": tiny_model, "slots": 8}}}
    (folder / "old.yaml").write_text(yaml.safe_dump(old))
    row = json.dumps({"prompt": "What is 1 + 1?", "domain": "algebra"})
    (folder / "unanswered.jsonl").write_text(row)
    (folder / "plain").mkdir()
    for file in Path(tiny_model).iterdir():
        if file.name != "chat_template.jinja":
            (folder / "plain" / file.name).write_bytes(file.read_bytes())
    options, code, named = BAD[case]
    before = files(folder)
    assert main(fit(folder, "sft", "run", *(option.format(folder=folder) for option in options))) == code
    error = capsys.readouterr().err
    assert [line for line in error.splitlines() if line.startswith("vibethinker: ")] == error.splitlines()[-1:]
    assert named in error
    assert files(folder) == before


def test_a_failing_disk_leaves_the_last_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import resource

    assert main(fit(folder, "sft", "run", "--trainer.max_steps", "2")) == 0
    last = folder / "run" / "checkpoints" / "last.ckpt"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (last.stat().st_size // 2, limits[1]))
    try:
        assert main(fit(folder, "sft", "full", "--trainer.max_steps", "2")) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capsys.readouterr().err.splitlines()[-1].startswith("vibethinker: ")
    assert not list((folder / "full").rglob("*.ckpt"))


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.filterwarnings("ignore:predict hands completions")
def test_the_other_commands(tmp_path: Path, tiny_model: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = [
        "--model",
        "SFTModule",
        f"--model.model={tiny_model}",
        "--model.max_length=448",
        "--model.sampler.max_new_tokens=8",
    ]
    data = ["--data", "AlgebraDataModule", "--data.test_size", "2", "--data.val_size", "2", "--data.difficulty", "1"]
    assert main([command, *model, *data, "--trainer.accelerator", "cpu", "--model.instruction", ""]) == 0
    assert not list(tmp_path.iterdir())


def test_two_fits_in_one_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run").mkdir()
    lock = os.open(folder / "run", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert main(fit(folder, "sft", "run")) == 1
    os.close(lock)
    assert f"{folder}/run: another fit is running there" in capsys.readouterr().err
    assert not list((folder / "run").iterdir())


class Terminates(Callback):
    """As a scheduler that wants its machine back."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


class Interrupts(Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("callback", "code", "word"), [("Terminates", 143, "terminated"), ("Interrupts", 130, "interrupted")]
)
def test_a_fit_that_is_stopped_is_not_done(
    folder: Path, capsys: pytest.CaptureFixture[str], callback: str, code: int, word: str
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert main(fit(folder, "sft", "run", "--trainer.callbacks+", f"tests.cli.test_fit.{callback}")) == code
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
    assert capsys.readouterr().err.endswith(f"vibethinker: {word}\n")
    assert not (folder / "run" / "chosen.json").exists()


def test_a_fit_that_is_told_to_stop_saves_what_it_has(folder: Path) -> None:
    assert main(fit(folder, "sft", "run", "--trainer.callbacks+", "tests.cli.test_fit.Terminates")) == 143
    assert torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    for root in ("run", "whole"):
        assert main(fit(folder, "sft", root)) == 0
    last, whole = (load_file(folder / root / "checkpoints/last/model.safetensors") for root in ("run", "whole"))
    assert all(torch.equal(last[name], weight) for name, weight in whole.items())


def test_commands_that_would_come_to_nothing_say_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--config", str(folder / "sft.yaml"), "--trainer.limit_val_batches", "0"]) == 1
    assert "trainer.limit_val_batches is 0: there is nothing to validate" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="trainer.callbacks has no BasePredictionWriter"):
        assert main(["predict", "--config", str(folder / "sft.yaml"), "--data.test_size", "1"]) == 0


def test_a_dry_run_needs_neither_weights_nor_data_and_writes_nothing(
    folder: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "hollow").mkdir()
    for file in Path(tiny_model).iterdir():
        content = b"" if file.suffix == ".safetensors" else file.read_bytes()
        (folder / "hollow" / file.name).write_bytes(content)
    before = files(folder)
    options = ["--model.model", str(folder / "hollow"), "--model.lora.rank", "4", "--model.sampler.slots", "2"]
    assert main(fit(folder, "mgpo", "run", *options, "--dry_run")) == 0
    shown = capsys.readouterr().out
    assert "trained (" in shown
    assert "in rollouts, keys and values" in shown
    assert "\nfits into 16 GiB and more\n" in shown
    assert "on less gradient_checkpointing=auto recomputes activations: fits into 16 GiB" in shown
    assert main(fit(folder, "mgpo", "run", *options, "--dry_run", "16")) == 0
    assert "gradient_checkpointing off: updates take 0.0 GiB of 16.0 GiB" in capsys.readouterr().out
    assert main(fit(folder, "mgpo", "run", *options, "--dry_run", "0.0001")) == 0
    assert "gradient_checkpointing on: updates take 0.0 GiB of 0.0 GiB" in capsys.readouterr().out
    options += ["--model.gradient_checkpointing", "false", "--model.sampler.slots", "8"]  # so that updates take more
    assert main(fit(folder, "mgpo", "run", *options, "--dry_run", "0.0001")) == 0
    shown = capsys.readouterr().out
    assert "gradient_checkpointing=auto" not in shown
    assert "with model.gradient_checkpointing=true: " in shown
    assert "a smaller model" in shown
    assert files(folder) == before


def test_a_dry_run_checks_the_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(fit(folder, "mgpo", "run", "--model.sampler.max_new_tokens", "448", "--dry_run")) == 1
    assert "max_new_tokens 448 leaves no room" in capsys.readouterr().err


def test_epochs_give_the_horizon(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"{i} + 1?", "answer": str(i + 1), "solutions": [f"\\boxed{{{i + 1}}}"]} for i in range(10)
    ]
    rows[0]["solutions"] = ["long " * 200]  # left out: three steps of four in an epoch, not of ten problems but nine
    (tmp_path / "data").mkdir()
    for split, own in (("train", rows), ("probe", rows[5:6]), ("val", rows[6:7]), ("test", rows[7:8])):
        text = "\n".join(json.dumps({**row, "prompt": row["prompt"] + split}) for row in own)
        (tmp_path / "data" / f"{split}.jsonl").write_text(text)
    data = ["--data.data", str(tmp_path / "data"), "--data.max_unusable", "0.2", "--data.batch_size", "3"]
    epochs = ["--trainer.max_steps", "-1", "--trainer.max_epochs", "2", "--model.optimizer.min_learning_rate", "1e-4"]
    probe = ["--trainer.callbacks.init_args.every_n_train_steps", "2"]
    assert main(fit(folder, "sft", "run", *data, *epochs, *probe, "--trainer.limit_train_batches", "2")) == 1
    assert "max_epochs counts whole epochs" in capsys.readouterr().err
    assert main(fit(folder, "sft", "run", *data, *epochs, *probe)) == 0
    checkpoint = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=False)
    assert checkpoint["global_step"] == 6
    assert checkpoint["lr_schedulers"][0]["_last_lr"][0] == pytest.approx(1e-4)


def test_epochs_of_what_has_no_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(fit(folder, "sft", "run", "--trainer.max_steps", "-1", "--trainer.max_epochs", "2")) == 1
    assert "trainer.max_epochs needs a train set that ends" in capsys.readouterr().err


def test_prompts_that_leave_no_room_are_known_before_the_first_rollout(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "very " * 120 if i == 7 else f"{i} + 1?", "answer": "1"} for i in range(64)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = ["--data.data", str(folder / "rows.jsonl"), "--data.domain", "algebra", "--trainer.max_steps", "2"]
    assert main(fit(folder, "mgpo", "run", *data)) == 1
    assert "problem 'rows/8': prompt longer than max_length less max_new_tokens = 440" in capsys.readouterr().err
    with pytest.warns(UserWarning, match=r"1 of 48 problems cannot be used"):
        assert main(fit(folder, "mgpo", "run", *data, "--data.max_unusable", "0.05")) == 0
