"""A Hugging Face folder beside each checkpoint."""

from __future__ import annotations

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
from vibethinker.training.checkpoint import model_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
