"""Fused and compiled layers against transformers' own: the same loss, the same gradients, nobody else affected."""

from __future__ import annotations

import copy
import shutil
from functools import partial
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from tests.support.fits import fit, plain_grpo, weights
from vibethinker.logprobs import linear_logprobs
from vibethinker.models.loading import Lora, with_checkpointing, with_lora
from vibethinker.ops.train_layers import torch as reference
from vibethinker.packed.attention import NAME, PackedAttention, hidden_states
from vibethinker.packed.packing import PackedRow, pack
from vibethinker.packed.patching import compile_, fuse_

pytestmark = pytest.mark.slow

CONFIGS = [Qwen2Config, Qwen3Config, LlamaConfig]
ROW = pack([torch.arange(5), torch.arange(3) + 7], [torch.arange(9) + 1, torch.arange(4) + 20])


class Plain:
    """The reference, which counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def add_norm(self, residual: Tensor, update: Tensor | None, *args: Any) -> tuple[Tensor, ...]:
        self.calls.append("norm" if update is None else "add and norm")
        return reference.add_norm(residual, update, *args)

    def rms_norm(self, x: Tensor, *args: Any) -> Tensor:
        return self.add_norm(x, None, *args)[1]

    def rotate(self, *args: Any) -> tuple[Tensor, Tensor]:
        self.calls.append("rotate")
        return reference.rotate(*args)

    def swiglu(self, *args: Any) -> Tensor:
        self.calls.append("swiglu")
        return reference.swiglu(*args)


def random_model(kind: Any, lora: bool = False, **shape: Any) -> Any:
    settings = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, **shape}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": settings["hidden_size"] // 4}
    torch.manual_seed(0)
    config = kind(**settings, **heads, max_position_embeddings=4096, tie_word_embeddings=True)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=NAME, dtype=torch.float32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=4 / settings["hidden_size"])
    if lora:
        model = with_lora(model, Lora(rank=4))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def update(model: Any, row: PackedRow, autocast: bool = False) -> dict[str, Tensor]:
    """Log-probs, and the gradient of their sum."""
    model.zero_grad()
    with torch.autocast(row.input_ids.device.type, torch.bfloat16, enabled=autocast):
        hidden = hidden_states(model, row.input_ids, row.position_ids, PackedAttention(row))
        logp, _ = linear_logprobs(hidden[row.predictors], model.get_output_embeddings().weight, row.targets)
    logp.sum().backward()
    return {"logp": logp.detach(), **{n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}}


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], error: float) -> None:
    """Each tensor's difference, relative to its size; a key's bias moves next to nothing, so all of them count too."""
    assert ours.keys() == theirs.keys()
    whole = torch.cat([x.flatten() for n, x in theirs.items() if n != "logp"]).norm()
    for name, one in ours.items():
        assert (one - theirs[name]).norm() <= error * (theirs[name].norm() + whole / 100), name


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_fused_layers_are_the_same_layers(kind: Any, lora: bool, autocast: bool) -> None:
    model = random_model(kind, lora)
    fused, kernels = copy.deepcopy(model), Plain()
    assert fuse_(fused, kernels)
    expected, found = update(model, ROW, autocast), update(fused, ROW, autocast)
    norms = 3 * (3 if kind is Qwen3Config else 1) + 1
    calls = {"norm": norms, "add and norm": 3, "rotate": 3, "swiglu": 3}
    assert {name: kernels.calls.count(name) for name in set(kernels.calls)} == calls
    assert_close(found, expected, 0.02 if autocast else 1e-5)
    assert fused.state_dict().keys() == model.state_dict().keys()


def test_fused_layers_are_recomputed_as_well() -> None:
    model = random_model(Qwen2Config)
    fused = with_checkpointing(copy.deepcopy(model))
    fuse_(fused, Plain())
    assert_close(update(fused, ROW), update(model, ROW), 1e-5)


def test_one_cast_serves_all_that_share_a_norm() -> None:
    """Under autocast queries, keys and values read the same bfloat16 tensor; transformers' norm would give float32."""
    model = random_model(Qwen2Config)
    fuse_(model, Plain())
    read: list[Tensor] = []
    attention = model.model.layers[0].self_attn
    for name in ("q_proj", "k_proj", "v_proj"):
        getattr(attention, name).register_forward_pre_hook(lambda _, args: read.append(args[0]))
    update(model, ROW, autocast=True)
    assert {x.dtype for x in read} == {torch.bfloat16}
    assert len({x.data_ptr() for x in read}) == 1


