"""Architectures whose packed rows are their own, and those whose rows would be wrong without a word."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DogeConfig,
    FalconH1Config,
    GPT2Config,
    GPTJConfig,
    Lfm2Config,
    MixtralConfig,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedModel,
)

from tests.support.fits import fit, sft
from tests.support.models import load_model
from vibethinker.models.loading import Lora
from vibethinker.packed import attention
from vibethinker.packed.model_support import incompatibility
from vibethinker.rollout import RolloutEngine, Sampling

SHAPE: dict[str, Any] = {
    **{"vocab_size": 259, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128},
    **{"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": None},
}
MAMBA: dict[str, Any] = {
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
}
LIKE_OURS: dict[str, PreTrainedConfig] = {
    "olmo2": Olmo2Config(**SHAPE),
    "experts": MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "gpt2, which drops out": GPT2Config(
        vocab_size=259, n_embd=32, n_layer=2, n_head=4, n_positions=128, attn_pdrop=0.0, eos_token_id=0, pad_token_id=0
    ),
}
UNLIKE = {
    "convolutions between layers": (
        Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"]),
        "not all of its layers attend",
    ),
    "states beside attention": (FalconH1Config(**SHAPE, **MAMBA), "changes with the one before it"),
    "a mask of its own": (DogeConfig(**SHAPE, keep_window_size=4), "its log-probs here are not its own"),
}


def random_model(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim < 2), std=0.3)
    return model


def saved(config: PreTrainedConfig, folder: Path, tiny_model: str) -> str:
    """With the tokenizer of the tests."""
    random_model(config).save_pretrained(folder)
    for file in Path(tiny_model).glob("*token*"):
        shutil.copy(file, folder)
    shutil.copy(Path(tiny_model) / "chat_template.jinja", folder)
    return str(folder)


@pytest.mark.parametrize("name", LIKE_OURS)
def test_rows_of_a_model_that_mixes_tokens_by_attention_alone(name: str) -> None:
    model = random_model(LIKE_OURS[name]).train()
    assert incompatibility(model) is None
    assert all(module.training for module in model.modules())
    assert model.config._attn_implementation == attention.NAME


def test_an_adapter_over_one(tmp_path: Path, tiny_model: str) -> None:
    policy = load_model(saved(LIKE_OURS["olmo2"], tmp_path, tiny_model), lora=Lora(rank=2, dropout=0.5))
    assert incompatibility(policy) is None


@pytest.mark.parametrize("name", UNLIKE)
def test_what_else_mixes_tokens_is_found(name: str) -> None:
    config, reason = UNLIKE[name]
    assert reason in str(incompatibility(random_model(config)))


@pytest.mark.parametrize("name", UNLIKE)
def test_such_a_model_is_sampled_by_transformers_and_not_trained(name: str, tmp_path: Path, tiny_model: str) -> None:
    config, reason = UNLIKE[name]
    folder = saved(config, tmp_path, tiny_model)
    with pytest.warns(RuntimeWarning, match=reason):
        engine = RolloutEngine(load_model(folder, trainable=False), max_length=48, slots=4)
    rollouts = engine.generate([[5, 9, 30, 7], [11, 3]], 2, Sampling(max_new_tokens=8, stop_token_ids=()))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for prompt, ids, logp in zip(rollouts.prompt_ids, rollouts.completion_ids, rollouts.logprobs, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, ids])[None]).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
        torch.testing.assert_close(logp, expected, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match=f"cannot be trained in packed rows: .*{reason}"):
        fit(sft(folder))


def test_tables_of_attention_classes_have_no_room_for_ours(tmp_path: Path, tiny_model: str) -> None:
    config = GPTJConfig(vocab_size=259, n_embd=32, n_layer=1, n_head=4, rotary_dim=8)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not supported: its attention does not go through"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("options", [{}, {"base_dtype": "bfloat16", "lora": Lora(rank=2)}], ids=["full", "lora"])
def test_a_fit_in_bfloat16_of_a_family_that_is_tried(tmp_path: Path, tiny_model: str, options: dict[str, Any]) -> None:
    folder = saved(LIKE_OURS["olmo2"], tmp_path, tiny_model)
    assert len(fit(sft(folder, **options), precision="bf16-mixed").steps) == 2
