"""Loading, adapters, quantized bases, references and export, each against what transformers and peft say."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.support.models import load_model, load_tokenizer
from vibethinker.logprobs import linear_logprobs
from vibethinker.models.export import export
from vibethinker.models.loading import Lora, build_model
from vibethinker.models.plain_weights import copy_weights, plain_weights
from vibethinker.models.reference import AdapterOff, FrozenCopy
from vibethinker.models.source import ModelSource
from vibethinker.packed import attention
from vibethinker.packed.attention import PackedAttention, hidden_states
from vibethinker.packed.packing import PackedRow, pack

SHAPE: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "eos_token_id": 0,
}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0}
LORA = Lora(rank=4, alpha=12.0)


def save(model: PreTrainedModel, tokenizer_of: str, folder: Path) -> str:
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=["qwen2-tied", "qwen3-tied", "llama-untied-biases"])
def folder(request: pytest.FixtureRequest, tiny_model: str, tmp_path: Path) -> str:
    torch.manual_seed(0)
    if request.param == "qwen3-tied":
        return save(Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True)), tiny_model, tmp_path / "model")
    if request.param == "llama-untied-biases":
        config = LlamaConfig(**SHAPE, tie_word_embeddings=False, attention_bias=True, mlp_bias=True)
        return save(LlamaForCausalLM(config), tiny_model, tmp_path / "model")
    return tiny_model


def load(folder: str, **options: Any) -> PreTrainedModel:
    """A policy whose adapter does something."""
    torch.manual_seed(1)
    model = load_model(folder, **options)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def row() -> PackedRow:
    generator = torch.Generator().manual_seed(0)
    prompts, completions = (
        [torch.randint(259, (n,), generator=generator) for n in sizes] for sizes in ((3, 8), (5, 9))
    )
    return pack(prompts, completions)


def logprobs(model: PreTrainedModel, packed: PackedRow | None = None) -> Tensor:
    packed = packed or row()
    hidden = hidden_states(model, packed.input_ids, packed.position_ids, PackedAttention(packed))
    return linear_logprobs(hidden[packed.predictors], model.get_output_embeddings().weight, packed.targets)[0]


def plain_logprobs(model: PreTrainedModel) -> Tensor:
    """Without anything of ours: one padded batch through the model as transformers runs it."""
    packed, parts = row(), []
    for i in range(len(packed.lengths)):
        start, end = packed.cu_seqlens[i], packed.cu_seqlens[i + 1]
        logits = model(packed.input_ids[start:end][None]).logits[0].float()
        mine = packed.owner == i
        parts.append(
            logits[packed.predictors[mine] - start].log_softmax(-1).gather(1, packed.targets[mine, None])[:, 0]
        )
    return torch.cat(parts)


# Plain weights and export


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_plain_weights_are_the_merged_model(folder: str, lora: Lora | None) -> None:
    model = load(folder, lora=lora)
    expected: Any = copy.deepcopy(model)
    expected = expected.merge_and_unload() if lora else expected
    weights = dict(plain_weights(model))
    assert weights.keys() == {name for name, _ in expected.named_parameters()}
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(weights[name], parameter.data, atol=1e-6, rtol=1e-6)
        assert weights[name].dtype == torch.float32


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_an_export_is_the_policy_for_transformers(folder: str, lora: Lora | None, tmp_path: Path) -> None:
    model = load(folder, lora=lora)
    tokenizer = load_tokenizer(folder)
    out = export(model, tokenizer, tmp_path / "out")
    loaded: Any = AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(plain_logprobs(loaded), logprobs(model.eval()), atol=1e-4, rtol=0)
    assert AutoTokenizer.from_pretrained(out).chat_template == tokenizer.chat_template
    before, after = (json.loads((Path(f) / "config.json").read_text()) for f in (folder, out))
    assert {k: v for k, v in after.items() if before.get(k) != v} == {}
    tied = torch.equal(loaded.get_input_embeddings().weight, loaded.get_output_embeddings().weight)
    assert tied == before["tie_word_embeddings"]


def test_an_export_in_half_precision(tiny_model: str, tmp_path: Path) -> None:
    out = export(load(tiny_model), load_tokenizer(tiny_model), tmp_path / "out", dtype=torch.bfloat16)
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16


def test_an_export_stops_at_the_tokenizers_token_too(tiny_model: str, tmp_path: Path) -> None:
    model, tokenizer = load(tiny_model), load_tokenizer(tiny_model)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = 7
    out = export(model, tokenizer, tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(out).generation_config.eos_token_id == [7, tokenizer.eos_token_id]


def test_full_training_has_float32_masters_and_lora_trains_the_adapter_alone(folder: str) -> None:
    full, lora = load(folder), load(folder, lora=LORA)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in full.parameters())
    assert all(p.requires_grad == ("lora_" in name) for name, p in lora.named_parameters())
    assert full.training
    assert lora.training


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_gradient_checkpointing_changes_nothing(folder: str, lora: Lora | None) -> None:
    gradients = []
    for on in (False, True):
        model = load(folder, lora=lora, gradient_checkpointing=on)
        assert model.is_gradient_checkpointing == on
        logprobs(model).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) > 0
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("adapter_only", [False, True])
def test_an_export_keeps_the_longer_context(folder: str, tmp_path: Path, adapter_only: bool) -> None:
    lora = LORA if adapter_only else None
    model: Any = load_model(folder, lora=lora, context_length=4096, rope_theta=2e6)
    out = export(model, load_tokenizer(folder), tmp_path / "out", adapter_only=adapter_only)
    loaded: Any = load_model(str(out))
    assert ModelSource.of(out).context_length == loaded.config.max_position_embeddings == 4096
    assert loaded.config.rope_parameters["rope_theta"] == 2e6
    frequencies = loaded.model.rotary_emb.inv_freq
    width = 2 * len(frequencies)
    torch.testing.assert_close(frequencies, 2e6 ** -(torch.arange(0, width, 2) / width))
    assert not any("attn_implementation" in file.read_text() for file in out.glob("*.json"))
    assert (
        ModelSource.of(folder).context_length
        == json.loads((Path(folder) / "config.json").read_text())["max_position_embeddings"]
    )


def test_a_large_export_is_sharded(tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vibethinker.models.export._SHARD", "40KB")
    model = load(tiny_model)
    out = export(model, load_tokenizer(tiny_model), tmp_path / "out")
    assert (out / "model.safetensors.index.json").is_file()
    expected = dict(model.named_parameters())
    for name, weight in AutoModelForCausalLM.from_pretrained(out).named_parameters():
        assert torch.equal(weight, expected[name])


def test_sampling_defaults_that_contradict_each_other_are_saved(tiny_model: str, tmp_path: Path) -> None:
    """As in Llama 2: a temperature, but no do_sample; transformers loads that and refuses to save it."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "eos_token_id": 0}))
    out = export(load_model(str(folder)), load_tokenizer(tiny_model), tmp_path / "out")
    assert json.loads((out / "generation_config.json").read_text())["temperature"] == 0.6


