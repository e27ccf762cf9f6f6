"""QLoRA: bases quantized on loading and checkpoints that are quantized already, against transformers, peft and
bitsandbytes; their adapters exported alone, merged and fused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from tests.support import miniature
from tests.support.checkpoints import edit_json
from tests.support.fits import SaveAt, assert_same_weights, fit, grpo, sft, weights
from tests.support.models import load_model, load_tokenizer
from vibethinker.cli.main import main
from vibethinker.fusion import fuse
from vibethinker.logprobs import linear_logprobs
from vibethinker.models.export import export
from vibethinker.models.loading import Lora
from vibethinker.models.quantization import loading_options
from vibethinker.models.reference import AdapterOff, FrozenCopy
from vibethinker.models.source import ModelSource
from vibethinker.packed.attention import PackedAttention, hidden_states
from vibethinker.packed.packing import pack
from vibethinker.rollout import RolloutEngine, Sampling

pytestmark = pytest.mark.slow

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
LORA = Lora(rank=4, alpha=12.0)
SKIPPED = ["lm_head", "model.layers.1.mlp", "model.layers.0.self_attn"]
# A base and how it is quantized on loading.
BASES: dict[str, tuple[str, Any]] = {
    "lora": ("full", None),
    "4bit": ("full", "4bit"),
    "4bit-double": ("full", "4bit-double"),
    "8bit": ("full", "8bit"),
    "stored-4bit": ("4bit", None),
    "stored-8bit": ("8bit", None),
}


@pytest.fixture(scope="session")
def stored(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A Qwen3 in bfloat16, and the same quantized by transformers with parts left in 16 bits, as is published."""
    from transformers import BitsAndBytesConfig

    root = tmp_path_factory.mktemp("stored")
    shape: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
    shape |= {
        "hidden_size": 32,
        "intermediate_size": 64,
        "vocab_size": 259,
        "num_hidden_layers": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
    }
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model: Any = Qwen3ForCausalLM(Qwen3Config(**shape, tie_word_embeddings=True, eos_token_id=0, pad_token_id=0))
    model.to(torch.bfloat16).save_pretrained(root / "full")
    torch.set_rng_state(state)
    four: dict[str, Any] = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    four["bnb_4bit_compute_dtype"] = "bfloat16"
    for name, options in (("4bit", {"load_in_4bit": True, **four}), ("8bit", {"load_in_8bit": True})):
        how = BitsAndBytesConfig(**options, llm_int8_skip_modules=SKIPPED)
        model = AutoModelForCausalLM.from_pretrained(root / "full", quantization_config=how, dtype=torch.bfloat16)
        model.save_pretrained(root / name)
    for folder in root.iterdir():
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return {folder.name: str(folder) for folder in root.iterdir()}


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest, stored: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """A folder and the options it is loaded with."""
    folder, quantization = BASES[request.param]
    return stored[folder], {"lora": LORA, "quantization": quantization}


