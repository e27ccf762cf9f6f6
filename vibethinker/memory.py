"""How much memory a fit needs on a GPU, known before any weight is loaded.

The update is not guessed: forward and backward of the real code run on fake tensors, which have shapes but no content,
and every storage that would live is added up. What a rollout keeps follows from the configuration. No GPU is needed.
"""

from __future__ import annotations

import copy
import weakref
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig

from vibethinker.attention import hidden_states
from vibethinker.fused import fuse_
from vibethinker.logprobs import linear_logprobs
from vibethinker.packing import PackedRow, pack
from vibethinker.policy import Lora, hollow, with_checkpointing
from vibethinker.rollout.cache import slot_bytes
from vibethinker.rollout.decoder import PREFILL_TOKENS
from vibethinker.rollout.sampling import Sampling

_ROUNDING = 512  # bytes, of CUDA's allocator
_ADAMW_STATE = 2 * 4  # two float32 moments
_HALF = 2
_BLOCK = 64  # weights of bitsandbytes that share a float32 scale


@dataclass(frozen=True)
class Workload:
    """What a fit puts on one device.

    Attributes:
        config: of the model.
        lora: the adapter, where one is trained.
        bits: of a base weight: 32 or 16, or 8 or 4 where linear layers are quantized.
        checkpointing: whether activations are recomputed.
        autocast: whether updates run under bfloat16 autocast.
        row_lengths: tokens of each sequence in the longest packed row of an update, its prompt included.
        prompt_length: tokens of a prompt at the longest.
        group: completions of a prompt.
        accumulates: whether an optimizer step takes several rows.
        slots: sequences sampled at one time; 0 when nothing is sampled.
        max_length: longest prompt plus completion that is sampled.
        sampling: how.
        reference: whether there is a frozen copy of the model.
        replicas: processes that exchange gradients.
        fused: whether decoder layers are fused where they can be.
        members: how many of the row's sequences share each prompt, in their order; empty where none is shared.
        rollouts: completions that are sampled before an update; as many as `slots` where it is less.
    """

    config: PreTrainedConfig
    lora: Lora | None
    bits: Literal[4, 8, 16, 32]
    checkpointing: bool
    autocast: bool
    row_lengths: tuple[int, ...]
    prompt_length: int
    group: int
    accumulates: bool
    slots: int
    max_length: int
    sampling: Sampling
    reference: bool
    replicas: int = 1
    fused: bool = False
    members: tuple[int, ...] = ()
    rollouts: int = 0

    @property
    def longest_row(self) -> PackedRow:
        """With tokens that say nothing."""
        groups = self.members or (1,) * len(self.row_lengths)
        lengths, prompts, completions = iter(self.row_lengths), [], []
        for count in groups:
            of_group = [next(lengths) for _ in range(count)]
            prompt = torch.zeros(min(self.prompt_length, min(of_group) - 1), dtype=torch.long)
            prompts += [prompt] * count
            completions += [torch.zeros(n - len(prompt), dtype=torch.long) for n in of_group]
        return pack(prompts, completions)


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
        return sum(self.resident.values()) + sum(self.update.values())

    @property
    def peak(self) -> int:
        """Updates and rollouts take turns, so the larger one counts."""
        return max(self.in_updates, sum(self.resident.values()) + sum(self.rollout.values()))


