"""Checkpoints and their Hugging Face folders: together, whole, and gone together."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support import quick
from vibethinker.callbacks import HuggingFaceExport
from vibethinker.training.checkpoint import FolderCheckpointIO, model_folder


@pytest.fixture
def writer(tiny_model: str) -> FolderCheckpointIO:
    return FolderCheckpointIO(quick.sft(tiny_model))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def state(step: int, **content: Any) -> dict[str, Any]:
    return {"global_step": step, **content}


def test_a_folder_beside_each_checkpoint_with_the_same_weights(tmp_path: Path, tiny_model: str) -> None:
    choice = quick.best(tmp_path, "algebra", save_top_k=-1, save_last=True)
    quick.fit(tmp_path, tiny_model, choice, max_steps=4)
    folder = tmp_path / "algebra"
    assert names(folder) == ["last", "last.ckpt", "step=2", "step=2.ckpt", "step=4", "step=4.ckpt"]
    for checkpoint in folder.glob("*.ckpt"):
        model = AutoModelForCausalLM.from_pretrained(model_folder(checkpoint))
        saved = torch.load(checkpoint, weights_only=False)["state_dict"]
        assert saved
        for name, weight in saved.items():
            assert torch.equal(model.state_dict()[name.removeprefix("policy.")], weight)
        assert AutoTokenizer.from_pretrained(model_folder(checkpoint)).chat_template
    # the last one and the best one of a step are one export
    assert (folder / "last" / "model.safetensors").samefile(folder / "step=4" / "model.safetensors")


def test_top_k_drops_both(tmp_path: Path, tiny_model: str) -> None:
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1)
    quick.fit(tmp_path, tiny_model, saved, max_steps=3)
    assert names(tmp_path) == ["probe.json", "step=3", "step=3.ckpt"]


def test_dropped_only_when_no_checkpoint_names_it_any_more(tmp_path: Path, writer: FolderCheckpointIO) -> None:
    best = tmp_path / "step=2.ckpt"
    writer.save_checkpoint(state(2), best)
    writer.remove_checkpoint(best)
    writer.save_checkpoint(state(4), tmp_path / "last.ckpt")
    assert best.is_file()
    assert model_folder(best).is_dir()
    writer.remove_pending()
    assert names(tmp_path) == ["last", "last.ckpt"]
    writer.remove_pending()


def test_saved_again_is_not_dropped(tmp_path: Path, writer: FolderCheckpointIO) -> None:
    path = tmp_path / "best.ckpt"
    writer.save_checkpoint(state(2), path)
    writer.remove_checkpoint(path)
    writer.save_checkpoint(state(4), path)
    writer.remove_pending()
    assert writer.load_checkpoint(path, weights_only=True)["global_step"] == 4


def test_a_failed_save_leaves_the_older_checkpoint(tmp_path: Path, writer: FolderCheckpointIO) -> None:
    path = tmp_path / "last.ckpt"
    writer.save_checkpoint(state(2), path)
    with pytest.raises(Exception, match="pickle"):
        writer.save_checkpoint(state(4, weight=torch.zeros(1000), broken=lambda: None), path)
    assert writer.load_checkpoint(path, weights_only=True)["global_step"] == 2
    assert names(tmp_path) == ["last", "last.ckpt"]


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, writer: FolderCheckpointIO) -> None:
    path = tmp_path / "last.ckpt"
    writer.save_checkpoint(state(2), path)
    (tmp_path / ".last.ckpt.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"no space left on the disk, nothing was written: .*last\.ckpt"):
        writer.save_checkpoint(state(2, weight=torch.zeros(1_000_000)), path)
    assert writer.load_checkpoint(path, weights_only=True)["global_step"] == 2
    assert names(tmp_path) == ["last", "last.ckpt"]


def test_killed_while_saving_there_is_a_whole_checkpoint(tmp_path: Path, writer: FolderCheckpointIO) -> None:
    """The weights tell which step they are of, so half of one and half of another would show."""
    path = tmp_path / "last.ckpt"
    writer.save_checkpoint(state(0, weight=torch.zeros(500_000)), path)
    rng, step = random.Random(0), 0
    for _ in range(6):
        before, child = path.stat().st_ino, os.fork()
        if child == 0:
            for later in range(step + 1, step + 1000):
                writer.save_checkpoint(state(later, weight=torch.full((500_000,), float(later))), path)
            os._exit(1)
        while path.stat().st_ino == before:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        checkpoint = writer.load_checkpoint(path, weights_only=True)
        assert (checkpoint["weight"] == checkpoint["global_step"]).all()
        assert checkpoint["global_step"] > step
        assert AutoModelForCausalLM.from_pretrained(model_folder(path))
        step = checkpoint["global_step"]
    writer.save_checkpoint(state(step + 1), path)
    assert names(tmp_path) == ["last", "last.ckpt"]


def test_a_folder_in_half_precision(tmp_path: Path, tiny_model: str) -> None:
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1)
    run = quick.trainer(tmp_path, HuggingFaceExport(dtype="bfloat16"), saved, max_steps=1)
    run.fit(quick.sft(tiny_model), datamodule=quick.data())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "step=1").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "int8"}, "dtype must be"), ({"dtype": "bfloat16", "adapter_only": True}, "leave dtype out")],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HuggingFaceExport(**options)


def test_refuses_an_adapter_alone_where_there_is_none(tmp_path: Path, tiny_model: str) -> None:
    run = quick.trainer(tmp_path, HuggingFaceExport(adapter_only=True))
    with pytest.raises(ValueError, match="adapter_only needs lora"):
        run.fit(quick.sft(tiny_model), datamodule=quick.data())


def test_refuses_a_place_it_cannot_write(tmp_path: Path, writer: FolderCheckpointIO) -> None:
    for path in ("s3://bucket/last.ckpt", str(tmp_path / "last")):
        with pytest.raises(ValueError, match=r"local files that end in \.ckpt"):
            writer.save_checkpoint(state(1), path)


def test_refuses_a_last_checkpoint_that_misses_later_choices(tmp_path: Path, tiny_model: str) -> None:
    checkpoints = [quick.best(tmp_path, "algebra", save_last=True), quick.best(tmp_path, "geometry")]
    with pytest.raises(ValueError, match="save_last belongs to the last ModelCheckpoint"):
        quick.fit(tmp_path, tiny_model, *checkpoints)


def test_refuses_another_writer(tmp_path: Path, tiny_model: str) -> None:
    with pytest.raises(ValueError, match="leave out AsyncCheckpointIO"):
        quick.fit(tmp_path, tiny_model, plugins=[AsyncCheckpointIO()])


def test_refuses_a_module_without_a_policy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a PolicyModule"):
        HuggingFaceExport().setup(quick.trainer(tmp_path), pl.LightningModule(), "fit")
