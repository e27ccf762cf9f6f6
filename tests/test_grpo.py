"""The signal phase through Lightning against GRPO written out slowly: padded batches, transformers' own forward."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from tests.support.fits import (
    PROBLEMS,
    SHAPED,
    PlainGRPO,
    assert_same_weights,
    fit,
    grpo,
    hopeless,
    length,
    odd,
    odd_in_front,
    plain_grpo,
    weights,
)
from vibethinker import Problem
from vibethinker.evaluation.grading import GradedSamples
from vibethinker.models.loading import Lora
from vibethinker.models.reference import AdapterOff, FrozenCopy
from vibethinker.rewards import CompositeReward, MathReward, Part

NOT_A_REWARD: Any = len
LOGGED = {
    *("train/loss", "train/kl", "train/reward", "train/pass_rate", "train/entropy", "train/entropy_weight"),
    *("train/ratio_mean", "train/clip_fraction", "train/tokens_per_second"),
    *("train/reward/outcome", "train/reward/kl", "reward/timeouts", "reward/crashes", "reward/seconds"),
    *("rollout/length", "rollout/truncated", "rollout/dead_groups", "rollout/tokens_per_second", "rollout/seconds"),
    "rollout/sync_seconds",
}


# A slow GRPO


def padded_logprobs(model: Any, judged: GradedSamples, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs [P·G, L] of the completions and which of them are real, from one right-padded batch."""
    whole = [torch.cat([p, c]) for p, c in zip(judged.prompt_ids, judged.completion_ids, strict=True)]
    ids = pad_sequence(whole, batch_first=True)
    mask = pad_sequence([torch.ones_like(w) for w in whole], batch_first=True)
    logp = (model(ids, attention_mask=mask).logits[:, :-1] / temperature).log_softmax(-1)
    logp = logp.gather(-1, ids[:, 1:, None])[..., 0]
    real = torch.zeros_like(logp)
    for i, (prompt, completion) in enumerate(zip(judged.prompt_ids, judged.completion_ids, strict=True)):
        real[i, len(prompt) - 1 : len(prompt) + len(completion) - 1] = 1.0
    return logp, real


def slow_advantages(judged: GradedSamples, old: Tensor, ref: Tensor, real: Tensor, module: PlainGRPO) -> list[float]:
    """Rollout by rollout, in plain Python; `nan` marks the rollouts of dead groups."""
    advantages, size = [], module.group_size
    penalty = ((old - ref) * real).sum(1) / (real.sum(1) if module.kl.reduction == "mean" else 1.0)
    for group in range(len(judged.problems)):
        outcomes = judged.scores[group].tolist()
        if len(set(outcomes)) == 1:
            advantages += [math.nan] * size
            continue
        kl = penalty[group * size : (group + 1) * size].tolist()
        rewards = [o - module.kl.coefficient * k for o, k in zip(outcomes, kl, strict=True)]
        mean, p = sum(rewards) / size, sum(outcomes) / size
        deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (size - 1))
        weight = math.exp(-module.objective.sharpness * (math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p)))
        advantages += [weight * (r - mean) / (deviation + 1e-6) for r in rewards]
    return advantages


def slow_loss(logp: Tensor, old: Tensor, real: Tensor, advantages: list[float], module: PlainGRPO) -> Tensor:
    ratio = (logp - old).exp()
    clipped = ratio.clamp(1 - module.objective.epsilon_low, 1 + module.objective.epsilon_high)
    alive = [i for i, a in enumerate(advantages) if not math.isnan(a)]
    sums = {i: (-torch.minimum(ratio[i] * advantages[i], clipped[i] * advantages[i]) * real[i]).sum() for i in alive}
    if module.objective.aggregation == "sequence":
        return sum((s / real[i].sum() for i, s in sums.items()), torch.tensor(0.0)) / len(alive)
    tokens = (
        real[alive].sum() if module.objective.aggregation == "token" else len(alive) * module.sampling.max_new_tokens
    )
    return sum(sums.values(), torch.tensor(0.0)) / tokens


