"""Sampling: our engine, its log-probs against a training forward, and transformers' `generate` beside it."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from parts.setting import Setting
from vibethinker.datamodules import AlgebraDataModule
from vibethinker.logprobs import linear_logprobs
from vibethinker.models.loading import load_model
from vibethinker.models.prompts import prompt_ids
from vibethinker.models.source import ModelSource, load_tokenizer
from vibethinker.packed.attention import PackedAttention, hidden_states
from vibethinker.packed.packing import pack
from vibethinker.packed.patching import fuse_
from vibethinker.rollout import RolloutEngine, Rollouts, Sampling

REPEATS = 3


def whole(length: int) -> Sampling:
    """Completions that all have this length: with random weights any token may be the end of a sequence."""
    return Sampling(max_new_tokens=length, stop_token_ids=())


def rollout(setting: Setting) -> None:
    """Whole calls of `generate` on a bfloat16 replica of float32 weights."""
    scale = setting.scale
    policy = load_model(ModelSource.of(setting.model)).to(setting.device)

    def call(engine: RolloutEngine, prompts: list[list[int]], length: int) -> float:
        """With room for completions as long as the engine's prompts leave, whatever is used of it."""
        limits = [length] * (len(prompts) * scale.group)
        sampling = whole(engine.max_length - scale.prompt)
        return setting.seconds(lambda: engine.generate(prompts, scale.group, sampling, seed=0, limits=limits))

    begin = time.perf_counter()
    engine = RolloutEngine(policy, max_length=scale.prompt + scale.short, slots=scale.prompts * scale.group)
    made = time.perf_counter() - begin
    sync = median(setting.times(lambda: engine.sync(policy), 5))
    prompts = setting.prompts(scale.prompts)
    first = call(engine, prompts, scale.short)
    setting.forget_peak()
    times = [call(engine, prompts, scale.short) for _ in range(2 * REPEATS - 1)]
    seconds, count = median(times), scale.prompts * scale.group
    part = scale.short // 4
    step = (seconds - median([call(engine, prompts, part) for _ in range(REPEATS)])) / (scale.short - part)
    figures = {**_rate(count * scale.short, times), "gib": setting.peak, "step_ms": 1000 * step}
    setting.report(sync_seconds=sync, warm_up_seconds=made + first - seconds, short=figures)
    del engine
    setting.free()

    engine = RolloutEngine(policy, max_length=scale.prompt + scale.long, slots=scale.many * scale.group)
    prompts = setting.prompts(scale.many)
    call(engine, prompts, scale.short)
    setting.forget_peak()
    short, times = call(engine, prompts, scale.short), [call(engine, prompts, scale.long) for _ in range(2)]
    step = (median(times) - short) / (scale.long - scale.short)
    rate = _rate(scale.many * scale.group * scale.long, times)
    setting.report(long={**rate, "gib": setting.peak, "step_ms": 1000 * step})


def _rate(tokens: int, times: list[float]) -> dict[str, float]:
    seconds = median(times)
    return {"seconds": seconds, "repeats": len(times), "tokens": tokens, "tokens_per_second": tokens / seconds}


