"""Models with fused layers against transformers' own: the same log-probs, the same gradients."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from transformers import Qwen3Config

from tests.packed.test_patching import CONFIGS, ROW, assert_close, random_model, update
from tests.support.fits import fit, plain_grpo, weights
from vibethinker.memory.footprints import FusedFootprint, Ledger
from vibethinker.models.loading import with_checkpointing
from vibethinker.ops.train_layers import triton as layers
from vibethinker.packed.packing import pack
from vibethinker.packed.patching import fuse_

SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 88}
LARGE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 520, "vocab_size": 1000}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_fused_layers_are_the_same_layers(kind: Any, lora: bool, autocast: bool, device: str) -> None:
    model, row = random_model(kind, lora, **SMALL).to(device), ROW.to(device)
    if device == "cuda":
        parts = [torch.randint(0, 1000, (n,)) for n in (100, 7, 301, 250, 30, 77)]
        model, row = random_model(kind, lora, **LARGE).to(device), pack(parts[:3], parts[3:]).to(device)
    fused = copy.deepcopy(model)
    assert fuse_(fused, layers)
    assert_close(update(fused, row, autocast), update(model, row, autocast), 0.03 if autocast else 1e-3)
    assert update(random_model(kind, lora, **SMALL), ROW)["logp"].isfinite().all()  # a model made later is a plain one


@pytest.mark.parametrize("lora", [False, True])
def test_recomputed_and_in_half_precision(lora: bool, device: str) -> None:
    """A bfloat16 residual stream, as a frozen base has it; recomputation gives the very same gradients."""
    model = random_model(Qwen3Config, lora, **SMALL).to(device, torch.bfloat16)
    fused = copy.deepcopy(model)
    fuse_(fused, layers)
    recomputed = with_checkpointing(copy.deepcopy(fused))
    row = ROW.to(device)
    found, again = update(fused, row), update(recomputed, row)
    assert_close(found, update(model, row), 0.05)
    assert found.keys() == again.keys()
    if device == "cpu":  # on CUDA flash attention's backward adds in any order
        assert all(torch.equal(found[name], again[name]) for name in found)


@pytest.mark.parametrize("lora", [False, True])
def test_norms_that_are_frozen(lora: bool, device: str) -> None:
    model = random_model(Qwen3Config, lora, **SMALL).to(device)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.requires_grad_(False)
    fused = copy.deepcopy(model)
    fuse_(fused, layers)
    assert_close(update(fused, ROW.to(device)), update(model, ROW.to(device)), 1e-4)


class Unlaunched:
    """In the place of a kernel: takes its arguments, computes nothing."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **options: None


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_what_they_keep_is_what_an_estimate_counts(
    kind: Any, recomputed: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_add_norm", "_add_norm_backward", "_rotate", "_swiglu", "_swiglu_backward"):
        monkeypatch.setattr(layers, name, Unlaunched())
    parts, peaks = [torch.randint(0, 64, (n,)) for n in (100, 30)], []
    for kernels in (layers, FusedFootprint()):
        model = random_model(kind, **SMALL).to(device)
        fuse_(with_checkpointing(model) if recomputed else model, kernels)
        with Ledger() as ledger:
            update(model, pack(parts[:1], parts[1:]).to(device), autocast=True)
        peaks.append(ledger.peak)
    assert peaks[0] == pytest.approx(peaks[1], rel=0.05)


def test_a_fit(tiny_model: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policy, reference, several rows a step, recomputation: the same updates as on transformers' layers."""
    if device == "cuda":
        pytest.skip("fits of these tests run on a CPU")
    options: dict[str, Any] = {
        "optimizer": {"learning_rate": 0.3},
        "packing": {"row_tokens": 60},
        "gradient_checkpointing": True,
    }
    plain, fused = (plain_grpo(tiny_model, **options) for _ in range(2))
    steps = [fit(plain, steps=3).steps[-1]]
    monkeypatch.setattr("vibethinker.training.policy_module.fuse_", partial(fuse_, kernels=layers))
    steps.append(fit(fused, steps=3).steps[-1])
    assert "forward" in fused.policy.model.layers[0].__dict__
    assert steps[1]["train/gradient_norm"] == pytest.approx(steps[0]["train/gradient_norm"], rel=1e-4)
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weights(fused)[name], weight, atol=1e-5, rtol=1e-4)
