"""What a model's name stands for, and one line for each way in which its files can be wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.support.checkpoints import edit_json
from vibethinker import SFTModule
from vibethinker.models import loading as policy


def test_a_module_trains_beyond_the_context_of_its_config(tiny_model: str, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", model_max_length=512)
    with pytest.raises(ValueError, match=r"longer than the context of .*, 512 tokens; context_length extends it"):
        SFTModule(str(folder), max_length=1000, max_new_tokens=8)
    module = SFTModule(str(folder), max_length=1000, max_new_tokens=8, context_length=1024)
    assert module.engine.max_length == 1000
    out = module.export(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(out).model_max_length == 1024
    assert policy.context_length(str(out)) == 1024


def test_a_folder_that_is_no_checkpoint(tmp_path: Path, tiny_model: str) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        policy.locate(str(tmp_path))
    shutil.copy(Path(tiny_model) / "config.json", tmp_path)
    with pytest.raises(ValueError, match=r"no \*\.safetensors"):
        policy.locate(str(tmp_path))
    with pytest.raises(ValueError, match="there is no such folder"):
        policy.locate(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"intermediate_size": 99},
            r"mlp.down_proj.weight has shape \[32, 64\] in its files, \[32, 99\] by its config",
        ),
        ({"num_hidden_layers": 3, "layer_types": None}, r"its files have no model.layers.2.\S+ and \d+ more"),
        ({"num_hidden_layers": 3}, "`num_hidden_layers` .3. must be equal to the number of `layer_types`"),
        ({"model_type": "novel"}, "has model type `novel` but Transformers does not recognize"),
    ],
)
def test_weights_that_are_not_what_config_json_says(
    tiny_model: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        policy.load_policy(str(folder))
    assert "\n" not in str(caught.value)


def test_broken_files(tiny_model: str, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="cannot be loaded: Error while deserializing header"):
        policy.load_policy(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not a valid JSON file"):
        policy.load_policy(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"its folder has no tokenizer\.json"):
        policy.load_tokenizer(str(folder))


def test_a_hub_name_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for ask in (policy.context_length, policy.load_tokenizer, policy.load_policy):
        with pytest.raises(FileNotFoundError, match="'nobody/nothing' is neither a folder here nor found") as caught:
            ask("nobody/nothing")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_length": 0}, "context_length must be at least 1"),
        ({"rope_theta": -1.0}, "rope_theta: model .* cannot be -1.0"),
    ],
)
def test_contexts_that_cannot_be(tiny_model: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy.load_policy(tiny_model, **options)


def test_a_tokenizer_without_a_chat_template_or_an_end(tiny_model: str, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="eos_token"):
        policy.load_tokenizer(str(folder))
    for file in folder.glob("chat_template*"):
        file.unlink()
    with pytest.raises(ValueError, match="chat template"):
        policy.load_tokenizer(str(folder))
