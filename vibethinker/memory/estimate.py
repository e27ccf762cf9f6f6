"""How much memory a fit needs on a GPU, known before any weight is loaded.

The update is not guessed: forward and backward of the real code run on fake tensors, which have shapes but no content,
and every storage that would live is added up. What a rollout keeps follows from the configuration. No GPU is needed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedConfig

from vibethinker.logprobs import linear_logprobs
from vibethinker.memory.footprints import FlashFootprint, FusedFootprint, HeadFootprint, Ledger
from vibethinker.models.loading import Lora, build_model, with_checkpointing, with_lora
from vibethinker.packed.attention import hidden_states
from vibethinker.packed.patching import fuse_
from vibethinker.rollout.decoder import PREFILL_TOKENS
from vibethinker.rollout.kv_cache import slot_bytes

Bits = Literal[4, 8, 16, 32]
_ADAMW_STATE = 2 * 4  # two float32 moments
_HALF = 2
_BLOCK = 64  # weights of bitsandbytes that share a float32 scale


@dataclass(frozen=True)
class Workload:
    """The most that the options of a fit put on one device.

    Attributes:
        config: of the model.
        lora: the adapter, where one is trained.
        bits: of a base weight: 32 or 16, or 8 or 4 where linear layers are quantized.
        checkpointing: True where activations are recomputed.
        autocast: True where updates run under bfloat16 autocast.
        fused: True where decoder layers are fused if they can be.
        row_tokens: tokens of the longest packed row.
        update_tokens: tokens of the largest update, `None` where it has no bound.
        max_length: longest prompt plus completion in tokens.
        prompt_length: longest prompt in tokens.
        group: completions of a prompt.
        slots: sequences sampled at one time; 0 when nothing is sampled.
        rollouts: completions that are sampled before an update.
        reference: True where there is a frozen copy of the model.
        replicas: processes that exchange gradients.
    """

    config: PreTrainedConfig
    lora: Lora | None
    bits: Bits
    checkpointing: bool
    autocast: bool
    fused: bool
    row_tokens: int
    update_tokens: int | None
    max_length: int
    prompt_length: int
    group: int
    slots: int
    rollouts: int
    reference: bool
    replicas: int

    @property
    def accumulates(self) -> bool:
        """True where an update takes several rows."""
        return self.update_tokens is None or self.row_tokens < self.update_tokens


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device, and how many parameters there are.

    Attributes:
        parameters: of the model, the adapter included.
        trainable: those of them that are trained.
        resident: what is there all the time, by name.
        update: what an update needs beside it, by name.
        rollout: what sampling needs beside it, by name.
    """

    parameters: int
    trainable: int
    resident: dict[str, int]
    update: dict[str, int]
    rollout: dict[str, int]

    @property
    def in_updates(self) -> int:
        """Bytes while updates run."""
        return sum(self.resident.values()) + sum(self.update.values())

    @property
    def peak(self) -> int:
        """Updates and rollouts alternate, so the larger one counts."""
        return max(self.in_updates, sum(self.resident.values()) + sum(self.rollout.values()))


def estimate(work: Workload) -> Estimate:
    """Adds up what a fit keeps, and traces one update and one step of sampling."""
    policy = _on_meta(work, torch.float32)
    parameters = {name: p.numel() for name, p in policy.named_parameters()}
    trainable = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    plain = sum(count for name, count in parameters.items() if "lora_" not in name)
    resident = {"policy": _weight_bytes(policy, work), "optimizer": _ADAMW_STATE * trainable}
    if work.replicas > 1:
        resident["gradient exchange"] = 4 * trainable
    if work.slots:
        resident["replica"] = _HALF * plain
    if work.reference:
        resident["reference"] = _HALF * plain
    gradients = 4 * trainable
    update = {"gradients": gradients, "activations": update_bytes(work) - gradients}
    return Estimate(sum(parameters.values()), trainable, resident, update, rollout_bytes(work) if work.slots else {})


def _on_meta(work: Workload, dtype: torch.dtype) -> Any:
    model = build_model(work.config, dtype).train()
    return model if work.lora is None else with_lora(model, work.lora)


