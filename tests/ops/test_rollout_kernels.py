"""Rollouts through all kernels against rollouts through the references."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from vibethinker.ops.decode_attention import triton as attention_kernels
from vibethinker.ops.decode_state import triton as state_kernels
from vibethinker.ops.decoder_layers import triton as layer_kernels
from vibethinker.ops.sampling import triton as sampling_kernels
from vibethinker.packed.attention import NAME
from vibethinker.rollout import RolloutEngine, Rollouts, Sampling

KERNELS = {kernels.__name__: kernels for kernels in (attention_kernels, state_kernels, layer_kernels, sampling_kernels)}


def test_rollouts_are_those_of_the_references(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer slots than sequences: rows are admitted, harvested and moved."""
    torch.manual_seed(0)
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    config = Qwen3Config(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, tie_word_embeddings=True, **heads
    )
    model: Any = Qwen3ForCausalLM._from_config(config, attn_implementation=NAME).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.to(device)

    def rollouts(graphs: bool) -> Rollouts:
        engine = RolloutEngine(model, max_length=32, slots=5, dtype=torch.float32, graphs=graphs)
        params = Sampling(max_new_tokens=10, top_k=20, stop_token_ids=(0, 9, 10))
        return engine.generate([[5, 6, 7], [3], [5, 6, 7]], 4, params)

    monkeypatch.setattr("vibethinker.ops.import_module", lambda name: import_module(f"{name.rpartition('.')[0]}.torch"))
    expected = rollouts(graphs=False)
    monkeypatch.setattr("vibethinker.ops.import_module", lambda name: KERNELS[f"{name.rpartition('.')[0]}.triton"])
    ours = rollouts(graphs=True)
    assert [ids.tolist() for ids in ours.completion_ids] == [ids.tolist() for ids in expected.completion_ids]
    assert ours.finished.tolist() == expected.finished.tolist()
    assert len(set(ours.lengths.tolist())) > 1
    torch.testing.assert_close(torch.cat(ours.logprobs), torch.cat(expected.logprobs), atol=1e-4, rtol=0)
