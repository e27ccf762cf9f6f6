"""A model architecture of one's own: any transformers class that attends through `AttentionInterface`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.support.fits import fit, grpo


class HalvedConfig(LlamaConfig):
    model_type = "halved_llama"


class HalvedForCausalLM(LlamaForCausalLM):
    """A Llama whose attention outputs are halved."""

    config_class = HalvedConfig

    def __init__(self, config: HalvedConfig) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            layer.self_attn.register_forward_hook(lambda module, args, out: (out[0] / 2, *out[1:]))


@pytest.fixture
def folder(tmp_path: Path, tiny_model: str) -> str:
    AutoConfig.register(HalvedConfig.model_type, HalvedConfig, exist_ok=True)
    AutoModelForCausalLM.register(HalvedConfig, HalvedForCausalLM, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    torch.manual_seed(0)
    HalvedForCausalLM(HalvedConfig(vocab_size=len(tokenizer), num_attention_heads=4, **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def test_it_is_sampled_and_trained_with_ratio_one(folder: str) -> None:
    (step,) = fit(grpo(folder), steps=1).steps
    assert step["train/ratio_mean"] == pytest.approx(1, abs=1e-4)  # rollout and training log-probs are the same
    assert step["train/gradient_norm"] > 0
