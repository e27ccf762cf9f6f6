"""What a model's name stands for, and one line for each way in which its files can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.support.checkpoints import edit_json
from tests.support.models import load_model, load_tokenizer
from vibethinker import SFTModule
from vibethinker.models.source import ModelSource
from vibethinker.training.options import Sampler

NANO = ModelSource.of("nano").path


def test_a_module_trains_beyond_the_context_of_its_config(tiny_model: str, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", model_max_length=512)
    with pytest.raises(ValueError, match=r"longer than the context of .*, 512 tokens; context_length extends it"):
        SFTModule(str(folder), max_length=1000, sampler=Sampler(max_new_tokens=8))
    module = SFTModule(str(folder), max_length=1000, sampler=Sampler(max_new_tokens=8), context_length=1024)
    assert module.engine.max_length == 1000
    out = module.export(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(out).model_max_length == 1024
    assert ModelSource.of(out).context_length == 1024


def test_a_folder_that_is_no_checkpoint(tmp_path: Path, tiny_model: str) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        ModelSource.of(str(tmp_path))
    shutil.copy(Path(tiny_model) / "config.json", tmp_path)
    with pytest.raises(ValueError, match=r"no \*\.safetensors"):
        ModelSource.of(str(tmp_path))
    with pytest.raises(ValueError, match="there is no such folder"):
        ModelSource.of(str(tmp_path / "missing"))


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
        load_model(str(folder))
    assert "\n" not in str(caught.value)


def test_broken_files(tiny_model: str, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="cannot be loaded: Error while deserializing header"):
        load_model(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"its folder has no tokenizer\.json"):
        load_tokenizer(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not a valid JSON file"):
        load_model(str(folder))


def test_a_hub_name_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for ask in (ModelSource.of, load_tokenizer, load_model):
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
        load_model(tiny_model, **options)


def test_a_tokenizer_without_a_chat_template_or_an_end(tiny_model: str, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="eos_token"):
        load_tokenizer(str(folder))
    for file in folder.glob("chat_template*"):
        file.unlink()
    with pytest.raises(ValueError, match="chat template"):
        load_tokenizer(str(folder))


def test_an_adapter_is_another_model_over_another_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a folder ../base of the working directory would come first
    shutil.copytree(NANO, tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "../base"})
    )
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    before = ModelSource.of(str(tmp_path / "adapter")).digest
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-4}))
    assert ModelSource.of(str(tmp_path / "adapter")).digest != before


def test_digests_tell_contents_apart(tmp_path: Path) -> None:
    assert ModelSource.of("nano").digest == ModelSource.of(NANO).digest
    for path in Path(NANO).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert ModelSource.of(str(tmp_path)).digest == ModelSource.of("nano").digest
    (tmp_path / "notes.md").write_text("nothing that samples depend on")
    assert ModelSource.of(str(tmp_path)).digest == ModelSource.of("nano").digest
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-4}))
    assert ModelSource.of(str(tmp_path)).digest != ModelSource.of("nano").digest
