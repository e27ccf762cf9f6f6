"""Memory known before a fit: the ledger by hand, the estimate against what a GPU really takes."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Qwen2Config, Qwen3Config

from vibethinker.logprobs import linear_logprobs
from vibethinker.memory.estimate import Estimate, Workload, estimate
from vibethinker.memory.footprints import Ledger
from vibethinker.models.loading import Lora, build_model
from vibethinker.packed.attention import PackedAttention, hidden_states
from vibethinker.packed.packing import pack
from vibethinker.packed.patching import fuse_

pytestmark = pytest.mark.slow

SHAPE: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


def workload(**changes: Any) -> Workload:
    work = Workload(
        config=Qwen2Config(**SHAPE),
        lora=None,
        bits=32,
        checkpointing=False,
        autocast=True,
        fused=False,
        row_tokens=256,
        update_tokens=None,
        max_length=64,
        prompt_length=16,
        group=4,
        slots=8,
        rollouts=0,
        reference=True,
        replicas=1,
    )
    return replace(work, **changes)


def test_the_ledger_counts_storages_once_and_only_while_they_live() -> None:
    with FakeTensorMode(), Ledger() as ledger:
        a = torch.empty(1024)  # 4096 bytes
        view = a[:10]
        assert ledger.now == 4096
        b = a + 1
        assert ledger.now == 8192
        del a, b
        assert (ledger.now, ledger.peak) == (4096, 8192)
        small = torch.empty(1)  # rounded up to 512
        assert ledger.now == 4096 + 512
        del view, small
    assert (ledger.now, ledger.peak) == (0, 8192)


def test_what_is_there_all_the_time() -> None:
    made = estimate(workload())
    embedding, attention, mlp = 1000 * 64, 64 * 64 + 64 + 2 * (64 * 32 + 32) + 64 * 64, 3 * 64 * 128
    count = embedding + 3 * (attention + mlp + 2 * 64) + 64
    assert (made.parameters, made.trainable) == (count, count)
    assert made.resident == {"policy": 4 * count, "optimizer": 8 * count, "replica": 2 * count, "reference": 2 * count}
    assert made.update["gradients"] == 4 * count
    aligned = 64 + 16  # prompt and completion each end at a multiple of 16
    assert made.rollout["keys and values"] == (8 + 1) * aligned * (2 * 3 * 2 * 16) * 2
    assert made.peak == sum(made.resident.values()) + max(sum(made.update.values()), sum(made.rollout.values()))


def test_an_adapter_trains_what_it_adds() -> None:
    plain, made = estimate(workload()), estimate(workload(lora=Lora(rank=4), bits=16, reference=False, replicas=2))
    per_layer = 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    assert made.trainable == 3 * per_layer
    assert made.parameters == plain.parameters + made.trainable
    assert made.resident == {
        "policy": 2 * plain.parameters + 4 * made.trainable,
        "optimizer": 8 * made.trainable,
        "gradient exchange": 4 * made.trainable,
        "replica": 2 * plain.parameters,
    }


def test_few_bits_are_of_linear_layers_alone() -> None:
    lora = Lora(rank=4)
    sizes = {b: estimate(workload(lora=lora, bits=b, slots=0)).resident["policy"] for b in (4, 8, 16)}
    linear = 3 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    assert sizes[16] - sizes[8] == 2 * linear - linear - linear // 64 * 4
    assert sizes[8] - sizes[4] == linear // 2


def test_what_saves_memory_saves_it_here() -> None:
    def update(**changes: Any) -> int:
        return sum(estimate(workload(**{"row_tokens": 2048, **changes})).update.values())

    assert update(checkpointing=True) < update()
    assert update(lora=Lora(rank=4)) < update()
    assert update(autocast=False) > update()
    assert update(fused=True) < update()
    assert update(fused=True, checkpointing=True) < update(fused=True)
    assert update(row_tokens=1280) < update()
    assert update(update_tokens=2048) < update()
    assert estimate(workload(slots=0)).rollout == {}


def test_one_long_prompt_is_computed_whole() -> None:
    def sampler(prompt: int) -> int:
        fixed = workload(prompt_length=prompt, max_length=70_000, slots=2, group=2)
        return estimate(fixed).rollout["sampler"]

    assert sampler(65_536) - sampler(32_768) > 0.9 * (sampler(32_768) - sampler(16)) > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("members", [(), (8,)], ids=["", "shared"])
def test_an_update_takes_what_was_estimated(
    checkpointing: bool, fused: bool, kind: Any, members: tuple[int, ...]
) -> None:
    shape = {**SHAPE, "vocab_size": 32_000, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8}
    config = kind(**{**shape, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64})
    prompts, completions = ([torch.zeros(512, dtype=torch.long)] * 8 for _ in range(2))
    row = pack(prompts, completions, [0] * 8 if members else None).to("cuda")
    options: dict[str, Any] = {"checkpointing": checkpointing, "fused": fused, "slots": 0, "reference": False}
    made: Estimate = estimate(workload(config=config, row_tokens=len(row.input_ids), **options))
    gc.collect()
    before = torch.cuda.memory_allocated()  # what other tests of this process left behind
    model = build_model(config, torch.float32, "cuda").train().requires_grad_(True)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if fused:
        assert fuse_(model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        for _ in range(2):
            with torch.autocast("cuda", torch.bfloat16):
                hidden = hidden_states(model, row.input_ids, row.position_ids, PackedAttention(row))
                logp, _ = linear_logprobs(hidden[row.predictors], model.get_output_embeddings().weight, row.targets)
            (-logp.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.cuda.max_memory_allocated() - before == pytest.approx(made.peak, rel=0.15)