def estimate(work: Workload) -> Estimate:
    """Adds up what a fit keeps, and traces one update and one step of sampling."""
    policy = hollow(work.config, work.lora, torch.float32)
    parameters = {name: p.numel() for name, p in policy.named_parameters()}
    trainable = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    plain = sum(count for name, count in parameters.items() if "lora_" not in name)
    weights = _weight_bytes(policy, work.bits, _left_in_half(work.config))
    resident = {"policy": weights, "optimizer": _ADAMW_STATE * trainable}
    if work.replicas > 1:
        resident["gradient exchange"] = 4 * trainable
    if work.slots:
        resident["replica"] = _HALF * plain
    if work.reference:
        resident["reference"] = _HALF * plain
    gradients = 4 * trainable
    update = {"gradients": gradients, "activations": update_bytes(work) - gradients}
    return Estimate(sum(parameters.values()), trainable, resident, update, rollout_bytes(work) if work.slots else {})


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
    row = work.longest_row
    policy = hollow(work.config, work.lora, torch.float32 if work.bits == 32 else torch.bfloat16)
    if work.checkpointing:
        with_checkpointing(policy)
    if work.fused:
        fuse_(policy, _FusedFootprint())
    with _weightless(), Ledger() as ledger:
        policy = _faked(policy)
        ledger.peak = start = ledger.now
        trained = [p for p in policy.parameters() if p.requires_grad]
        if work.accumulates:
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
        with torch.autocast("cpu", torch.bfloat16, enabled=work.autocast):
            logp, entropy = _logprobs(policy, row)
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
    with _weightless(), Ledger() as ledger, torch.no_grad():
        replica = _faked(hollow(shallow, None, torch.bfloat16))
        ledger.peak = start = ledger.now
        of_prompts = min(max(PREFILL_TOKENS, work.prompt_length), -(-slots // work.group) * work.prompt_length)
        tokens = torch.zeros(max(of_prompts, slots), dtype=torch.long)
        hidden = hidden_states(replica, tokens, tokens, _FlashFootprint())
        replica.get_output_embeddings()(hidden[:slots])
        peak = ledger.peak - start
    kept = slots + max(slots, work.rollouts)  # completions under way, and those that are done
    completions = kept * work.max_length * (4 + 4 + 4)
    cache = (slots + 1) * slot_bytes(config, work.max_length, torch.bfloat16)
    return {"keys and values": cache, "sampler": completions + peak}


def _logprobs(policy: Any, row: PackedRow) -> tuple[Tensor, Tensor]:
    hidden = hidden_states(policy, row.input_ids, row.position_ids, _FlashFootprint())
    head = policy.get_output_embeddings().weight
    return linear_logprobs(hidden[row.predictors], head, row.targets, kernels=_HeadFootprint)


def _linear_layers(policy: Any) -> dict[str, nn.Linear]:
    """Those that quantization would hold in few bits: of the base, without the head."""
    head = policy.get_output_embeddings()
    modules = {n: m for n, m in policy.named_modules() if isinstance(m, nn.Linear) and m is not head}
    return {name: module for name, module in modules.items() if "lora_" not in name}


def _left_in_half(config: PreTrainedConfig) -> tuple[str, ...]:
    """Modules that a quantized checkpoint leaves in 16 bits."""
    stored = getattr(config, "quantization_config", None) or {}
    return tuple(stored.get("llm_int8_skip_modules") or ())


def _weight_bytes(policy: Any, bits: int, skipped: tuple[str, ...] = ()) -> int:
    wide = 4 if bits == 32 else _HALF
    few = {n: m for n, m in _linear_layers(policy).items() if bits < 16 and not any(part in n for part in skipped)}
    layers = {id(m.weight): m.weight.numel() for m in few.values()}
    packed = sum(n * bits // 8 + n // _BLOCK * 4 for n in layers.values())
    rest = (p for p in policy.parameters() if id(p) not in layers)
    return packed + sum(p.numel() * (4 if p.requires_grad else wide) for p in rest)


def _weightless() -> AbstractContextManager[Any]:
    return FakeTensorMode(allow_non_fake_inputs=True)


class Ledger(TorchDispatchMode):
    """Adds up the storages that are alive.

    Attributes:
        now: bytes alive.
        peak: the most there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._enter(leaf.untyped_storage())
        return out

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // _ROUNDING) * _ROUNDING
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class _HeadFootprint:
    """What the kernels on CUDA take, without their work."""

    @staticmethod
    def statistics(logits: Tensor, targets: Tensor, temperature: float) -> list[Tensor]:
        return [torch.empty(len(logits)) for _ in range(3)]

    @staticmethod
    def gradient_(logits: Tensor, *_: Any) -> Tensor:
        return logits

    @staticmethod
    def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
        return


class _FlashFootprint:
    """Keeps for backward what the flash kernel keeps; computes nothing."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out: Tensor = _FlashKept.apply(query, key, value)
        return out


class _FlashKept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(query.shape)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:2], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        wide = query.new_empty(query.shape, dtype=torch.float32)  # the query's gradient is summed in float32
        made = query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)
        del wide
        return made


class _FusedFootprint:
    """Keeps for backward what the kernels of a layer keep; computes nothing."""

    def add_norm(
        self,
        residual: Tensor,
        update: Tensor | None,
        weight: Tensor,
        epsilon: float,
        dtype: torch.dtype,
        readers: int = 1,
    ) -> tuple[Tensor, ...]:
        out: tuple[Tensor, ...] = _NormKept.apply(residual, update, weight, dtype, readers)
        return out

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        return self.add_norm(x, None, weight, epsilon, dtype)[1]

    def rotate(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        query, key = (_RotationKept.apply(x, cos, sin) for x in (query, key))
        return query, key

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        out: Tensor = _GateKept.apply(gate, up)
        return out


class _NormKept(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, update: Tensor | None, weight: Tensor, dtype: torch.dtype, readers: int
    ) -> tuple[Tensor, ...]:
        total = residual
        if update is not None:
            total = torch.empty_like(residual, dtype=torch.promote_types(residual.dtype, update.dtype))
        out = torch.empty_like(residual, dtype=dtype)
        ctx.save_for_backward(total, weight, residual.new_empty(residual.shape[:-1], dtype=torch.float32))
        ctx.dtypes = residual.dtype, None if update is None else update.dtype
        ctx.set_materialize_grads(False)
        return total, out, *(out.detach() for _ in range(readers - 1))

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor | None, ...]:
        total, weight, _ = ctx.saved_tensors
        of_residual, of_update = ctx.dtypes
        made = {dtype: torch.empty_like(total, dtype=dtype) for dtype in ctx.dtypes if dtype is not None}
        to_weight = torch.empty_like(weight) if ctx.needs_input_grad[2] else None
        return made[of_residual], made.get(of_update), to_weight, None, None


class _RotationKept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return torch.empty_like(grad), None, None


class _GateKept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return torch.empty_like(gate)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.empty_like(gate), torch.empty_like(up)
