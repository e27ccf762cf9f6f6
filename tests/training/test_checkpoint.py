"""Checkpoints and their Hugging Face folders: written whole, and removed together."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support import quick
from vibethinker.training.checkpoint import FolderCheckpointIO, model_folder


@pytest.fixture
def writer(tiny_model: str) -> FolderCheckpointIO:
    return FolderCheckpointIO(quick.sft(tiny_model))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def state(step: int, **content: Any) -> dict[str, Any]:
    return {"global_step": step, **content}


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


def test_refuses_a_place_it_cannot_write(tmp_path: Path, writer: FolderCheckpointIO) -> None:
    for path in ("s3://bucket/last.ckpt", str(tmp_path / "last")):
        with pytest.raises(ValueError, match=r"local files that end in \.ckpt"):
            writer.save_checkpoint(state(1), path)