def slow_fit(model: str, module: PlainGRPO) -> dict[str, Tensor]:
    """The updates that `module` made, from its rollouts' tokens, log-probs and outcomes alone."""
    policy, reference = (AutoModelForCausalLM.from_pretrained(model) for _ in range(2))
    optimizer = torch.optim.SGD(policy.parameters(), lr=module.optimizer.learning_rate)
    for judged in module.judged:
        with torch.no_grad():
            ref, real = padded_logprobs(reference, judged, module.temperature)
        old = torch.zeros_like(ref)
        for row, mask, captured in zip(old, real, judged.logprobs, strict=True):
            row[mask.bool()] = captured
        advantages = slow_advantages(judged, old, ref, real, module)
        for _ in range(module.updates_per_rollout):
            logp, _ = padded_logprobs(policy, judged, module.temperature)
            optimizer.zero_grad()
            slow_loss(logp, old, real, advantages, module).backward()
            optimizer.step()
    return {name: p.data for name, p in policy.named_parameters()}


@pytest.mark.parametrize(
    "options",
    [
        {"objective": {"sharpness": 0.0}},  # plain GRPO
        {"objective": {"sharpness": 2.0}, "reward": odd_in_front, "packing": {"row_tokens": 80}},
        {
            "objective": {"aggregation": "token"},
            "sampler": {"temperature": 0.8},
            "kl": {"coefficient": 0.3, "reduction": "sum"},
            "packing": {"row_tokens": 50},
        },
        {
            "objective": {"aggregation": "constant", "epsilon_low": 0.02, "epsilon_high": 0.03},
            "updates_per_rollout": 2,
        },
    ],
    ids=["grpo", "mgpo-dead-groups", "token-temperature", "constant-two-updates"],
)
def test_updates_against_a_slow_implementation(tiny_model: str, options: dict[str, Any]) -> None:
    module = plain_grpo(tiny_model, **{"optimizer": {"learning_rate": 0.5}, "kl": {"coefficient": 0.3}, **options})
    start = weights(module)
    steps = fit(module, steps=4).steps
    assert len(module.judged) == 4 // module.updates_per_rollout
    expected = slow_fit(tiny_model, module)
    assert max((expected[n] - start[n]).abs().max() for n in start) > 1e-3
    for name, weight in weights(module).items():
        torch.testing.assert_close(weight, expected[name], atol=2e-5, rtol=1e-4)
    assert any(s["train/clip_fraction"] > 0 for s in steps) == (module.updates_per_rollout == 2)
    assert any(abs(s["train/kl"]) > 1e-4 for s in steps)


# The ratio, the reference, dead groups


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_ratio_is_one_on_the_first_update(tiny_model: str, temperature: float) -> None:
    steps = fit(
        grpo(
            tiny_model,
            sampler={"temperature": temperature},
            optimizer={"learning_rate": 5e-3},
            updates_per_rollout=2,
        ),
        steps=4,
    ).steps
    for first, second in (steps[:2], steps[2:]):
        assert first["train/ratio_mean"] == pytest.approx(1.0, abs=1e-4)
        assert first["train/clip_fraction"] == 0.0
        assert abs(second["train/ratio_mean"] - 1.0) > 1e-4


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_the_reference_stays_while_the_policy_moves(tiny_model: str, lora: Lora | None) -> None:
    module = grpo(tiny_model, lora=lora, kl={"reference": "copy"}, optimizer={"learning_rate": 3e-2})
    assert isinstance(module.reference, FrozenCopy)
    before = {n: p.clone() for n, p in module.reference.model.named_parameters()}
    policy = weights(module)
    steps = fit(module, steps=3).steps
    assert_same_weights({n: p.detach() for n, p in module.reference.model.named_parameters()}, before)
    assert any(not torch.equal(weights(module)[n], policy[n]) for n in policy)
    assert steps[0]["train/kl"] == pytest.approx(0.0, abs=1e-5)
    assert steps[2]["train/kl"] != pytest.approx(0.0, abs=1e-4)
    assert not any("reference" in name or "engine" in name for name, _ in module.named_parameters())


def test_an_adapter_off_reference_trains_as_a_frozen_copy(tiny_model: str) -> None:
    results = []
    for reference in ("copy", "adapter_off", "auto"):
        torch.manual_seed(0)
        module = plain_grpo(tiny_model, lora=Lora(rank=4), kl={"reference": reference, "coefficient": 1.0})
        results.append((fit(module, steps=3).steps[-1]["train/kl"], weights(module)))
    assert isinstance(module.reference, AdapterOff)
    for kl, final in results[1:]:
        assert kl == pytest.approx(results[0][0], abs=1e-6)
        for name, weight in final.items():
            torch.testing.assert_close(weight, results[0][1][name], atol=1e-5, rtol=0)


