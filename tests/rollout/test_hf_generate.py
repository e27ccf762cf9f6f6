"""Sampling through transformers' `generate` against the rollout engine."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from tests.rollout.test_engine import PROMPTS, random_model
from vibethinker.rollout import RolloutEngine, Sampling
from vibethinker.rollout.hf_generate import Completion, generate
from vibethinker.rollout.sampling_params import rollout_seeds

Completions = list[Completion]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    model = random_model("qwen2")
    model.set_attn_implementation("sdpa")
    return model


def completions(model: PreTrainedModel, sampling: Sampling, n: int = 3, slots: int = 64, **options: Any) -> Completions:
    stop = (0,) if sampling.stop_token_ids is None else sampling.stop_token_ids
    seeds = rollout_seeds(torch.arange(len(PROMPTS)) + 5, n)
    prompts = [torch.tensor(p) for p in PROMPTS]
    return generate(model, prompts, n, sampling, seeds, torch.tensor(stop, dtype=torch.long), slots, **options)


def assert_same(ours: Completions, theirs: Completions) -> None:
    assert [tokens.tolist() for tokens, *_ in ours] == [tokens.tolist() for tokens, *_ in theirs]
    for (_, *a, finished), (_, *b, finished_too) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
        assert finished == finished_too


@pytest.mark.parametrize("slots", [64, 4, 1])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "min_p": 0.01},
        {"stop_token_ids": (3, 9, 10)},
        {"stop_token_ids": ()},
        {"max_new_tokens": 1},
    ],
    ids=str,
)
def test_the_same_rollouts_as_the_engine(model: PreTrainedModel, settings: dict[str, Any], slots: int) -> None:
    sampling = Sampling(**{"max_new_tokens": 12, **settings})
    rollouts = RolloutEngine(random_model("qwen2"), max_length=64, slots=8).generate(PROMPTS, 3, sampling, seed=5)
    columns = (rollouts.completion_ids, rollouts.logprobs, rollouts.sampled_logprobs, rollouts.finished.tolist())
    assert_same(completions(model, sampling, slots=slots), list(zip(*columns, strict=True)))


def test_the_models_own_generation_settings_change_nothing(
    model: PreTrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    strict, sampling = copy.deepcopy(model), Sampling(max_new_tokens=12)
    settings = {
        "repetition_penalty": 5.0,
        "eos_token_id": [1, 2, 3],
        "min_new_tokens": 9,
        "top_k": 2,
        "do_sample": True,
    }
    strict.generation_config = own = GenerationConfig(**settings)
    with caplog.at_level(logging.WARNING, "transformers"):
        assert_same(completions(strict, sampling), completions(model, sampling))
    assert strict.generation_config is own
    assert not caplog.records


def test_a_sliding_window() -> None:
    """Long enough that the window has moved past the prompt; greedy draws are transformers' own."""
    window = random_model(
        "qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=0, attn_implementation="sdpa"
    )
    ours = completions(window, Sampling(temperature=0.0, max_new_tokens=12, stop_token_ids=()), n=1)
    for prompt, (tokens, *_) in zip(PROMPTS, ours, strict=True):
        alone: Any = window
        out = alone.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=None)
        stop = tokens.tolist().index(0) + 1 if 0 in tokens else 12  # the reference ends at the model's own stop token
        assert tokens[:stop].tolist() == out[0, len(prompt) :][:stop].tolist()
    sampled = completions(window, Sampling(max_new_tokens=12), slots=4)
    assert_same(sampled, completions(window, Sampling(max_new_tokens=12)))


def test_progress_and_nothing_to_sample(model: PreTrainedModel) -> None:
    calls: list[tuple[int, int]] = []
    completions(model, Sampling(max_new_tokens=2), slots=4, progress=lambda *call: calls.append(call))
    assert calls == [(4, 15), (8, 15), (12, 15), (15, 15)]
    none = torch.empty(0, dtype=torch.long)
    assert generate(model, [], 3, Sampling(), none, none, 4) == []


def test_nan_names_the_step() -> None:
    """The second batch of two starts with step 3."""
    broken: Any = random_model("qwen2", tie_word_embeddings=False, attn_implementation="sdpa")
    with torch.no_grad():
        broken.get_input_embeddings().weight[11] = torch.nan  # a token of the last prompt, and of no other
    saved, sampling = broken.generation_config, Sampling(temperature=0.0, max_new_tokens=2, stop_token_ids=())
    for slots, step in ((64, 1), (12, 3)):
        with pytest.raises(FloatingPointError, match=f"rollout: the model's logits are NaN at step {step}$"):
            completions(broken, sampling, slots=slots)
    assert broken.generation_config is saved
