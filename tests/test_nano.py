"""The base model inside the package: small, loaded like any other, and half-educated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from vibethinker.datamodules import DomainDataModule
from vibethinker.datamodules.generators import DOMAINS
from vibethinker.evaluation import judge, stable_seed, summarize
from vibethinker.policy import load_policy, load_tokenizer, locate
from vibethinker.problems import Problem
from vibethinker.rewards import MathReward
from vibethinker.rollout import RolloutEngine, Sampling


def test_it_is_small() -> None:
    assert Path(locate("nano"), "model.safetensors").stat().st_size <= 4_000_000
    policy = load_policy("nano")
    assert policy.num_parameters() <= 1_000_000
    assert policy.config.architectures == ["Qwen2ForCausalLM"]


def test_transformers_loads_it_like_any_folder() -> None:
    tokenizer = AutoTokenizer.from_pretrained(locate("nano"))
    assert tokenizer.is_fast
    assert tokenizer.chat_template
    assert [tokenizer.decode([i]) for i in tokenizer.encode("12+345=357")] == [*"12+345=357"]
    assert tokenizer.decode(tokenizer.encode("Any text: ∑ é \\frac{1}{2}")) == "Any text: ∑ é \\frac{1}{2}"
    model: Any = AutoModelForCausalLM.from_pretrained(locate("nano"))
    prompt: Any = tokenizer.apply_chat_template(
        Problem("1", "algebra", "Find x if 2(x+3)=10.").messages(),
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=False,
    )
    answer = model.generate(prompt, max_new_tokens=96, do_sample=False)[0, prompt.shape[1] :]
    assert answer[-1] == tokenizer.eos_token_id
    assert "\\boxed{" in tokenizer.decode(answer)


@pytest.mark.slow
def test_it_is_half_educated() -> None:
    """On the probe split: the test split is for results alone."""
    tokenizer = load_tokenizer("nano")
    problems = list(DomainDataModule(list(DOMAINS), probe_size=256).problems("probe"))
    engine = RolloutEngine(load_policy("nano"), max_length=160, slots=512)
    seeds = [stable_seed(0, p.id) for p in problems]
    judged = judge(engine, tokenizer, problems, MathReward(), n=4, sampling=Sampling(max_new_tokens=96), seeds=seeds)
    for row in summarize(judged, ks=[1]):
        assert 0.2 <= row["mean"] <= 0.6, row
