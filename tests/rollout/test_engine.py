"""The rollout engine against transformers' own generation, exact probabilities and the training forward.

On a GPU the same tests run through kernels and CUDA graphs, in float32, and a few more beside them.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from vibethinker.logprobs import linear_logprobs
from vibethinker.ops.decode_attention import Split
from vibethinker.ops.decode_attention import torch as decode_attention
from vibethinker.ops.sampling.torch import sample, uniforms
from vibethinker.packed import attention
from vibethinker.packed.attention import PackedAttention, hidden_states
from vibethinker.packed.packing import pack
from vibethinker.rollout import RolloutEngine, Rollouts, Sampling, decoder
from vibethinker.rollout.kv_cache import slot_bytes

PROMPTS = [[5, 6, 7, 8, 9], [3], [40, 41], [5, 6, 7, 8, 9], [11, 12, 13, 14, 15, 16, 17, 18, 19]]
ARCHITECTURES: dict[str, Any] = {  # mistral goes through transformers' own layers, the others through fewer operations
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"tie_word_embeddings": True, "head_dim": 16}),
    "mistral": (MistralForCausalLM, MistralConfig, {"tie_word_embeddings": False, "sliding_window": None}),
    "llama": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
}


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def random_model(name: str, vocab: int = 64, device: str = "cpu", **options: Any) -> PreTrainedModel:
    """A small model whose biases and norms are random too, so that nothing is right by being zero."""
    model_class, config_class, special = ARCHITECTURES[name]
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = config_class(
        **{**shape, "num_key_value_heads": 2, "vocab_size": vocab, "eos_token_id": 0, "pad_token_id": 0},
        **{"max_position_embeddings": 128, "attn_implementation": attention.NAME, **special, **options},
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = model_class(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.6)
    on_device: Any = model
    return on_device.to(device)


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return str(request.param)


@pytest.fixture(scope="module")
def model(device: str) -> PreTrainedModel:
    return random_model("qwen2", device=device)


def engine_of(model: PreTrainedModel, slots: int = 64, **options: Any) -> RolloutEngine:
    return RolloutEngine(model, **{"max_length": 64, "slots": slots, "dtype": torch.float32, **options})


def generate(model: PreTrainedModel, n: int = 7, slots: int = 64, seed: int = 0, **sampling: Any) -> Rollouts:
    return engine_of(model, slots).generate(PROMPTS, n, Sampling(**{"max_new_tokens": 12, **sampling}), seed)


def assert_same(a: Rollouts, b: Rollouts, tolerance: float = 1e-4) -> None:
    assert [c.tolist() for c in a.completion_ids] == [c.tolist() for c in b.completion_ids]
    torch.testing.assert_close(torch.cat(a.logprobs), torch.cat(b.logprobs), atol=tolerance, rtol=0)
    assert torch.equal(a.finished, b.finished)


def training_logprobs(model: PreTrainedModel, rollouts: Rollouts, temperature: float = 1.0) -> Tensor:
    group = [i // rollouts.n for i in range(len(rollouts.prompt_ids))]
    row = pack(rollouts.prompt_ids, rollouts.completion_ids, group).to(model.device)
    hidden = hidden_states(model, row.input_ids, row.position_ids, PackedAttention(row))
    head = model.get_output_embeddings()
    return linear_logprobs(hidden[row.predictors], head.weight, row.targets, temperature)[0].cpu()


# What a rollout is


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_rollout_logprobs_are_training_logprobs(name: str, temperature: float, device: str) -> None:
    model = random_model(name, device=device)
    rollouts = generate(model, slots=6, temperature=temperature)
    torch.testing.assert_close(
        torch.cat(rollouts.logprobs), training_logprobs(model, rollouts, temperature), atol=1e-4, rtol=0
    )
    assert torch.equal(torch.cat(rollouts.logprobs), torch.cat(rollouts.sampled_logprobs))
    assert 0 < rollouts.finished.sum() < len(rollouts.finished)  # both kinds of ending took part


def test_rollouts_take_part_in_autograd(model: PreTrainedModel) -> None:
    rollouts = generate(model, n=1)
    logits = torch.randn(len(rollouts.completion_ids[0]), 64, requires_grad=True)
    picked = logits.log_softmax(-1).gather(1, rollouts.completion_ids[0][:, None])[:, 0]
    ((picked - rollouts.logprobs[0]).exp() * rollouts.logprobs[0]).sum().backward()
    assert logits.grad is not None


def test_completions_end_at_a_stop_token_or_at_the_limit(model: PreTrainedModel) -> None:
    rollouts = generate(model, stop_token_ids=(0, 9, 10))
    for ids, finished in zip(rollouts.completion_ids, rollouts.finished.tolist(), strict=True):
        assert not set(ids[:-1].tolist()) & {0, 9, 10}
        assert finished == (int(ids[-1]) in (0, 9, 10))
        assert finished or len(ids) == 12
    assert rollouts.lengths.tolist() == [len(c) for c in rollouts.logprobs]
    assert [p.tolist() for p in rollouts.prompt_ids] == [p for p in PROMPTS for _ in range(7)]


def test_no_stop_token_at_all_and_one_new_token(model: PreTrainedModel) -> None:
    assert (generate(model, stop_token_ids=()).lengths == 12).all()
    assert (generate(model, max_new_tokens=1).lengths == 1).all()


def test_the_same_seed_gives_the_same_rollouts(model: PreTrainedModel) -> None:
    assert_same(generate(model, seed=3), generate(model, seed=3), tolerance=0)
    assert generate(model, seed=3).completion_ids[0].tolist() != generate(model, seed=4).completion_ids[0].tolist()


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8, 13])
def test_rollouts_do_not_depend_on_the_slots(model: PreTrainedModel, slots: int) -> None:
    """Groups of seven in fewer slots, in slots that end within a group, in more slots than there are sequences."""
    assert_same(generate(model, slots=64), generate(model, slots=slots))


def test_rollouts_do_not_depend_on_their_neighbours(model: PreTrainedModel) -> None:
    engine = engine_of(model, 4)
    sampling, seeds = Sampling(max_new_tokens=12), [17, 4, 99, 17, 5]
    together = engine.generate(PROMPTS, 3, sampling, seeds)
    for i, prompt in enumerate(PROMPTS):
        alone = engine.generate([prompt], 3, sampling, [seeds[i]])
        assert [c.tolist() for c in alone.completion_ids] == [
            c.tolist() for c in together.completion_ids[3 * i : 3 * i + 3]
        ]
    same = [together.completion_ids[i].tolist() for i in (0, 1, 2)]
    assert same == [together.completion_ids[i].tolist() for i in (9, 10, 11)]  # the same prompt with the same seed


def test_a_group_is_several_draws(model: PreTrainedModel) -> None:
    rollouts = generate(model, n=8, stop_token_ids=())
    for group in range(len(PROMPTS)):
        assert len({tuple(c.tolist()) for c in rollouts.completion_ids[8 * group : 8 * group + 8]}) == 8


def test_nothing_to_sample(model: PreTrainedModel) -> None:
    rollouts = engine_of(model).generate([], 4, Sampling(max_new_tokens=4))
    assert rollouts.completion_ids == []
    assert rollouts.finished.dtype == torch.bool


def test_progress_ends_at_the_total(model: PreTrainedModel) -> None:
    calls: list[tuple[int, int]] = []
    engine = engine_of(model, 3)
    engine.generate(PROMPTS, 2, Sampling(max_new_tokens=4), progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (10, 10)


def test_each_completion_has_its_own_limit(model: PreTrainedModel) -> None:
    whole = generate(model, n=2, slots=3)
    limits = [1, 12, 5, 2, 12, 7, 12, 1, 3, 4]
    cut = engine_of(model, 3).generate(PROMPTS, 2, Sampling(max_new_tokens=12), limits=limits)
    for a, b, limit, finished in zip(whole.completion_ids, cut.completion_ids, limits, cut.finished, strict=True):
        assert b.tolist() == a[:limit].tolist()
        assert bool(finished) == (int(b[-1]) == 0)


@pytest.mark.parametrize("tokens", [1, 6, 7])
def test_prompts_computed_in_parts(model: PreTrainedModel, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generate(model, slots=16)
    monkeypatch.setattr(decoder, "PREFILL_TOKENS", tokens)
    assert_same(generate(model, slots=16), whole)


def test_a_cache_of_fewer_slots(model: PreTrainedModel) -> None:
    one = slot_bytes(model.config, 64, torch.float32)
    engine = engine_of(model, cache_gib=4 * one / 2**30)  # three sequences and a prompt
    assert engine.slots == 3
    cache = engine._decoder_for(12).cache
    assert 3 * one <= 4 * (cache.prompts.numel() + cache.completions.numel()) <= 4 * one
    assert_same(engine.generate(PROMPTS, 7, Sampling(max_new_tokens=12)), generate(model))


def test_one_engine_for_several_ways_to_sample(model: PreTrainedModel) -> None:
    engine = engine_of(model, 8)
    ways: list[dict[str, Any]] = [
        {},
        {"temperature": 0.0},
        {"temperature": 0.5, "top_k": 3},
        {"stop_token_ids": (3, 4)},
    ]
    for way in [*ways, *ways]:
        assert_same(engine.generate(PROMPTS, 7, Sampling(max_new_tokens=12, **way)), generate(model, **way))


def test_stop_tokens_in_any_number(model: PreTrainedModel) -> None:
    engine = engine_of(model, 8)
    for count in (9, 1, 64):
        stops = tuple(range(64 - count, 64))
        rollouts = engine.generate(PROMPTS, 3, Sampling(max_new_tokens=12, stop_token_ids=stops))
        assert_same(rollouts, generate(model, n=3, stop_token_ids=stops))
    assert (rollouts.lengths == 1).all()


LONGROPE = {
    **{"rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 48},
    **{"short_factor": [1.0] * 4, "long_factor": [4.0] * 4},
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}


def test_angles_that_depend_on_the_batch_bound_the_context(device: str) -> None:
    """longrope: transformers looks at a batch's longest sequence; up to the first training's length, all are one."""
    model = random_model("llama", device=device, max_position_embeddings=96, rope_parameters=LONGROPE)
    with pytest.raises(ValueError, match="max_length 49 is longer than the model's context of 48 tokens"):
        engine_of(model, max_length=49)
    alone = engine_of(model, max_length=48).generate(PROMPTS[:1], 1, Sampling(max_new_tokens=8), seed=7)
    beside = engine_of(model, max_length=48).generate([PROMPTS[0], [5] * 40], 1, Sampling(max_new_tokens=8), seed=7)
    assert beside.completion_ids[0].tolist() == alone.completion_ids[0].tolist()


@pytest.mark.parametrize("rope", [LONGROPE, DYNAMIC], ids=["longrope", "dynamic"])
def test_angles_that_are_found_at_every_step(rope: dict[str, Any], device: str) -> None:
    model = random_model("llama", device=device, max_position_embeddings=64, rope_parameters=rope)
    rollouts = engine_of(model, 3, max_length=48).generate(PROMPTS, 2, Sampling(max_new_tokens=24), seed=7)
    assert rollouts.lengths.max() == 24
    with torch.no_grad():
        expected = training_logprobs(model, rollouts)
    torch.testing.assert_close(torch.cat(rollouts.logprobs), expected, rtol=0, atol=1e-4)


def test_no_room_for_any_prompt(model: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="max_new_tokens 64 leaves no room for a prompt in max_length 64"):
        engine_of(model, max_length=64).generate([], 1, Sampling(max_new_tokens=64))


@pytest.mark.parametrize("rows", [1, 40, 64, 512])
@pytest.mark.parametrize("longest", [1, 300, 1025, 40_000])
def test_programs_reach_the_longest_sequence(rows: int, longest: int) -> None:
    for others in (1, longest):
        split = Split.of(np.array([longest, *[others] * (rows - 1)]), rows, 2)
        assert split.programs * split.chunk >= longest
        assert split.programs & (split.programs - 1) == 0


def test_a_full_device_splits_the_sequences_of_uneven_batches_alone() -> None:
    assert Split.of(np.full(512, 3000), 512, 2) == Split(1, 4096)
    assert Split.of(np.array([3000, *[400] * 511]), 512, 2) == Split(8, 512)


# CUDA graphs


@pytest.mark.gpu
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("chunks", [((512, 4096, 512), (0, 256, 256)), ((0, 4, 4),), ((0, 64, 4),)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_are_the_steps_they_captured(
    name: str, chunks: tuple[tuple[int, int, int], ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy, with refills and shrinking batches, sequences in one part and in many."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(decode_attention, "_CHUNKS", chunks)
    model = random_model(name, device="cuda")
    sampling, limits = Sampling(temperature=0.0, max_new_tokens=40), [40, 3, 17, 40, 9, 40, 1, 25, 12, 40]
    engines = [engine_of(model, 6, dtype=dtype, graphs=graphs) for graphs in (True, False)]
    with_graphs, without = (engine.generate(PROMPTS, 2, sampling, limits=limits) for engine in engines)
    assert engines[0]._decoder_for(40)._graphs
    assert_same(with_graphs, without, tolerance=0)
    if dtype == torch.float32:
        on_cpu: Any = copy.deepcopy(model)
        assert_same(with_graphs, engine_of(on_cpu.cpu()).generate(PROMPTS, 2, sampling, limits=limits))


@pytest.mark.gpu
def test_long_completions_through_few_slots() -> None:
    """Up to 16,000 tokens, in two slots: their log-probs are those of one packed forward."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = random_model("qwen3", device="cuda", max_position_embeddings=16_384)
    sampling, limits = Sampling(max_new_tokens=16_000, stop_token_ids=()), [16_000, 300, 9_000, 5_000, 2_000]
    room = 3.5 * slot_bytes(model.config, 16_064, torch.float32)
    engine = engine_of(model, 8, max_length=16_064, cache_gib=room / 2**30)
    assert engine.slots == 2
    rollouts = engine.generate(PROMPTS, 1, sampling, limits=limits)
    assert rollouts.lengths.tolist() == limits
    with torch.no_grad():
        expected = training_logprobs(model, rollouts)
    assert (torch.cat(rollouts.logprobs) - expected).abs().mean() < 1e-4