def test_no_coefficient_no_reference(tiny_model: str) -> None:
    module = grpo(tiny_model, kl={"coefficient": 0.0})
    assert module.reference is None
    assert "train/kl" not in fit(module).steps[-1]


def test_dead_groups_alone_give_exactly_no_gradient(tiny_model: str) -> None:
    module = plain_grpo(tiny_model, reward=hopeless, optimizer={"learning_rate": 1e3}, kl={"coefficient": 1.0})
    before = weights(module)
    steps = fit(module).steps
    assert_same_weights(weights(module), before)
    assert steps[-1]["rollout/dead_groups"] == 4
    assert steps[-1]["train/loss"] == 0.0


def test_dead_groups_leave_the_denominators(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups of four are dead: the update is the one that the other two give alone."""
    mixed, alone = (plain_grpo(tiny_model, group_size=12, reward=reward) for reward in (odd_in_front, odd))
    recorded = fit(mixed, steps=1).steps[0]
    assert recorded["rollout/dead_groups"] == 2
    judged = mixed.judged[0]
    rows = mixed.group_size * 2
    columns = {"completions": rows, "prompt_ids": rows, "completion_ids": rows, "logprobs": rows}
    columns |= dict.fromkeys(("problems", "seeds", "lengths", "finished", "scores"), 2)
    half_judged = replace(judged, **{name: getattr(judged, name)[:end] for name, end in columns.items()})
    monkeypatch.setattr(alone, "rollout", lambda problems: (half_judged, {}))
    fit(alone, steps=1)
    for name, weight in weights(mixed).items():
        torch.testing.assert_close(weight, weights(alone)[name], atol=1e-7, rtol=1e-5)


def test_long2short_prefers_the_short(tiny_model: str) -> None:
    plain, short = (plain_grpo(tiny_model, objective={"long2short": c}, kl={"coefficient": 0.0}) for c in (0.0, 0.4))
    figures = [fit(module, steps=1).steps[0] for module in (plain, short)]
    assert figures[0]["train/reward"] == pytest.approx(figures[1]["train/reward"], abs=1e-6)  # it sums to zero
    assert any(not torch.equal(w, weights(short)[n]) for n, w in weights(plain).items())


# Shaping


def test_terms_by_hand(tiny_model: str) -> None:
    """What is optimised is their sum; what the weights and the pass rate are made of is the outcome."""
    module = plain_grpo(
        tiny_model,
        shaping=SHAPED["shaping"],
        objective={**SHAPED["objective"], "overlong_penalty": 0.5, "sharpness": 3.0},
        kl={"coefficient": 2.0},
    )
    figures = fit(module, steps=1).steps[0]
    (judged,) = module.judged
    outcome, size = judged.scores, module.group_size
    each = {"outcome": outcome, "length": 0.1 * torch.tensor([float(len(t)) for t in judged.completions]).view(4, size)}
    each["overlong"] = -0.5 * ((judged.lengths - 4) / 6).clamp(0, 1)  # of 10 tokens the last 6
    for name, term in each.items():
        assert figures[f"train/reward/{name}"] == pytest.approx(term.mean().item(), abs=1e-6)
    assert figures["train/reward/long2short"] == pytest.approx(0.0, abs=1e-6)
    assert figures["train/reward/kl"] == pytest.approx(-2.0 * figures["train/kl"])
    parts = [value for name, value in figures.items() if name.startswith("train/reward/")]
    assert len(parts) == 5
    assert figures["train/reward"] == pytest.approx(sum(parts), abs=1e-6)
    assert figures["train/pass_rate"] == pytest.approx(outcome.mean().item())
    p = outcome.mean(-1).tolist()
    weight = [math.exp(-3 * (math.log(2) + sum(x * math.log(x) for x in (q, 1 - q) if x))) for q in p]
    assert figures["train/entropy_weight"] == pytest.approx(sum(weight) / 4, abs=1e-6)


def test_shaping_moves_advantages_within_a_group(tiny_model: str) -> None:
    plain, shaped = plain_grpo(tiny_model), plain_grpo(tiny_model, shaping={"length": Part(length, 0.1)})
    for module in (plain, shaped):
        fit(module, steps=1)
    assert torch.equal(plain.judged[0].scores, shaped.judged[0].scores)
    assert any(not torch.equal(w, weights(shaped)[n]) for n, w in weights(plain).items())


def test_no_shaping_wakes_a_dead_group(tiny_model: str) -> None:
    module = plain_grpo(
        tiny_model, reward=hopeless, optimizer={"learning_rate": 1e3}, kl={"coefficient": 1.0}, **SHAPED
    )
    before = weights(module)
    steps = fit(module).steps
    assert_same_weights(weights(module), before)
    assert steps[-1]["rollout/dead_groups"] == 4
    assert steps[-1]["train/loss"] == 0.0
    assert steps[-1]["train/reward/length"] > 0


class GivesUp(MathReward):
    """Counts one answer more at every call."""

    given_up = 0

    @property
    def timeouts(self) -> int:
        return self.given_up

    def __call__(self, problems: Any, completions: Any) -> list[float]:
        self.given_up += 1
        return odd(problems, completions)


def test_the_speed_of_sampling_is_not_the_reward_s(tiny_model: str) -> None:
    def slow(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        time.sleep(1.0)
        return odd(problems, completions)

    (step,) = fit(grpo(tiny_model, reward=slow), steps=1).steps
    tokens = 24 * step["rollout/length"]
    assert step["rollout/seconds"] > 1.0
    assert tokens / step["rollout/tokens_per_second"] < step["rollout/seconds"] - 0.9


def test_what_a_reward_counts_is_logged_by_step(tiny_model: str) -> None:
    steps = fit(grpo(tiny_model, reward=GivesUp())).steps
    assert [step["reward/timeouts"] for step in steps] == [1.0, 1.0]
    assert [step["reward/crashes"] for step in steps] == [0.0, 0.0]
    assert steps[0]["reward/seconds"] < steps[0]["rollout/seconds"]
    composite = CompositeReward({"odd": Part(odd, 3.0), "none": Part(hopeless)})
    module = plain_grpo(tiny_model, reward=composite)
    figures = fit(module, steps=1).steps[0]
    assert set(module.judged[0].scores.unique().tolist()) <= {0.0, 0.75}
    assert figures["train/reward/outcome"] == pytest.approx(0.75 * figures["train/reward/outcome/odd"])
    assert figures["train/reward/outcome/none"] == 0.0


# Figures


@pytest.mark.parametrize("log_every_n_steps", [1, 2])
def test_every_figure_is_logged(tiny_model: str, tmp_path: Path, log_every_n_steps: int) -> None:
    """Also the figures of a rollout whose second update is the one that is logged."""
    logger = TensorBoardLogger(tmp_path, name="", version="")
    module = plain_grpo(tiny_model, updates_per_rollout=2)
    with pytest.warns(RuntimeWarning, match="cut at max_new_tokens=10"):
        fit(module, steps=4, logger=logger, log_every_n_steps=log_every_n_steps)
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    scalars = {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars.keys() >= LOGGED
    assert {tag: len(scalars[tag]) for tag in LOGGED} == dict.fromkeys(LOGGED, 4 // log_every_n_steps)
    last = module.judged[-1]
    lengths = last.lengths.float()
    assert scalars["rollout/length"][-1] == pytest.approx(lengths.mean().item())
    assert scalars["rollout/truncated"][-1] == pytest.approx(1 - last.finished.float().mean().item())
    assert scalars["train/pass_rate"][-1] == pytest.approx(last.scores.mean().item())
    reward = last.scores.mean().item() - module.kl.coefficient * scalars["train/kl"][-1]
    assert scalars["train/reward"][-1] == pytest.approx(reward, abs=1e-6)
    assert 0.25 <= scalars["train/entropy_weight"][-1] <= 1.0
    assert scalars["train/entropy"][0] == pytest.approx(math.log(259), abs=0.1)
    (text,) = (tag for tag in events.Tags()["tensors"] if tag.startswith("rollout/completions"))
    content = events.Tensors(text)[0].tensor_proto.string_val[0].decode()
    assert PROBLEMS[0].answer in content
    assert content.count("```") == 8  # four completions


def test_the_truncated_surrogate_counts_what_it_caps(tiny_model: str) -> None:
    options: dict[str, Any] = {"updates_per_rollout": 3, "optimizer": {"learning_rate": 3e-2}}
    capped = fit(
        grpo(tiny_model, objective={"surrogate": "truncated", "importance_cap": 1.0}, **options), steps=3
    ).steps[-1]["train/clip_fraction"]
    loose = fit(
        grpo(tiny_model, objective={"surrogate": "truncated", "importance_cap": 1e6}, **options), steps=3
    ).steps[-1]["train/clip_fraction"]
    assert capped > 0.2
    assert loose == 0.0


# Precision and quantization


def test_bfloat16_autocast(tiny_model: str) -> None:
    """The reference is run under autocast as well, so that its rounding is the policy's."""
    steps = fit(grpo(tiny_model, lora=Lora(rank=4)), precision="bf16-mixed", steps=1).steps
    assert steps[0]["train/ratio_mean"] == pytest.approx(1.0, abs=0.02)
    assert steps[0]["train/kl"] == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("reference", ["adapter_off", "copy"])
def test_a_quantized_policy(tiny_model: str, bits: str, reference: str) -> None:
    """The replica samples from the very weights that are trained; 8 bits also round what goes into a layer."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    torch.manual_seed(0)
    options: Any = {"quantization": bits, "kl": {"reference": reference, "estimator": "k3"}}  # which is never negative
    steps = fit(grpo(tiny_model, lora=Lora(rank=4), optimizer={"learning_rate": 2e-2}, **options), steps=3).steps
    tolerance = 1e-4 if bits == "4bit" else 0.02
    assert [s["train/ratio_mean"] for s in steps] == pytest.approx([1.0] * 3, abs=tolerance)
    assert steps[0]["train/kl"] == pytest.approx(0.0, abs=1e-6)
    assert steps[2]["train/kl"] > 1e-3


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 1}, "group_size"),
        ({"log_completions_every_n_steps": -1}, "log_completions_every_n_steps must be at least 0"),
        ({"updates_per_rollout": 0}, "updates_per_rollout"),
        ({"sampler": {"temperature": 0.0}}, "temperature"),
        ({"kl": {"coefficient": -1.0}}, r"kl\.coefficient"),
        ({"objective": {"target_pass_rate": 1.0}}, "target"),
        ({"objective": {"sharpness": -1.0}}, "sharpness"),
        ({"lora": Lora(dropout=0.1)}, "dropout"),
        ({"kl": {"reference": "adapter_off"}}, "adapter_off"),
        ({"objective": {"overlong_buffer": 11}}, "overlong_buffer must be 0 to max_new_tokens=10, got 11"),
        ({"objective": {"overlong_penalty": -1.0}}, "overlong_penalty"),
        ({"shaping": {"kl": Part(length)}}, "shaping: 'kl'"),
        ({"shaping": {"length": Part(length, math.nan)}}, r"shaping\.length\.weight"),
        ({"shaping": {"length": Part(NOT_A_REWARD)}}, r"shaping\.length\.reward: len is not called"),
        ({"reward": len}, "reward: len is not called"),
    ],
)
def test_options_that_cannot_be(tiny_model: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grpo(tiny_model, **options)


def test_a_prompt_that_leaves_no_room_names_its_problem(tiny_model: str) -> None:
    with pytest.raises(ValueError, match=r"problem 'p\d' .* max_length=12 less max_new_tokens=8 leaves 4"):
        fit(grpo(tiny_model, max_length=12, sampler={"max_new_tokens": 8}))


def test_a_reward_that_is_no_outcome_is_refused(tiny_model: str) -> None:
    with pytest.raises(ValueError, match=r"reward: length gave \d+ for problem 'p\d', an outcome lies in \[0, 1\]"):
        fit(grpo(tiny_model, reward=length))
    with pytest.raises(ValueError, match=r"shaping\.nan: <lambda> gave nan for problem"):
        fit(grpo(tiny_model, shaping={"nan": Part(lambda problems, completions: [math.nan] * len(completions))}))
    with pytest.raises(ValueError, match=r"shaping\.short: <lambda> gave 1 values for 24 completions"):
        fit(grpo(tiny_model, shaping={"short": Part(lambda problems, completions: [1.0])}))


def test_no_completions_are_logged(tiny_model: str) -> None:
    assert len(fit(grpo(tiny_model, log_completions_every_n_steps=0)).steps) == 2
