"""Sampling and grading: seeds, stop tokens, columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.support.models import load_model, load_tokenizer
from vibethinker import Problem
from vibethinker.evaluation.grading import GradedSamples, extract_answers, grade, sample
from vibethinker.rewards.base import as_verifier
from vibethinker.rollout import RolloutEngine, Sampling
from vibethinker.utils.seeding import stable_seed

PROBLEMS = [Problem(id=f"p{i}", domain=("algebra", "geometry")[i % 2], prompt="+" * i, answer="1") for i in range(4)]


def length(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    return [float(len(text) % 2) for text in completions]


@pytest.fixture(scope="module")
def engine(tiny_model: str) -> RolloutEngine:
    return RolloutEngine(load_model(tiny_model), max_length=64, slots=16)


def ask(engine: RolloutEngine, model: str, problems: list[Problem], **sampling: Any) -> GradedSamples:
    settings = Sampling(**{"max_new_tokens": 8, **sampling})
    seeds = [stable_seed(0, p.id) for p in problems]
    tokenizer = load_tokenizer(model)
    samples = sample(engine, tokenizer, problems, n=3, sampling=settings, seeds=seeds, instruction="")
    return grade(samples, as_verifier(length, "reward"))


def test_a_problem_s_samples_do_not_depend_on_its_neighbours(engine: RolloutEngine, tiny_model: str) -> None:
    together, alone = ask(engine, tiny_model, PROBLEMS), ask(engine, tiny_model, PROBLEMS[2:3])
    assert together.completions[together.group(2)] == alone.completions
    assert torch.equal(together.scores[2:3], alone.scores)
    assert together.scores.shape == together.lengths.shape == together.finished.shape == (4, 3)
    assert len(together.problem_of_each) == len(together.kinds) == len(together.logprobs) == 12


def test_no_problem_at_all(engine: RolloutEngine, tiny_model: str) -> None:
    assert ask(engine, tiny_model, []).scores.shape == (0, 3)


def test_a_prompt_that_leaves_no_room(engine: RolloutEngine, tiny_model: str) -> None:
    long = Problem(id="long", domain="algebra", prompt="+" * 60, answer="1", source="file.jsonl")
    with pytest.raises(ValueError, match=r"'long' \(file.jsonl\) has 63 tokens; max_length=64"):
        ask(engine, tiny_model, [PROBLEMS[0], long])


def test_the_tokenizers_end_ends_a_completion_whatever_the_models_own(tiny_model: str) -> None:
    model: Any = load_model(tiny_model)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [7, 9]
    with torch.no_grad():  # the end is by far the likeliest token: the tied head sees its own embedding
        model.get_input_embeddings().weight[0] = 3.0
        model.get_parameter("model.norm.weight").fill_(0.0)
    engine = RolloutEngine(model, max_length=64, slots=4)
    assert engine.stop_token_ids == (7, 9)
    samples = ask(engine, tiny_model, PROBLEMS[:1], temperature=0.0)
    assert samples.finished.all()
    assert (samples.lengths == 1).all()


def test_answers_are_read_from_the_texts() -> None:
    code = Problem(id="c", domain="code", prompt="?", tests=({"assert": "f()"},))
    texts = [r"\boxed{1} </think> \boxed{2}", "2", "```python\nx = 1\n```", r"\boxed{1}"]
    blank = torch.zeros(2, 2)
    samples = extract_answers(GradedSamples([PROBLEMS[0], code], 2, texts, blank.long(), blank.bool(), [0, 0]))
    assert samples.answers == ["2", None, None, None]
    assert samples.unboxed == [False, True, False, True]