# Greedy decoding against transformers


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_is_transformers_greedy(name: str, device: str) -> None:
    model = random_model(name, device=device)
    reference: Any = copy.deepcopy(model)
    reference.set_attn_implementation("eager")
    rollouts = generate(model, n=1, slots=3, temperature=0.0, max_new_tokens=24)
    for prompt, ids, logp in zip(PROMPTS, rollouts.completion_ids, rollouts.logprobs, strict=True):
        out = reference.generate(
            torch.tensor([prompt], device=device),
            do_sample=False,
            max_new_tokens=24,
            output_logits=True,
            return_dict_in_generate=True,
        )
        assert ids.tolist() == out.sequences[0, len(prompt) :].tolist()
        expected = torch.stack(out.logits, 1)[0].cpu().log_softmax(-1).gather(1, ids[:, None])[:, 0]
        torch.testing.assert_close(logp, expected, atol=1e-4, rtol=0)
    assert all(not d.any() for d in rollouts.sampled_logprobs)  # a sure thing has log-prob 0


# The sampler


def test_the_sampler_draws_from_the_exact_distribution() -> None:
    """Pearson's statistic of 40 000 draws; 42.31 is the 99.9% point of chi-square with 18 degrees of freedom."""
    draws, words = 40_000, 19
    logits = torch.randn(words, generator=torch.Generator().manual_seed(2)) * 1.5
    numbers = uniforms(torch.arange(draws) * 7919, torch.arange(draws) % 50)
    tokens, logp, _ = sample(logits.expand(draws, -1), numbers, Sampling(temperature=0.8))
    probability = (logits / 0.8).softmax(-1)
    expected = probability * draws
    statistic = ((tokens.bincount(minlength=words) - expected).square() / expected).sum().item()
    assert statistic < 42.31
    torch.testing.assert_close(logp, probability.log()[tokens])


