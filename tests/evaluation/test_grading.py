"""Sampling and judging problems: seeds, stop tokens, tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.support.models import load_model, load_tokenizer
from vibethinker import Problem
from vibethinker.evaluation.grading import Judged, judge, stable_seed
from vibethinker.rewards.base import as_verifier
from vibethinker.rollout import RolloutEngine, Sampling

PROBLEMS = [Problem(id=f"p{i}", domain=("algebra", "geometry")[i % 2], prompt="+" * i, answer="1") for i in range(4)]


def length(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    return [float(len(text) % 2) for text in completions]


@pytest.fixture(scope="module")
def engine(tiny_model: str) -> RolloutEngine:
    return RolloutEngine(load_model(tiny_model), max_length=64, slots=16)


def ask(engine: RolloutEngine, model: str, problems: list[Problem], **sampling: Any) -> Judged:
    settings = Sampling(**{"max_new_tokens": 8, **sampling})
    seeds = [stable_seed(0, p.id) for p in problems]
    tokenizer = load_tokenizer(model)
    return judge(
        engine, tokenizer, problems, as_verifier(length, "reward"), n=3, sampling=settings, seeds=seeds, instruction=""
    )


def test_a_problem_is_judged_alike_in_any_company(engine: RolloutEngine, tiny_model: str) -> None:
    together, alone = ask(engine, tiny_model, PROBLEMS), ask(engine, tiny_model, PROBLEMS[2:3])
    assert together.texts(2) == alone.completions
    assert torch.equal(together.outcomes[2:3], alone.outcomes)
    assert together.outcomes.shape == together.lengths.shape == (4, 3)


def test_no_problem_at_all(engine: RolloutEngine, tiny_model: str) -> None:
    assert ask(engine, tiny_model, []).outcomes.shape == (0, 3)


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
    judged = ask(engine, tiny_model, PROBLEMS[:1], temperature=0.0)
    assert judged.rollouts.finished.all()
    assert (judged.lengths == 1).all()


def test_stable_seeds_depend_on_every_part() -> None:
    assert stable_seed(0, "a") == stable_seed(0, "a")
    assert len({stable_seed(*parts) for parts in ((0, "a"), (1, "a"), (0, "b"), ("0a",))}) == 4
    assert -(2**63) <= stable_seed("x") < 2**63
