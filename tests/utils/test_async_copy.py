"""What passes between host and device without either waiting."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from tests.support.fits import fit, sft
from vibethinker.utils.async_copy import Fetched, Stopwatch, moved

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


def busy(device: torch.device) -> None:
    """About a tenth of a second of work, for a GPU in the background."""
    if device.type == "cuda":
        torch.cuda._sleep(200_000_000)
    else:
        time.sleep(0.1)


def test_a_tensor_moves(device: torch.device) -> None:
    tensor = torch.arange(6)
    there = moved(tensor, device)
    assert there.device.type == device.type
    assert there.tolist() == tensor.tolist()
    assert moved(there, device) is there


def test_what_is_fetched_is_as_it_was(device: torch.device) -> None:
    tensor = torch.arange(6, device=device).requires_grad_(False)
    fetched = Fetched(tensor)
    tensor += 1
    assert fetched.get().device.type == "cpu"
    assert fetched.get().tolist() == [0, 1, 2, 3, 4, 5]


def test_a_gradient_does_not_come_along(device: torch.device) -> None:
    assert not Fetched(torch.ones(2, device=device, requires_grad=True)).get().requires_grad


def test_a_stopwatch_measures_the_device(device: torch.device) -> None:
    for _ in range(2):  # the first launch of a kernel takes its time
        stopwatch = Stopwatch(device)
        busy(device)
        stopwatch.stop()
        if device.type == "cuda":
            assert stopwatch.seconds is None
            torch.cuda.synchronize()
    seconds = stopwatch.seconds
    assert seconds is not None
    assert 0.05 < seconds < 1.0


@pytest.mark.gpu
def test_fetching_does_not_wait_for_what_comes_later() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    device = torch.device("cuda")
    tensor, after = torch.ones(3, device=device), torch.cuda.Event()
    fetched = Fetched(tensor)
    busy(device)
    after.record()
    assert fetched.get().tolist() == [1.0] * 3
    assert not after.query()


class _NoWaiting(Callback):
    """Makes every wait of the host for the device an error, from the second step on."""

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if trainer.global_step else "default")

    def on_train_batch_end(self, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_no_training_step_waits_for_the_device(tiny_model: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    module = sft(tiny_model, packing={"row_tokens": "auto"})
    try:
        recorder = fit(module, _NoWaiting(), steps=4, accelerator="gpu", precision="bf16-mixed", gradient_clip_val=1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [step["train/loss"] > 0 for step in recorder.steps] == [True] * 4
    assert recorder.steps[-1]["train/tokens_per_second"] > 0
