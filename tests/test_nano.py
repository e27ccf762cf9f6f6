"""The base model inside the package: small, loaded like any other, and half-educated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.nano_model import VOCABULARY, checkpoint_of, main, make_model, make_tokenizer
from tests.support.models import load_model, load_tokenizer
from vibethinker.datamodules import DomainDataModule
from vibethinker.datamodules.generators import DOMAINS, generate
from vibethinker.evaluation.grading import grade, sample
from vibethinker.models.prompts import prompt_ids
from vibethinker.models.source import ModelSource
from vibethinker.problems import Problem
from vibethinker.rewards import CodeReward, MathReward
from vibethinker.rollout import RolloutEngine, Sampling
from vibethinker.utils.seeding import stable_seed

pytestmark = pytest.mark.slow


def test_it_is_small() -> None:
    assert Path(ModelSource.of("nano").path, "model.safetensors").stat().st_size <= 4_000_000
    policy = load_model("nano")
    assert policy.num_parameters() <= 1_000_000
    assert policy.config.architectures == ["Qwen2ForCausalLM"]


def test_transformers_loads_it_like_any_folder() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ModelSource.of("nano").path)
    assert tokenizer.is_fast
    assert tokenizer.chat_template
    assert [tokenizer.decode([i]) for i in tokenizer.encode("12+345=357")] == [*"12+345=357"]
    assert tokenizer.decode(tokenizer.encode("Any text: ∑ é \\frac{1}{2}")) == "Any text: ∑ é \\frac{1}{2}"
    model: Any = AutoModelForCausalLM.from_pretrained(ModelSource.of("nano").path)
    prompt: Any = tokenizer.apply_chat_template(
        Problem("1", "algebra", "Find x if 2(x+3)=10.").messages(),
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=False,
    )
    answer = model.generate(prompt, max_new_tokens=96, do_sample=False)[0, prompt.shape[1] :]
    assert answer[-1] == tokenizer.eos_token_id
    assert "\\boxed{" in tokenizer.decode(answer)


def test_it_is_half_educated() -> None:
    """On the probe split: the test split is for results alone."""
    tokenizer = load_tokenizer("nano")
    engine = RolloutEngine(load_model("nano"), max_length=160, slots=512)
    for domain in DOMAINS:
        problems = list(DomainDataModule(domain, probe_size=64).problems("probe"))
        seeds = [stable_seed(0, p.id) for p in problems]
        with CodeReward() if domain == "code" else MathReward() as reward:
            samples = sample(engine, tokenizer, problems, n=4, sampling=Sampling(max_new_tokens=96), seeds=seeds)
        assert 0.2 <= grade(samples, reward).correct.float().mean() <= 0.6, domain


@pytest.fixture(scope="module")
def fresh() -> Any:
    return make_tokenizer(problems_per_domain=400)


def test_a_new_tokenizer_knows_every_domain(fresh: Any) -> None:
    assert len(fresh) <= VOCABULARY
    for domain in DOMAINS:
        problems = [generate(domain, "train", index) for index in range(300)]
        prompts = [len(ids) for ids in prompt_ids(fresh, problems)]
        solutions = [max(len(fresh.encode(text)) for text in problem.solutions) + 1 for problem in problems]
        assert max(map(sum, zip(prompts, solutions, strict=True))) <= 160, domain
        if domain == "code":
            assert (max(prompts), max(solutions)) <= (50, 45)
    program = "```python\ndef f(x):\n    if x>12:\n        return 3*x\n    return x-1\n```"
    assert fresh.decode(fresh.encode(program)) == program
    assert len(fresh.encode("```python\n")) <= 3


def test_a_new_model_is_small(fresh: Any, tmp_path: Path) -> None:
    model = make_model(fresh)
    assert model.num_parameters() <= 1_000_000
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size <= 4_000_000


def test_a_checkpoint_becomes_the_model_without_training(tmp_path: Path) -> None:
    for step in (50, 500, 1000):
        (tmp_path / "run" / "checkpoints" / f"step={step}").mkdir(parents=True)
        (tmp_path / "run" / "checkpoints" / f"step={step}" / "config.json").write_text(str(step))
    assert checkpoint_of(tmp_path / "run", None).name == "step=1000"
    assert main([str(tmp_path / "out"), "--root", str(tmp_path / "run"), "--step", "500"]) == 0
    assert (tmp_path / "out" / "config.json").read_text() == "500"
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 70; there are 50, 500, 1000"):
        checkpoint_of(tmp_path / "run", 70)
    with pytest.raises(FileNotFoundError, match="there are none"):
        checkpoint_of(tmp_path, None)
