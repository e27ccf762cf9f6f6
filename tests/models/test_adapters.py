from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.support.checkpoints import WORDS, edit_json, listing, rewrite, save_expert, tiny_model, weights_of
from vibethinker.fusion import average as fusion
from vibethinker.fusion import fuse

Damage = Callable[[Path], object]


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
    monkeypatch.setattr(fusion, "_RANGE", elements)
    monkeypatch.setattr(fusion, "_TASK", 5 * elements)
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


def lost_tensor(folder: Path) -> None:
    rewrite(folder, {name: tensor for name, tensor in weights_of(folder).items() if name != "model.norm.weight"})


def extra_tensor(folder: Path) -> None:
    rewrite(folder, {**weights_of(folder), "value_head.weight": torch.ones(3)})


def other_shape(folder: Path) -> None:
    rewrite(folder, {**weights_of(folder), "model.norm.weight": torch.ones(17)})


def integer_weight(folder: Path) -> None:
    rewrite(folder, {**weights_of(folder), "model.norm.weight": torch.ones(16, dtype=torch.int32)})


def untied_head(folder: Path) -> None:
    tensors = weights_of(folder)
    rewrite(folder, {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1})


def other_words(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {**WORDS, "three": 3, "two": 4}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lost_shard(folder: Path) -> None:
    tiny_model(1).save_pretrained(folder, max_shard_size="4KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    next(folder.glob("model-00002*")).unlink()


def lfs_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def changed_config(**changes: Any) -> Damage:
    return lambda folder: edit_json(folder / "config.json", **changes)


def removed(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lost_tensor, "1: no tensor model.norm.weight, which .*0 has"),
        (extra_tensor, "0: no tensor value_head.weight, which .*1 has"),
        (other_shape, r"1: model.norm.weight has shape \(17,\), .*0 has \(16,\)"),
        (integer_weight, "1: model.norm.weight is torch.int32, .*0 has torch.float32"),
        (untied_head, "1: tie_word_embeddings is true, but lm_head.weight equals no embedding"),
        (
            changed_config(architectures=["LlamaForCausalLM"]),
            r"1: config.json has architectures \['LlamaForCausalLM'\]",
        ),
        (changed_config(model_type="llama"), "1: config.json has model_type 'llama', .*0 has 'qwen2'"),
        (changed_config(vocab_size=38), "1: config.json has vocab_size 38, .*0 has 37"),
        (changed_config(rope_parameters={"rope_theta": 5.0}), "1: config.json has rope_parameters"),
        (changed_config(quantization_config={"bits": 4}), "1: config.json has quantization_config"),
        (other_words, "1/tokenizer.json: its vocabulary is not that of .*0/tokenizer.json"),
        (only_pickle, "1: only pytorch_model.bin; convert to safetensors"),
        (lost_shard, "model-00002-of-.* missing"),
        (lfs_pointer, "1/model.safetensors: not a safetensors file"),
        (removed("model.safetensors"), "1: not a checkpoint"),
        (removed("config.json"), "1/config.json: missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "1/config.json: not JSON"),
        (lambda folder: folder.rename(folder.with_name("moved")), "1: no such folder"),
    ],
)
def test_experts_that_do_not_fit_are_refused_before_anything_is_written(
    tmp_path: Path, damage: Damage, message: str
) -> None:
    folders = [save_expert(tmp_path / str(i), i) for i in range(2)]
    damage(folders[1])
    before = listing(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        fuse(folders, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert listing(tmp_path) == before


def test_bookkeeping_may_differ(tmp_path: Path) -> None:
    folders = [save_expert(tmp_path / str(i), i) for i in range(2)]
    edit_json(folders[1] / "config.json", transformers_version="4.0", use_cache=False, dtype="bfloat16", eos_token_id=9)
    edit_json(folders[1] / "tokenizer.json", truncation=None, comment="same words")
    fuse(folders, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == json.loads(
        (folders[0] / "config.json").read_text()
    )
