"""Experts that cannot be averaged are refused in one line before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.checkpoints import WORDS, edit_json, listing, rewrite, save_expert, tiny_model, weights_of
from vibethinker.fusion import fuse

Damage = Callable[[Path], object]


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