# References


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_frozen_copy_stays_while_the_policy_moves(tiny_model: str, lora: Lora | None, checkpointing: bool) -> None:
    model = load(tiny_model, lora=lora, gradient_checkpointing=checkpointing)
    reference = FrozenCopy(model)
    reference.to(torch.device("cpu"), torch.float32)
    with torch.no_grad(), reference() as frozen:
        before = logprobs(frozen)
    torch.testing.assert_close(before, logprobs(model).detach())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    logprobs(model).sum().backward()
    optimizer.step()
    with torch.no_grad(), reference() as frozen:
        assert torch.equal(logprobs(frozen), before)
        assert not any(p.requires_grad for p in frozen.parameters())
    assert (logprobs(model).detach() - before).abs().max() > 1e-3


def test_adapter_off_is_the_frozen_copy(folder: str) -> None:
    torch.manual_seed(0)
    model = load_model(folder, lora=LORA)  # as a run begins: the adapter does nothing yet
    copied, off = FrozenCopy(model), AdapterOff(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad(), copied() as frozen, off() as bare:
        assert bare is model
        torch.testing.assert_close(logprobs(bare), logprobs(frozen), atol=1e-6, rtol=0)
    assert model.training
    assert (logprobs(model) - logprobs(copied.model)).abs().max() > 1e-3
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        n for n, _ in model.named_parameters() if "lora_" in n
    ]


def test_adapter_off_comes_back_on_after_an_error(tiny_model: str) -> None:
    model = load(tiny_model, lora=LORA)
    before = logprobs(model).detach()
    with pytest.raises(RuntimeError, match="in between"), AdapterOff(model)():
        raise RuntimeError("in between")
    assert model.training
    assert torch.equal(logprobs(model).detach(), before)


def test_adapter_off_needs_an_adapter(tiny_model: str) -> None:
    with pytest.raises(ValueError, match="adapter_off"):
        AdapterOff(load(tiny_model))


# Quantized bases


