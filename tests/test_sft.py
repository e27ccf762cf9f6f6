"""Supervised fine-tuning: what the loss covers, and that packing, splitting and precision do not change it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import GradientAccumulationScheduler, OnExceptionCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.support.fits import PROBLEMS, PlainSFT, SaveAt, fit, sft, weights
from vibethinker import Problem, SFTModule
from vibethinker.datamodules import AlgebraDataModule
from vibethinker.models.loading import Lora
from vibethinker.utils.seeding import stable_seed


class Shards(SingleDeviceStrategy):
    """Like deepspeed's strategy it inherits from one that keeps weights whole."""


def slow_step(model: Any, module: SFTModule, step: int, problems: list[Problem]) -> Tensor:
    """One sequence at a time with transformers' own forward: mean over all completion tokens of the batch."""
    losses = []
    for problem in problems:
        text = f"<|user|>{problem.prompt}<|end|><|assistant|>"
        prompt = module.tokenizer.encode(text, add_special_tokens=False)
        path = stable_seed(module.seed, step, problem.id) % len(problem.solutions)
        solution = module.tokenizer.encode(problem.solutions[path] + "<|end|>", add_special_tokens=False)
        logits = model(torch.tensor([[*prompt, *solution]])).logits[0, len(prompt) - 1 : -1]
        losses.append(F.cross_entropy(logits, torch.tensor(solution), reduction="none"))
    return torch.cat(losses).mean()


