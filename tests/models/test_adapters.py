"""LoRA adapters alone: merged before averaging, as PEFT merges them, and refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.support.checkpoints import edit_json, listing, save_expert, weights_of
from vibethinker.fusion import fuse, stream

pytestmark = pytest.mark.slow


def save_adapter(folder: Path, base: Path, seed: int, **options: Any) -> Path:
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(**{"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"], **options}),
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(str(folder))
    return folder


def merged_by_peft(folder: Path, base: Path) -> dict[str, Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()


@pytest.mark.parametrize("elements", [7, 1 << 18])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "target_modules": "all-linear"},
        {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"q_proj": 11}},
        {"target_modules": ["embed_tokens", "v_proj"]},
        {"modules_to_save": ["lm_head"], "bias": "all"},
    ],
    ids=["plain", "rslora", "patterns", "embedding", "modules_to_save"],
)
def test_adapters_are_merged_before_averaging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], elements: int
) -> None:
    monkeypatch.setattr(stream, "_RANGE", elements)
    monkeypatch.setattr(stream, "_TASK", 5 * elements)
    base = save_expert(tmp_path / "base", 0, tied=False)
    adapters = [save_adapter(tmp_path / f"lora{i}", base, i, **options) for i in range(2)]
    full = save_expert(tmp_path / "full", 1, tied=False)
    record = fuse([*adapters, full], tmp_path / "out", weights=[0.5, 0.3, 0.2])
    one, two = (merged_by_peft(adapter, base) for adapter in adapters)
    three, fused = weights_of(full), weights_of(tmp_path / "out")
    assert fused.keys() == three.keys()
    for name in fused:
        expected = 0.5 * one[name].double() + 0.3 * two[name].double() + 0.2 * three[name].double()
        torch.testing.assert_close(fused[name].double(), expected, rtol=1e-6, atol=1e-6)
    assert str(adapters[0] / "adapter_model.safetensors") in record.hashes
    assert str(base / "model.safetensors") in record.hashes
    assert (tmp_path / "out" / "chat_template.jinja").is_file()
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_adapter_keeps_its_precision_over_a_bfloat16_base(tmp_path: Path) -> None:
    base = save_expert(tmp_path / "base", 0, dtype=torch.bfloat16)
    adapter = save_adapter(tmp_path / "lora", base, 1)
    edit_json(adapter / "adapter_config.json", base_model_name_or_path="../base")  # beside the adapter
    fuse([adapter], tmp_path / "out")
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(weights_of(tmp_path / "out")[name], merged_by_peft(adapter, base)[name])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora is set"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' also changes the base"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', only LORA"),
        (
            {"base_model_name_or_path": "/no/such/base"},
            "base_model_name_or_path '/no/such/base' is neither a folder nor",
        ),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is empty"),
    ],
)
def test_adapter_that_cannot_be_merged(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    base = save_expert(tmp_path / "base", 0)
    adapter = save_adapter(tmp_path / "lora", base, 1)
    edit_json(adapter / "adapter_config.json", **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=f"adapter_config.json: {message}"):
        fuse([adapter], tmp_path / "out")
    assert listing(tmp_path) == {"base", "lora"}


def test_adapter_of_a_tied_embedding_or_of_another_base(tmp_path: Path) -> None:
    tied, narrow = save_expert(tmp_path / "tied", 0), save_expert(tmp_path / "narrow", 0, intermediate_size=20)
    adapter = save_adapter(tmp_path / "lora", tied, 1, target_modules=["embed_tokens"])
    with pytest.raises(ValueError, match=r"embed_tokens.* changes a tied embedding"):
        fuse([adapter], tmp_path / "out")
    adapter = save_adapter(tmp_path / "lora", tied, 1)
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=str(narrow))
    with pytest.raises(ValueError, match=r"lora_A and lora_B of .*down_proj.weight do not fit its shape \(16, 20\)"):
        fuse([adapter], tmp_path / "out")
    edit_json(
        adapter / "adapter_config.json",
        base_model_name_or_path=str(save_expert(tmp_path / "s", 0, num_hidden_layers=1)),
    )
    with pytest.raises(ValueError, match=r"layers.1.* belongs to no tensor of the base"):
        fuse([adapter], tmp_path / "out")
    assert not (tmp_path / "out").exists()