def quantized(folder: str, bits: Any, **options: Any) -> PreTrainedModel:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model = load(folder, lora=LORA, quantization=bits, **options)
    try:
        logprobs(model)
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        pytest.skip(f"bitsandbytes has no {bits} kernels on this processor: {error}")
    return model


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantized_policy_in_plain_weights(folder: str, bits: str, tmp_path: Path) -> None:
    model: Any = quantized(folder, bits)
    weights = dict(plain_weights(model))
    reference = build_model(model.config, torch.float32, "cpu").requires_grad_(False)
    assert weights.keys() == {name for name, _ in reference.named_parameters()}
    copy_weights(model, reference)
    # 8 bits: the layer itself also rounds its input
    torch.testing.assert_close(
        logprobs(reference), logprobs(model).detach(), atol=1e-4 if bits == "4bit" else 0.1, rtol=0
    )
    out = export(model, load_tokenizer(folder), tmp_path / "out")
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    torch.testing.assert_close(
        plain_logprobs(AutoModelForCausalLM.from_pretrained(out)), logprobs(reference), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantized_policy_merges_as_peft_merges_the_expanded_model(tiny_model: str, bits: str) -> None:
    """The base expanded by bitsandbytes, with the same adapter merged by peft."""
    from peft import LoraConfig, get_peft_model
    from peft.utils.integrations import dequantize_module_weight

    model: Any = quantized(tiny_model, bits)
    weights = dict(plain_weights(model))
    plain = AutoModelForCausalLM.from_pretrained(tiny_model)
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            base = model.get_submodule(f"base_model.model.{name}.base_layer")
            module.weight.data = dequantize_module_weight(base).data
    adapter = LoraConfig(r=LORA.rank, lora_alpha=int(LORA.alpha), target_modules="all-linear", task_type="CAUSAL_LM")
    merged: Any = get_peft_model(plain, adapter)
    merged.load_state_dict({n: p for n, p in model.named_parameters() if "lora_" in n}, strict=False)
    merged = merged.merge_and_unload()
    for name, weight in weights.items():
        torch.testing.assert_close(weight.float(), merged.get_parameter(name).data, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_quantized_policy_learns(tiny_model: str, bits: str, checkpointing: bool) -> None:
    model = quantized(tiny_model, bits, gradient_checkpointing=checkpointing)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = -logprobs(model).mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_frozen_copy_of_a_quantized_policy(tiny_model: str, bits: str) -> None:
    model = quantized(tiny_model, bits)
    reference = FrozenCopy(model)
    reference.to(torch.device("cpu"), torch.float32)
    with torch.no_grad(), reference() as frozen:
        torch.testing.assert_close(logprobs(frozen), logprobs(model), atol=1e-4 if bits == "4bit" else 0.1, rtol=0)


# What is refused


def test_quantization_needs_lora(tiny_model: str) -> None:
    with pytest.raises(ValueError, match="needs lora"):
        load_model(tiny_model, quantization="4bit")


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_lora_stays_off_the_embedding_and_the_head(folder: str, target: str) -> None:
    with pytest.raises(ValueError, match="target_modules"):
        load_model(folder, lora=Lora(target_modules=["q_proj", target]))


def test_a_head_with_a_bias_is_refused(tiny_model: str, tmp_path: Path) -> None:
    folder = save(PhiForCausalLM(PhiConfig(**SHAPE)), tiny_model, tmp_path / "phi")
    with pytest.raises(ValueError, match="head has a bias"):
        load_model(folder)


def test_softcapped_logits_are_refused(tiny_model: str, tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    folder = save(Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8)), tiny_model, tmp_path / "gemma")
    with pytest.raises(ValueError, match="final_logit_softcapping"):
        load_model(folder)


@pytest.mark.parametrize("target", ["w1", "norm"])
def test_lora_on_layers_that_are_not_there(tiny_model: str, target: str) -> None:
    with pytest.raises(ValueError, match=f"'{target}' is no linear layer of .*; it has down_proj, gate_proj, k_proj"):
        load_model(tiny_model, lora=Lora(target_modules=["q_proj", target]))


def test_an_adapter_alone_needs_one(tiny_model: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adapter_only needs lora"):
        export(load(tiny_model), load_tokenizer(tiny_model), tmp_path / "out", adapter_only=True)
    assert not any(tmp_path.iterdir())


def test_a_sink_is_no_silent_loss() -> None:
    interface = AttentionInterface()[attention.NAME]
    query = torch.zeros(1, 2, 3, 4)
    for unknown in ("softcap", "s_aux"):
        with pytest.raises(ValueError, match=unknown):
            interface(torch.nn.Identity(), query, query, query, None, attention=object(), **{unknown: 1.0})


def test_an_adapter_without_a_rank() -> None:
    with pytest.raises(ValueError, match=r"lora.rank must be at least 1, got 0"):
        Lora(rank=0)