@pytest.mark.parametrize("row_tokens", ["auto", 60, 30, 8])
def test_two_steps_against_one_sequence_at_a_time(tiny_model: str, row_tokens: int | str) -> None:
    module = sft(tiny_model, PlainSFT, packing={"row_tokens": row_tokens}, optimizer={"learning_rate": 0.1})
    logged = fit(module, steps=2).steps
    reference: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for step in range(2):
        loss = slow_step(reference, module, step, PROBLEMS[4 * step : 4 * step + 4])
        assert logged[step]["train/loss"] == pytest.approx(loss.item(), abs=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(weights(module)[name], parameter.data, atol=1e-6, rtol=1e-5)


def test_a_batch_comes_with_other_solutions_at_another_visit(tiny_model: str) -> None:
    module = sft(tiny_model)
    trainer: Any = SimpleNamespace(global_step=0)
    module.trainer = trainer
    seen = set()
    for trainer.global_step in range(20):
        seen.add(tuple(module.demonstration(PROBLEMS[2])[1].tolist()))
    assert len(seen) == 2
    assert all(ids[-1] == module.tokenizer.eos_token_id for ids in seen)


def test_adamw_learns_and_logs(tiny_model: str) -> None:
    steps = fit(sft(tiny_model), steps=20).steps
    assert steps[-1]["train/loss"] < steps[0]["train/loss"] - 1.0
    assert steps[0]["train/entropy"] == pytest.approx(math.log(259), abs=0.05)
    assert all(s["train/tokens_per_second"] > 0 for s in steps)


def test_tokens_per_second_covers_the_whole_update(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backward and the optimizer's step are part of an update: a clock that ticks once a call counts them all."""
    module = sft(tiny_model)
    events: list[str] = []
    clock = iter(range(1000))

    def tick() -> int:
        events.append("clock")
        return next(clock)

    monkeypatch.setattr("vibethinker.utils.async_copy.time.perf_counter", tick)
    embedding: Any = module.policy.get_input_embeddings()
    embedding.weight.register_post_accumulate_grad_hook(lambda _: events.append("backward"))
    fit(module, steps=1)
    middle = events.index("backward")
    assert "clock" in events[:middle]
    assert "clock" in events[middle:]


def test_bfloat16_autocast_and_gradient_checkpointing_stay_close(tiny_model: str) -> None:
    exact, half, recomputed = (sft(tiny_model, PlainSFT, gradient_checkpointing=on) for on in (False, False, True))
    losses = [
        fit(module, precision=precision).steps[-1]["train/loss"]
        for module, precision in ((exact, "32-true"), (half, "bf16-mixed"), (recomputed, "32-true"))
    ]
    assert losses[1] == pytest.approx(losses[0], abs=0.02)
    assert losses[2] == pytest.approx(losses[0], abs=1e-6)
    assert all(p.dtype == torch.float32 for p in half.policy.parameters())


def test_a_gradient_that_is_no_number_reaches_no_weight(tiny_model: str, tmp_path: Path) -> None:
    class Broken(SFTModule):
        """Whose loss is finite and has no derivative from the third step on."""

        def token_loss(self, logp: Tensor, entropy: Tensor, per_token: dict[str, Tensor]) -> Tensor:
            loss = super().token_loss(logp, entropy, per_token)
            return loss + 0 * (0 * logp).sqrt() if self.trainer.global_step == 2 else loss

    module = sft(tiny_model, Broken)
    savers = SaveAt(3, tmp_path / "a.ckpt"), OnExceptionCheckpoint(tmp_path)
    with pytest.raises(FloatingPointError, match="the gradient's norm is nan at step 2"):
        fit(module, *savers, steps=4, enable_checkpointing=True, default_root_dir=tmp_path)
    assert all(w.isfinite().all() for w in weights(module).values())
    assert not list(tmp_path.rglob("*.ckpt"))


def test_lora_trains_and_saves_the_adapter_alone(tiny_model: str, tmp_path: Path) -> None:
    module = sft(tiny_model, lora=Lora(rank=4))
    before = weights(module)
    fit(module, SaveAt(2, tmp_path / "a.ckpt"))
    after = weights(module)
    assert {n for n in after if not torch.equal(after[n], before[n])} == {n for n in after if "lora_" in n}
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == {f"policy.{n}" for n in after if "lora_" in n}


def test_a_4_bit_base_learns_through_lightning(tiny_model: str) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    module = sft(tiny_model, lora=Lora(rank=8, alpha=32), quantization="4bit", optimizer={"learning_rate": 3e-2})
    losses = [s["train/loss"] for s in fit(module, steps=16).steps]
    assert losses[-1] < losses[0] - 0.2


# The learning rate


def test_the_schedule_moves_once_an_optimizer_step(tiny_model: str) -> None:
    module = sft(tiny_model, optimizer={"warmup_ratio": 0.5, "min_learning_rate": 1e-3})
    fit(module, steps=4)
    (schedule,) = module.trainer.lr_scheduler_configs
    assert schedule.scheduler.last_epoch == 4
    assert schedule.scheduler.get_last_lr() == pytest.approx([1e-3, 1e-3])


def test_decay_falls_on_matrices_alone(tiny_model: str) -> None:
    module = sft(tiny_model, optimizer={"weight_decay": 0.1})
    fit(module, steps=1)
    decayed, free = module.trainer.optimizers[0].param_groups
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0.0
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in free["params"]} == {1}


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packing": {"row_tokens": 0}}, "row_tokens"),
        ({"gradient_checkpointing": "always"}, "gradient_checkpointing must be"),
        ({"gradient_checkpointing": 1}, "gradient_checkpointing must be"),
        ({"optimizer": {"min_learning_rate": 1.0}}, "min_learning_rate"),
        ({"optimizer": {"warmup_ratio": 1.5}}, "warmup_ratio"),
        ({"sampler": {"max_new_tokens": 64}}, "no room for a prompt"),
        ({"max_length": 513}, "context"),
    ],
)
def test_options_that_cannot_be(tiny_model: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sft(tiny_model, **options)


def test_an_option_of_an_older_version_names_its_replacement(tiny_model: str) -> None:
    for options, line in (
        ({"learning_rate": 1e-3}, "model.learning_rate is now model.optimizer.learning_rate"),
        ({"row_tokens": 8192}, "model.row_tokens is now model.packing.row_tokens"),
        ({"micro_batches": 2}, "model.micro_batches is gone: packing.row_tokens bounds the memory of an update"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
            SFTModule(tiny_model, **options)
    with pytest.raises(ValueError, match="SFTModule has no option 'nosuch'"):
        SFTModule(tiny_model, nosuch=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "max_steps"),
        ({"accumulate_grad_batches": 3}, r"accumulate_grad_batches must be 1: packing\.row_tokens bounds"),
        ({"precision": "bf16-true"}, "trainer.precision must be one of 32-true, bf16-mixed, 16-mixed, got bf16-true"),
        ({"strategy": Shards()}, "trainer.strategy must be ddp or one device, which keep weights whole, not Shards"),
    ],
)
def test_trainer_options_that_cannot_be(tiny_model: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(sft(tiny_model), **options)


def test_no_other_schedule_of_accumulation(tiny_model: str) -> None:
    with pytest.raises(ValueError, match=r"GradientAccumulationScheduler: .* packing\.row_tokens bounds"):
        fit(sft(tiny_model), GradientAccumulationScheduler({0: 2}))


def test_a_module_that_was_fitted_by_epochs_can_be_fitted_by_steps(tiny_model: str) -> None:
    module, data = sft(tiny_model, max_length=448), AlgebraDataModule(train_size=4, batch_size=4)
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    options |= {"limit_val_batches": 0, "enable_progress_bar": False, "enable_model_summary": False}
    limits: list[dict[str, Any]] = [{"max_epochs": 1}, {"max_steps": 2}]
    for limit in limits:
        trainer = pl.Trainer(**limit, **options)
        trainer.fit(module, datamodule=data)
        assert trainer.global_step == max(limit.values())


def test_a_solution_that_is_too_long_or_missing(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"problem 'p\d' has \d+ tokens with its solution"):
        fit(sft(tiny_model, max_length=12, sampler={"max_new_tokens": 4}))
    monkeypatch.setattr("tests.support.fits.PROBLEMS", [Problem(id="bare", domain="algebra", prompt="?")] * 4)
    with pytest.raises(ValueError, match="'bare' has no solutions"):
        fit(sft(tiny_model))


def test_a_loss_that_is_not_a_number_stops_the_fit(tiny_model: str) -> None:
    module = sft(tiny_model)
    torch.nn.init.constant_(module.policy.get_parameter("model.norm.weight"), math.nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        fit(module)