def test_uniforms_are_uniform_and_independent_of_position() -> None:
    """Pearson's statistic over 64 cells of neighbouring positions; 103.4 is the 99.9% point of chi-square 63."""
    seeds = torch.arange(50_000)
    first, second = (uniforms(seeds, torch.full_like(seeds, position)) for position in (0, 1))
    assert 0 <= min(first.min(), second.min()) <= max(first.max(), second.max()) < 1
    cells = (first * 8).long() * 8 + (second * 8).long()
    expected = len(seeds) / 64
    assert ((cells.bincount(minlength=64) - expected).square() / expected).sum().item() < 103.4


def slow_kept(probability: list[float], top_p: float, top_k: int, min_p: float) -> set[int]:
    order = sorted(range(len(probability)), key=lambda i: -probability[i])
    if top_k:
        order = order[:top_k]
    order = [i for i in order if probability[i] >= min_p * max(probability)]
    total, kept, sum_so_far = sum(probability[i] for i in order), set(), 0.0
    for i in order:
        if sum_so_far >= top_p:
            break
        kept.add(i)
        sum_so_far += probability[i] / total
    return kept


@pytest.mark.parametrize(
    "cuts",
    [
        {"top_k": 3},
        {"top_k": 1},
        {"top_p": 0.6},
        {"min_p": 0.3},
        {"top_k": 9, "top_p": 0.7, "min_p": 0.05},
        {"top_k": 99},
    ],
)
def test_cuts(cuts: dict[str, Any]) -> None:
    draws, words = 4000, 17
    logits = torch.randn(words, generator=torch.Generator().manual_seed(5)) * 1.3
    sampling = Sampling(temperature=0.9, **cuts)
    tokens, logp, drawn = sample(
        logits.expand(draws, -1), uniforms(torch.arange(draws), torch.zeros(draws).long()), sampling
    )
    probability = (logits / 0.9).softmax(-1)
    kept = slow_kept(probability.tolist(), sampling.top_p, sampling.top_k, sampling.min_p)
    assert set(tokens.tolist()) == kept
    mass = sum(probability[i].item() for i in kept)
    torch.testing.assert_close(logp, probability.log()[tokens])
    torch.testing.assert_close(drawn, probability.log()[tokens] - math.log(mass), atol=1e-5, rtol=1e-5)
    once = {int(t): math.exp(d) for t, d in zip(tokens, drawn, strict=True)}
    assert sum(once.values()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("cuts", "kept"),
    [({"top_p": 0.5}, {1, 3, 4}), ({"top_k": 2}, {1, 3, 4}), ({"top_p": 0.4}, {1}), ({"top_p": 0.9}, {0, 1, 2, 3, 4})],
    ids=str,
)
def test_tokens_tied_with_the_last_one_kept_stay(cuts: dict[str, Any], kept: set[int]) -> None:
    """Probabilities 0.1, 0.4, 0.1, 0.2, 0.2."""
    logits = torch.tensor([1.0, 4.0, 1.0, 2.0, 2.0]).log()
    tokens, _, drawn = sample(logits.expand(100, -1), (torch.arange(100) + 0.5) / 100, Sampling(**cuts))
    assert set(tokens.tolist()) == kept
    mass = sum(logits[i].exp().item() for i in kept)
    torch.testing.assert_close(drawn, logits[tokens] - math.log(mass))