def _faked(policy: nn.Module) -> Any:
    """The same on fake tensors of the current mode; what is tied stays tied."""
    made: dict[int, Any] = {}
    for module in policy.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None and id(tensor) not in made:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    made[id(tensor)] = (
                        nn.Parameter(empty, tensor.requires_grad) if store is module._parameters else empty
                    )
                store[name] = None if tensor is None else made[id(tensor)]
    return policy


def update_bytes(work: Workload) -> int:
    """Peak of forward and backward over the longest row beyond the weights, gradients included."""
    policy = _on_meta(work, torch.float32 if work.bits == 32 else torch.bfloat16)
    if work.checkpointing:
        with_checkpointing(policy)
    if work.fused:
        fuse_(policy, FusedFootprint())
    with FakeTensorMode(allow_non_fake_inputs=True), Ledger() as ledger:
        policy = _faked(policy)
        ledger.peak = start = ledger.now
        trained = [p for p in policy.parameters() if p.requires_grad]
        if work.accumulates:
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
        with torch.autocast("cpu", torch.bfloat16, enabled=work.autocast):
            logp, entropy = _logprobs(policy, work.row_tokens)
            loss = -logp.sum() + entropy.detach().sum()
        loss.backward()
        expanded = 0 if work.bits >= 16 else _HALF * max(m.weight.numel() for m in _linear_layers(policy).values())
        return ledger.peak - start + expanded


def rollout_bytes(work: Workload) -> dict[str, int]:
    """Keys, values and completions of every slot, and the peak of computing prompts or of one step."""
    config, slots = work.config, work.slots
    shallow = copy.deepcopy(config)
    shallow.num_hidden_layers = 1  # nothing is kept from one layer to the next
    if getattr(shallow, "layer_types", None):
        shallow.layer_types = shallow.layer_types[:1]
    with FakeTensorMode(allow_non_fake_inputs=True), Ledger() as ledger, torch.no_grad():
        replica = _faked(build_model(shallow, torch.bfloat16))
        ledger.peak = start = ledger.now
        of_prompts = min(max(PREFILL_TOKENS, work.prompt_length), -(-slots // work.group) * work.prompt_length)
        tokens = torch.zeros(max(of_prompts, slots), dtype=torch.long)
        hidden = hidden_states(replica, tokens, tokens, FlashFootprint())
        replica.get_output_embeddings()(hidden[:slots])
        peak = ledger.peak - start
    kept = slots + max(slots, work.rollouts)  # completions under way, and those that are done
    completions = kept * work.max_length * (4 + 4 + 4)
    cache = (slots + 1) * slot_bytes(config, work.max_length, torch.bfloat16)
    return {"keys and values": cache, "sampler": completions + peak}


def _logprobs(policy: Any, tokens: int) -> tuple[Tensor, Tensor]:
    """Of a row in which every token is one of a completion."""
    ids = torch.zeros(tokens, dtype=torch.long)
    hidden = hidden_states(policy, ids, ids, FlashFootprint())
    head = policy.get_output_embeddings().weight
    return linear_logprobs(hidden[ids], head, ids, kernels=HeadFootprint)


def _linear_layers(policy: Any) -> dict[str, nn.Linear]:
    """Those that quantization would hold in few bits: of the base, without the head."""
    head = policy.get_output_embeddings()
    modules = {n: m for n, m in policy.named_modules() if isinstance(m, nn.Linear) and m is not head}
    return {name: module for name, module in modules.items() if "lora_" not in name}


def _weight_bytes(policy: Any, work: Workload) -> int:
    bits, stored = work.bits, getattr(work.config, "quantization_config", None) or {}
    skipped = stored.get("llm_int8_skip_modules") or ()  # a quantized checkpoint leaves these in 16 bits
    wide = 4 if bits == 32 else _HALF
    few = {n: m for n, m in _linear_layers(policy).items() if bits < 16 and not any(part in n for part in skipped)}
    layers = {id(m.weight): m.weight.numel() for m in few.values()}
    packed = sum(n * bits // 8 + n // _BLOCK * 4 for n in layers.values())
    rest = (p for p in policy.parameters() if id(p) not in layers)
    return packed + sum(p.numel() * (4 if p.requires_grad else wide) for p in rest)