def moved(model: Any, seed: int = 1) -> Any:
    """The policy with an adapter that does something."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def logprobs(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    prompts, completions = (
        [torch.randint(259, (n,), generator=generator) for n in sizes] for sizes in ((3, 8), (5, 9))
    )
    packed = pack(prompts, completions)
    hidden = hidden_states(model, packed.input_ids, packed.position_ids, PackedAttention(packed))
    return linear_logprobs(hidden[packed.predictors], model.get_output_embeddings().weight, packed.targets)[0]


def expanded(folder: str, quantization: Any) -> Any:
    """The base in full as transformers and bitsandbytes have it, float32."""
    options: dict[str, Any] = {"dtype": torch.float32}
    if quantization is not None:
        options["quantization_config"] = loading_options(quantization, torch.float32)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
    return model.dequantize().float() if hasattr(model.config, "quantization_config") else model


def merged_by_peft(folder: str, quantization: Any, adapter: Path) -> dict[str, Tensor]:
    from peft import PeftModel

    model: Any = PeftModel.from_pretrained(expanded(folder, quantization), str(adapter))
    return dict(model.merge_and_unload().named_parameters())


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name].float(), weight.detach().float(), atol=1e-5, rtol=1e-5)


# Loading


def test_a_stored_checkpoint_keeps_its_parts_in_16_bits(stored: dict[str, str]) -> None:
    model: Any = load_model(stored["4bit"], lora=LORA)
    kinds = {name: type(p).__name__ for name, p in model.named_parameters() if ".base_layer.weight" in name}
    four = {name.removeprefix("base_model.model.model.") for name, kind in kinds.items() if kind == "Params4bit"}
    assert {name.rpartition("_proj")[0].rpartition(".")[0] for name in four} == {"layers.0.mlp", "layers.1.self_attn"}
    assert len(kinds) == 14
    assert len(four) == 7
    layer = model.get_submodule("base_model.model.model.layers.0.mlp.up_proj.base_layer")
    assert layer.compute_dtype == torch.float32  # not the file's bfloat16: this is a processor
    assert layer.weight.quant_state.nested


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_base_in_the_precision_asked_for(base: tuple[str, dict[str, Any]], dtype: torch.dtype) -> None:
    folder, options = base
    name: Any = str(dtype).removeprefix("torch.")
    model: Any = load_model(folder, **options, base_dtype=name)
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32
        elif type(parameter) is torch.nn.Parameter:
            assert parameter.dtype == dtype, path
    for module in model.modules():
        assert getattr(module, "compute_dtype", dtype) == dtype
    loss = -logprobs(model).mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_sampling_from_a_stored_checkpoint_needs_no_adapter(stored: dict[str, str]) -> None:
    model: Any = load_model(stored["4bit"], trainable=False)
    assert not any(p.requires_grad for p in model.parameters())
    engine = RolloutEngine(model, max_length=32, slots=4)
    assert_same_weights(
        {n: p.float() for n, p in engine.replica.named_parameters()},
        {n: p.detach() for n, p in expanded(stored["4bit"], None).named_parameters()},
    )
    rollouts = engine.generate([[5, 6, 7]], 2, Sampling(max_new_tokens=4))
    assert rollouts.completion_ids[0].numel()


def test_both_references_are_the_base(base: tuple[str, dict[str, Any]]) -> None:
    folder, options = base
    model = load_model(folder, **options)
    copied, off = FrozenCopy(model), AdapterOff(model)
    moved(model)
    kinds = {type(p).__name__ for p in model.parameters()}
    # Layers of 8 bits also round their input; 4 bits of a bfloat16 weight expand to bfloat16, but on a CPU in float32
    # bitsandbytes multiplies without that rounding.
    tolerance = 0.1 if "Int8Params" in kinds else 1e-3 if options["quantization"] is None else 1e-5
    with torch.no_grad(), copied() as frozen, off() as bare:
        torch.testing.assert_close(logprobs(bare), logprobs(frozen), atol=tolerance, rtol=0)
        plain: Any = load_model(folder, trainable=False) if options["quantization"] is None else None
    if plain is not None:
        with torch.no_grad():
            torch.testing.assert_close(logprobs(plain), logprobs(copied.model), atol=tolerance, rtol=0)


# Adapters alone, merged, fused


def test_an_adapter_alone_is_what_was_trained(base: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    """Exported alone and merged by peft, by fusion and on loading, and exported merged: one model."""
    folder, options = base
    model, tokenizer = moved(load_model(folder, **options)), load_tokenizer(folder)
    adapter = export(model, tokenizer, tmp_path / "adapter", adapter_only=True)
    whole = export(model, tokenizer, tmp_path / "whole")
    expected = merged_by_peft(folder, options["quantization"], adapter)
    assert_close(load_file(whole / "model.safetensors"), expected)
    fuse([adapter], tmp_path / "fused", progress=False)
    assert_close(load_file(tmp_path / "fused" / "model.safetensors"), expected)
    assert_close(dict(load_model(str(adapter)).named_parameters()), expected)
    before, after = (json.loads((f / "config.json").read_text()) for f in (whole, tmp_path / "fused"))
    assert {k for k in before if before[k] != after.get(k)} <= {"transformers_version"}
    assert AutoTokenizer.from_pretrained(tmp_path / "fused").chat_template == tokenizer.chat_template
    assert ModelSource.of(adapter).context_length == 512
    assert load_tokenizer(str(adapter)).chat_template == tokenizer.chat_template


def test_experts_over_quantized_bases_are_averaged_in_full(stored: dict[str, str], tmp_path: Path) -> None:
    folder, adapters = stored["4bit"], []
    for seed in (1, 2):
        model = moved(load_model(folder, lora=LORA), seed)
        adapters.append(export(model, load_tokenizer(folder), tmp_path / f"adapter{seed}", adapter_only=True))
    whole = export(model, load_tokenizer(folder), tmp_path / "whole")
    fuse([*adapters, whole], tmp_path / "fused", [0.5, 0.3, 0.2], progress=False)
    one, two = (merged_by_peft(folder, None, adapter) for adapter in adapters)
    assert_close(
        load_file(tmp_path / "fused" / "model.safetensors"), {n: 0.5 * one[n].detach() + 0.5 * two[n] for n in one}
    )
    arithmetic = {"method": "task_arithmetic", "base": folder, "scaling": 0.5, "progress": False}
    fuse(adapters[:1], tmp_path / "half", **arithmetic)  # type: ignore[arg-type]
    bare = dict(expanded(folder, None).named_parameters())
    assert_close(load_file(tmp_path / "half" / "model.safetensors"), {n: (one[n].detach() + bare[n]) / 2 for n in one})


def test_an_adapter_carries_the_longer_context(stored: dict[str, str], tmp_path: Path) -> None:
    folder = stored["full"]
    model = load_model(folder, lora=LORA, context_length=2048, rope_theta=7e5)
    adapter = export(model, load_tokenizer(folder), tmp_path / "adapter", adapter_only=True)
    fuse([adapter], tmp_path / "fused", progress=False)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "fused")
    assert loaded.config.max_position_embeddings == 2048
    assert loaded.config.rope_parameters["rope_theta"] == 7e5
    assert ModelSource.of(adapter).context_length == 2048
    again: Any = load_model(str(adapter))
    assert again.config.rope_parameters["rope_theta"] == 7e5
    over = load_model(str(adapter), lora=LORA)
    with pytest.raises(ValueError, match="itself an adapter folder; fuse it"):
        export(over, load_tokenizer(folder), tmp_path / "second", adapter_only=True)


# Training


@pytest.mark.parametrize("name", ["4bit", "stored-4bit", "stored-8bit"])
def test_resume_is_bitwise_and_checkpoints_hold_no_base(stored: dict[str, str], tmp_path: Path, name: str) -> None:
    folder, quantization = BASES[name]

    def make() -> Any:
        torch.manual_seed(0)
        kind = sft if name == "stored-8bit" else grpo
        return kind(stored[folder], lora=LORA, quantization=quantization)

    undisturbed, going_on = make(), make()
    before = weights(undisturbed)
    fit(undisturbed, SaveAt(2, tmp_path / "a.ckpt"), steps=3)
    torch.manual_seed(99)
    fit(going_on, steps=3, resume=tmp_path / "a.ckpt")
    after = weights(undisturbed)
    assert_same_weights(after, weights(going_on))
    assert all(("lora_" in n) == (not torch.equal(after[n], before[n])) for n in after if "lora_A" not in n)
    saved: dict[str, Any] = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert saved["state_dict"]
    assert all("lora_" in n and w.dtype == torch.float32 for n, w in saved["state_dict"].items())


def test_specialists_are_adapters_from_fit_to_the_signal_phase(
    stored: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two fits over a stored 4-bit base on the command line, their fusion, and what else takes an adapter folder."""

    def write(name: str, config: dict[str, Any]) -> str:
        config["trainer"]["max_steps"] = 2
        (tmp_path / name).write_text(yaml.safe_dump(config))
        return str(tmp_path / name)

    config = miniature.sft(stored["4bit"])
    config["model"]["init_args"]["lora"] = {"rank": 4}
    export = {"class_path": "HuggingFaceExport", "init_args": {"adapter_only": True}}
    config["trainer"]["callbacks"].insert(0, export)  # --trainer.callbacks.monitor is of the last one
    file, adapters = write("sft.yaml", config), []
    for domain in ("algebra", "geometry"):
        root = tmp_path / domain
        monitor = f"probe/{domain}/pass@2"
        options = ["--data.domain", domain, "--trainer.callbacks.monitor", monitor]
        assert main(["fit", "--config", file, "--trainer.default_root_dir", str(root), *options]) == 0
        adapters.append(root / json.loads((root / "chosen.json").read_text())[monitor])
        assert {f.name for f in adapters[-1].glob("*.safetensors")} == {"adapter_model.safetensors"}
        assert (
            json.loads((adapters[-1] / "adapter_config.json").read_text())["base_model_name_or_path"] == stored["4bit"]
        )
    fused = tmp_path / "fused"
    assert main(["fuse", *map(str, adapters), "--out", str(fused)]) == 0
    one, two = (merged_by_peft(stored["4bit"], None, adapter) for adapter in adapters)
    assert any(not torch.equal(one[n], two[n]) for n in one)
    assert_close(load_file(fused / "model.safetensors"), {n: (one[n].detach() + two[n].detach()) / 2 for n in one})
    signal = ["fit", "--config", write("mgpo.yaml", miniature.mgpo(str(adapters[0])))]
    assert main([*signal, "--trainer.default_root_dir", str(tmp_path / "signal")]) == 0
    assert (tmp_path / "signal/checkpoints/last/model.safetensors").is_file()
    small = ["--problems", "2", "--samples", "2", "--k", "1", "--max-new-tokens", "4", "--domains", "algebra"]
    for model in (str(adapters[0]), stored["4bit"]):
        assert main(["evaluate", model, *small, "--difficulty", "1"]) == 0
    config["model"]["init_args"]["lora"] = None
    assert main(["fit", "--config", write("bare.yaml", config), "--trainer.default_root_dir", str(tmp_path / "bare")])
    assert "needs lora: it is quantized" in capsys.readouterr().err