def test_the_extremes_of_a_uniform_number_never_draw_a_token_without_mass() -> None:
    logits = torch.full((2, 9), -torch.inf)
    logits[:, 3], logits[:, 5] = 0.0, -1.0
    tokens, logp, _ = sample(logits, torch.tensor([0.0, 1 - 2.0**-24]), Sampling())
    assert tokens.tolist() == [3, 5]
    assert logp.isfinite().all()


def test_cut_rollouts_keep_the_plain_logprobs(model: PreTrainedModel) -> None:
    rollouts = generate(model, top_k=4, top_p=0.9)
    plain, drawn = torch.cat(rollouts.logprobs), torch.cat(rollouts.sampled_logprobs)
    torch.testing.assert_close(plain, training_logprobs(model, rollouts), atol=1e-4, rtol=0)
    assert (drawn >= plain - 1e-6).all()
    assert (drawn > plain + 0.01).any()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("temperature", value) for value in (-1, math.nan, math.inf)),
        *(("top_p", value) for value in (0, 1.1)),
        ("top_k", -1),
        ("min_p", 1),
        ("max_new_tokens", 0),
    ],
)
def test_sampling_refuses(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        Sampling(**{option: value})


# The cache and the replica


def test_a_slot_never_leaks_into_its_next_occupant(model: PreTrainedModel) -> None:
    clean = generate(model, slots=4)
    engine = engine_of(model, 4)
    cache = engine._decoder_for(12).cache
    for store in (cache.prompts, cache.completions):
        store.uniform_(-1e3, 1e3)
    assert_same(engine.generate(PROMPTS, 7, Sampling(max_new_tokens=12)), clean)


def test_nan_is_an_error_with_its_step_and_leaves_nothing_behind(model: PreTrainedModel) -> None:
    """The long prompt fills every slot with NaN; short ones beside a long one then look past their own end."""
    engine, sampling = engine_of(model, 4), Sampling(max_new_tokens=12)
    broken = copy.deepcopy(model)
    torch.nn.init.constant_(broken.get_parameter("model.layers.1.self_attn.v_proj.weight"), torch.nan)
    for temperature in (1.0, 0.0):
        engine.sync(broken)
        with pytest.raises(FloatingPointError, match="step 1"):
            engine.generate(PROMPTS[4:], 4, Sampling(temperature=temperature, max_new_tokens=12))
        engine.sync(model)
        after = engine.generate([PROMPTS[1], PROMPTS[4]], 2, sampling)
        clean = engine_of(model, 4).generate([PROMPTS[1], PROMPTS[4]], 2, sampling)
        assert_same(after, clean)


def test_sync_brings_new_weights_and_the_replica_is_a_copy(model: PreTrainedModel) -> None:
    policy = copy.deepcopy(model)
    engine = engine_of(policy, 8)
    before = engine.generate(PROMPTS, 2, Sampling(max_new_tokens=12))
    with torch.no_grad():
        policy.get_parameter("model.layers.0.mlp.up_proj.weight").mul_(-1.0)
    assert_same(engine.generate(PROMPTS, 2, Sampling(max_new_tokens=12)), before, tolerance=0)
    engine.sync(policy)
    after = engine.generate(PROMPTS, 2, Sampling(max_new_tokens=12))
    torch.testing.assert_close(torch.cat(after.logprobs), training_logprobs(policy, after), atol=1e-4, rtol=0)
    assert not any(p.requires_grad for p in engine.replica.parameters())


def test_making_an_engine_draws_no_random_numbers(model: PreTrainedModel) -> None:
    state = torch.get_rng_state()
    generate(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_engine_in_bfloat16(model: PreTrainedModel) -> None:
    engine = engine_of(model, 8, dtype=torch.bfloat16)
    rollouts = engine.generate(PROMPTS, 4, Sampling(max_new_tokens=12))
    assert rollouts.logprobs[0].dtype == torch.float32
    gap = torch.cat(rollouts.logprobs) - training_logprobs(model, rollouts)
    assert gap.abs().mean() < 0.1


# What is refused


@pytest.mark.parametrize("prompt", [[], [1] * 60])
def test_a_prompt_that_does_not_fit(model: PreTrainedModel, prompt: list[int]) -> None:
    engine = engine_of(model)
    with pytest.raises(ValueError, match=f"prompt 1 has {len(prompt)} tokens"):
        engine.generate([[1], prompt], 2, Sampling(max_new_tokens=5))
    engine.generate([[1] * 59], 2, Sampling(max_new_tokens=5))


def test_other_refusals(model: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="context of 128"):
        engine_of(model, max_length=129)
    with pytest.raises(ValueError, match="slots"):
        engine_of(model, 0)
    with pytest.raises(ValueError, match="n must be"):
        engine_of(model).generate(PROMPTS, 0, Sampling(max_new_tokens=4))
    with pytest.raises(ValueError, match="seed must be one number or 5, one for each prompt, got 2"):
        engine_of(model).generate(PROMPTS, 1, Sampling(max_new_tokens=4), seed=[1, 2])


@pytest.mark.parametrize("gib", [0.0, -1.0, 1e-6])
def test_a_cache_that_holds_no_sequence(model: PreTrainedModel, gib: float) -> None:
    with pytest.raises(ValueError, match=r"cache_gib of .* holds no sequence: one of max_length=64 tokens"):
        engine_of(model, cache_gib=gib)


@pytest.mark.parametrize("limits", [[1] * 4, [0] * 5, [13] * 5])
def test_limits_that_are_none(model: PreTrainedModel, limits: list[int]) -> None:
    with pytest.raises(ValueError, match="limits must be 5 numbers from 1 to max_new_tokens=12"):
        engine_of(model).generate(PROMPTS, 1, Sampling(max_new_tokens=12), limits=limits)


def test_attention_that_is_not_ours_is_left_to_transformers(device: str) -> None:
    window = random_model("qwen2", device=device, use_sliding_window=True, sliding_window=4, max_window_layers=0)
    with pytest.warns(RuntimeWarning, match="transformers' generate.*sliding_window"):
        engine = engine_of(window, 3)
    sampling, limits = Sampling(temperature=0.0, max_new_tokens=12, stop_token_ids=()), [3, 12, 5, 12, 12]
    rollouts = engine.generate(PROMPTS, 1, sampling, limits=limits)
    reference: Any = copy.deepcopy(window)
    reference.set_attn_implementation("eager")
    for prompt, ids, limit in zip(PROMPTS, rollouts.completion_ids, limits, strict=True):
        out = reference.generate(
            torch.tensor([prompt], device=device), do_sample=False, max_new_tokens=12, eos_token_id=None
        )
        assert ids.tolist() == out[0, len(prompt) :].tolist()[:limit]


def test_packed_rows_need_their_attention() -> None:
    with pytest.raises(ValueError, match="PackedAttention"):
        random_model("qwen2")(torch.tensor([[1, 2, 3]]))


def test_a_saved_model_is_the_same_model(model: PreTrainedModel, tmp_path: Any) -> None:
    model.save_pretrained(tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=attention.NAME)
    assert_same(generate(model), generate(loaded.to(model.device)), tolerance=0)