def long_tail(setting: Setting) -> None:
    """More sequences than slots, with lengths of a long-tailed law against equal ones of the same mean."""
    scale = setting.scale
    policy = load_model(ModelSource.of(setting.model), trainable=False).to(setting.device)
    engine = RolloutEngine(policy, max_length=scale.prompt + scale.tail_longest, slots=scale.slots)
    prompts = setting.prompts(scale.tail // scale.group)
    lengths = long_tailed(scale.tail, scale.tail_mean, scale.tail_longest)

    def call(limits: list[int], prompts: list[list[int]] = prompts, n: int = scale.group) -> float:
        sampling = whole(scale.tail_longest)
        rollouts: list[Rollouts] = []
        seconds = setting.seconds(lambda: rollouts.append(engine.generate(prompts, n, sampling, seed=0, limits=limits)))
        if rollouts[0].lengths.tolist() != limits:
            raise RuntimeError("completions do not have the lengths they were limited to")
        return seconds

    call(lengths)
    for name, limits in (("equal", [scale.tail_mean] * scale.tail), ("tail", lengths)):
        setting.forget_peak()
        figures = _rate(sum(limits), [call(limits) for _ in range(2)])
        setting.report(**{name: {**figures, "gib": setting.peak}})
    alone = [max(lengths)]
    setting.report(alone=_rate(sum(alone), [call(alone, prompts[:1], 1) for _ in range(2)]))


def long_tailed(count: int, mean: int, longest: int) -> list[int]:
    """Log-normal lengths (σ = 1) of this mean, cut at the longest: quantiles of the law in a random order."""
    law = torch.distributions.Normal(0.0, 1.0)
    shape = torch.exp(law.icdf((torch.arange(count) + 0.5) / count))
    low, high = 0.0, float(longest)
    for _ in range(60):  # the cut lowers the mean: find the scale that gives it back
        scale = (low + high) / 2
        low, high = (scale, high) if (scale * shape).clamp(1, longest).mean() < mean else (low, scale)
    lengths = (high * shape).clamp(1, longest).round().long().tolist()
    random.Random(0).shuffle(lengths)
    return lengths


def agreement(setting: Setting) -> None:
    """Mean |Δ| between the log-probs that rollouts were captured with and a packed training forward of their tokens."""
    scale = setting.scale
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    policy = load_model(ModelSource.of(setting.model)).to(setting.device)
    fuse_(policy)  # as a fit does
    prompts = setting.prompts(scale.compared)
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        slots = scale.compared * scale.group
        engine = RolloutEngine(policy, max_length=scale.prompt + scale.short, slots=slots, dtype=dtype)
        rollouts = engine.generate(prompts, scale.group, whole(scale.short), seed=0)
        del engine
        setting.free()
        with torch.no_grad(), torch.autocast(setting.device, dtype, enabled=dtype == torch.bfloat16):
            difference = torch.cat([_differences(policy, rollouts, i, setting) for i in range(0, slots, scale.group)])
        figures = {"mean": difference.mean().item(), "max": difference.max().item(), "tokens": len(difference)}
        setting.report(**{name: figures})


def _differences(policy: Any, rollouts: Rollouts, first: int, setting: Setting) -> Tensor:
    """|Δ| of a group's tokens."""
    group = slice(first, first + rollouts.n)
    row = pack(rollouts.prompt_ids[group], rollouts.completion_ids[group], [0] * rollouts.n).to(setting.device)
    hidden = hidden_states(policy, row.input_ids, row.position_ids, PackedAttention(row))
    logp, _ = linear_logprobs(hidden[row.predictors], policy.get_output_embeddings().weight, row.targets)
    return (torch.cat(rollouts.logprobs[group]) - logp.cpu()).abs()


def generate(setting: Setting) -> None:
    """transformers' `generate` by itself, in bfloat16, with the settings that TRL gives it and its own layers."""
    scale = setting.scale
    call = _generator(setting.model, setting, setting.prompts(scale.prompts), scale.group)
    call(4)
    setting.forget_peak()
    times = setting.times(lambda: call(scale.short), 1)
    rate = _rate(scale.prompts * scale.group * scale.short, times)
    setting.report(short={**rate, "gib": setting.peak, "step_ms": 1000 * median(times) / scale.short})


def _generator(model: str, setting: Setting, prompts: list[list[int]], n: int) -> Any:
    from transformers import AutoModelForCausalLM, GenerationConfig

    dtype = torch.bfloat16 if setting.cuda else torch.float32
    loader: Any = AutoModelForCausalLM
    policy = loader.from_pretrained(model, dtype=dtype).to(setting.device).eval()
    longest = max(map(len, prompts))
    padded = torch.tensor([[1] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    real = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    ids, mask = (tensor.to(setting.device).repeat_interleave(n, 0) for tensor in (padded, real))
    never = policy.config.vocab_size  # a token that cannot be drawn ends no sequence

    def call(length: int) -> None:
        config = GenerationConfig(
            max_new_tokens=length,
            do_sample=True,
            top_k=0,
            eos_token_id=never,
            pad_token_id=1,
            disable_compile=True,
        )
        with torch.no_grad():
            out = policy.generate(ids, attention_mask=mask, generation_config=config)
        if out.shape[1] != ids.shape[1] + length:
            raise RuntimeError("generate stopped early")

    return call


def cpu(setting: Setting) -> None:
    """The nano model on problems of its own kind on the CPU, ours and transformers' in turns."""
    here = replace(setting, on_cpu=True)
    scale, group, new = setting.scale, 16, 4 if setting.smoke else 48
    problems = AlgebraDataModule().problems("val")[: scale.cpu]
    nano = ModelSource.of("nano")
    prompts = prompt_ids(load_tokenizer(nano), problems)
    policy = load_model(nano, trainable=False, base_dtype="float32")
    engine = RolloutEngine(policy, max_length=max(map(len, prompts)) + new, slots=scale.cpu * group)
    theirs = _generator(nano.path, here, prompts, group)

    def ours() -> None:
        engine.generate(prompts, group, whole(new), seed=0)

    ours()
    theirs(new)
    pairs = [(here.seconds(ours), here.seconds(lambda: theirs(new))) for _ in range(11)]
    ratios = [t / o for o, t in pairs]
    mine, generates = (median(column) for column in zip(*pairs, strict=True))
    setting.report(
        sequences=scale.cpu * group,
        new_tokens=new,
        prompt_tokens=[min(map(len, prompts)), max(map(len, prompts))],
        pairs=len(pairs),
        seconds=mine,
        generate_seconds=generates,
        ratio=median(ratios),
        fastest_ratio=min(t for _, t in pairs) / min(o for o, _ in pairs),
        ratios=[math.floor(100 * r) / 100 for r in ratios],
        threads=torch.get_num_threads(),
        products_seconds=min(_of_products(ours) for _ in range(5)),
    )


def _of_products(call: Callable[[], None]) -> float:
    """Seconds that a call spends in matrix products, on a CPU."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        call()
    times = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    return sum(times.get(f"aten::{name}", 0.0) for name in ("mm", "addmm", "bmm", "baddbmm")) / 1e6