# What is refused


def test_quantized_twice_or_trained_whole(stored: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is quantized already; leave the option out"):
        load_model(stored["4bit"], lora=LORA, quantization="4bit")
    with pytest.raises(ValueError, match="needs lora: it is quantized"):
        load_model(stored["4bit"])
    with pytest.raises(ValueError, match="base_dtype needs lora"):
        load_model(stored["full"], base_dtype="bfloat16")


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8"])
def test_other_ways_to_quantize(stored: dict[str, str], tmp_path: Path, method: str) -> None:
    folder = shutil.copytree(stored["full"], tmp_path / "model")
    edit_json(folder / "config.json", quantization_config={"quant_method": method, "bits": 4})
    for load in (lambda: load_model(str(folder), lora=LORA), lambda: fuse([folder], tmp_path / "out")):
        with pytest.raises(ValueError, match=f"config.json has quantization_config of {method}") as caught:
            load()
        assert "\n" not in str(caught.value)


def test_without_bitsandbytes(stored: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vibethinker.models.quantization.find_spec", lambda name: None)
    for folder, quantization in (("full", "4bit"), ("4bit", None)):
        with pytest.raises(ValueError, match=r"needs bitsandbytes: pip install 'vibethinker\[quantized\]'"):
            load_model(stored[folder], lora=LORA, quantization=quantization)


def test_an_adapter_whose_base_has_changed(stored: dict[str, str], tmp_path: Path) -> None:
    model = load_model(stored["full"], lora=LORA, quantization="4bit")
    adapter = export(model, load_tokenizer(stored["full"]), tmp_path / "adapter", adapter_only=True)
    record = json.loads((adapter / "adapter_base.json").read_text())
    record["quantized"]["weights"].append("model.layers.7.mlp.up_proj.weight")
    edit_json(adapter / "adapter_base.json", **record)
    with pytest.raises(ValueError, match=r"adapter_base.json: model.layers.7.mlp.up_proj.weight is no tensor"):
        fuse([adapter], tmp_path / "out")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"not an adapter folder: it has no adapter_model\.safetensors"):
        load_model(str(adapter))