def test_only_models_that_are_known_and_on_cuda() -> None:
    model = random_model(Qwen2Config)
    assert not fuse_(model)
    model.config.model_type = "gpt2"
    assert not fuse_(model, Plain())
    model.config.model_type, model.config.hidden_act = "qwen2", "gelu"
    assert not fuse_(model, Plain())
    assert "forward" not in model.model.norm.__dict__


def test_what_attention_cannot_do_is_refused_as_before() -> None:
    model = random_model(Qwen2Config)
    fuse_(model, Plain())
    with pytest.raises(ValueError, match="pass attention=PackedAttention"):
        model(ROW.input_ids[None], use_cache=False)
    model.model.layers[1].self_attn.sliding_window = 4
    with pytest.raises(ValueError, match="sliding_window is not supported"):
        update(model, ROW)
    model.model.layers[0].self_attn.attention_dropout = 0.1
    with pytest.raises(ValueError, match="attention_dropout must be 0"):
        update(model, ROW)


# torch.compile


def compiled_and_plain(lora: bool, recomputed: bool, backend: str) -> None:
    """One compilation serves all layers, and rows of other lengths."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = random_model(Qwen2Config, lora)
    compiled = copy.deepcopy(model)
    if recomputed:
        with_checkpointing(compiled)
    compile_(compiled, backend)
    assert_close(update(compiled, ROW), update(model, ROW), 1e-4)
    assert compiled.state_dict().keys() == model.state_dict().keys()
    made = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 0 < made < 2 * 3 * 2  # before and after attention, in three layers, forward alone: less than one for each
    generator = torch.Generator().manual_seed(0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for lengths in ((4, 3, 9, 5), (30, 2), (11, 12, 13), (1, 1, 1, 1, 1, 40)):
            parts = [torch.randint(0, 64, (n + 1,), generator=generator) for n in lengths]
            row = pack([p[:1] for p in parts], [p[1:] for p in parts])
            assert_close(update(compiled, row), update(model, row), 1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == made


@pytest.mark.parametrize(
    ("lora", "recomputed"), [(False, False), (False, True), (True, False)], ids=["plain", "recomputed", "lora"]
)
def test_traced_layers_are_the_same_layers(lora: bool, recomputed: bool) -> None:
    compiled_and_plain(lora, recomputed, "aot_eager")


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_layers_are_the_same_layers() -> None:
    compiled_and_plain(lora=False, recomputed=False, backend="inductor")


def test_compiling_twice_is_once_and_fused_layers_are_refused() -> None:
    """As a second fit of the same module does."""
    model = random_model(Qwen2Config)
    compiled, fused = copy.deepcopy(model), copy.deepcopy(model)
    for _ in range(2):
        compile_(compiled, "eager")
    assert_close(update(compiled, ROW), update(model, ROW), 1e-5)
    fuse_(fused, Plain())
    with pytest.raises(ValueError, match="have been fused already"):
        compile_(fused, "eager")


def test_a_fit_that_compiles(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policy, reference, recomputation, rows of all lengths: few variants of one code, and the same updates."""
    monkeypatch.setattr("vibethinker.training.policy_module.compile_", partial(compile_, backend="aot_eager"))
    torch._dynamo.reset()
    options: dict[str, Any] = {
        "optimizer": {"learning_rate": 0.3},
        "packing": {"row_tokens": 60},
        "gradient_checkpointing": True,
    }
    plain, compiled = (plain_grpo(tiny_model, compile=on, **options) for on in (False, True))
    assert not compiled.fused_kernels
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        steps = [fit(module, steps=3).steps[-1] for module in (plain, compiled)]
    assert steps[1]["train/gradient_norm"] == pytest.approx(steps[0]["train/gradient_norm"], rel=1e-4)
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], weight, atol=1e-5, rtol=1e-4)
