"""Whether an update recomputes its activations in backward: only where it would not fit into memory otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from transformers import PreTrainedConfig

from vibethinker.memory.estimate import Estimate, Workload, estimate
from vibethinker.models.loading import with_checkpointing
from vibethinker.models.reference import FrozenCopy

if TYPE_CHECKING:
    from vibethinker.training.policy_module import PolicyModule

USABLE: Final = 0.88  # the allocator was seen to hold 4 to 17% more than is in use, and CUDA itself half a GiB
_GIB: Final = 2**30
_PROMPT: Final = 256  # tokens of a demonstration that are its problem; only the others reach the head


def recomputes(made: Estimate, size: float) -> bool:
    """Whether updates that keep their activations, as estimated, do not fit into `USABLE` of `size` bytes."""
    return made.in_updates > USABLE * size


def choice(made: Estimate, size: float) -> str:
    """What `recomputes` says, as a line for people."""
    needed, there = f"{made.in_updates / _GIB:.1f} GiB", f"{USABLE:.0%} of {size / _GIB:.1f} GiB can be counted on"
    what = f"on, updates would take {needed}" if recomputes(made, size) else f"off, updates take {needed}"
    return f"gradient_checkpointing=auto: {what} without; {there}"


def decide_(module: PolicyModule) -> None:
    """At the start of a fit: settles `gradient_checkpointing="auto"` for the GPU it runs on, and says how."""
    trainer: Any = module.trainer
    size = memory_of(module.device)
    if module.gradient_checkpointing != "auto" or not size:
        return
    problems = getattr(trainer.datamodule, "batch_size", None)
    if problems is None and module.row_tokens is None:
        rank_zero_info("gradient_checkpointing=auto: off, since neither data.batch_size nor model.row_tokens is known")
        return
    autocast = "mixed" in str(trainer.precision)
    callbacks = [kind.__name__ for callback in trainer.callbacks for kind in type(callback).__mro__]
    samples = samples_in_between(module, callbacks, trainer.limit_val_batches)
    try:
        made = estimate(workload(module, problems, autocast=autocast, replicas=trainer.world_size, samples=samples))
    except Exception as error:  # an architecture that cannot be followed without weights trains all the same
        rank_zero_info(f"gradient_checkpointing=auto: on, since this model's updates cannot be estimated: {error}")
        with_checkpointing(module.policy)
        return
    rank_zero_info(choice(made, size))
    if recomputes(made, size):
        with_checkpointing(module.policy)


def samples_in_between(module: PolicyModule, callbacks: Iterable[str], val_batches: float | None) -> bool:
    """Whether a fit samples between its updates, and so holds a replica: in rollouts, validation, a probe by name."""
    return hasattr(module, "group_size") or val_batches != 0 or any("DiversityProbe" in name for name in callbacks)


def memory_of(device: torch.device) -> int:
    """Bytes of a GPU that no other process has; 0 of a CPU."""
    if device.type != "cuda":
        return 0
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


def workload(module: PolicyModule, problems: int | None, *, autocast: bool, replicas: int, samples: bool) -> Workload:
    """The most that a module's options allow on a GPU: every sequence as long as it may be.

    Args:
        module: with or without weights.
        problems: of a global batch; unknown only where `row_tokens` bounds a row.
        autocast: whether updates run under it.
        replicas: processes of the run.
        samples: whether anything is sampled between updates.
    """
    group: int | None = getattr(module, "group_size", None)  # of a rollout; demonstrations come one by one
    stored = module.source.config
    of_batch = None if problems is None else -(-problems // replicas) * (group or 1)
    sequences = None if of_batch is None else -(-of_batch // module.micro_batches)
    room = module.max_length - module.sampling.max_new_tokens
    row = longest_row(sequences, module.max_length, module.row_tokens, room, group or 1)
    return Workload(
        config=stored,
        lora=module.lora,
        bits=_bits(module, stored),
        checkpointing=module.gradient_checkpointing is True,
        autocast=autocast,
        row_lengths=row,
        prompt_length=room if group else min(_PROMPT, module.max_length // 2),
        group=group or 1,
        accumulates=module.micro_batches > 1 or len(row) != sequences or sum(row) < len(row) * module.max_length,
        slots=module.slots if samples else 0,
        max_length=module.max_length,
        sampling=module.sampling,
        reference=isinstance(getattr(module, "reference", None), FrozenCopy),
        replicas=replicas,
        fused=module.fused_kernels,
        members=members(len(row), group, begins_within=len(row) == sequences) if group else (),
        rollouts=(of_batch or 0) if group else 0,
    )


def longest_row(
    sequences: int | None, longest: int, budget: int | None, prompt: int = 0, group: int = 1
) -> tuple[int, ...]:
    """Tokens of each sequence, its prompt included, in the longest row there can be.

    Args:
        sequences: of a micro-batch; `None` for any number of them.
        longest: tokens of a sequence at the most.
        budget: of a row, if there is one; a shared prompt counts once.
        prompt: tokens of a prompt at the most.
        group: sequences that share one.
    """
    if sequences is None and budget is None:
        raise ValueError("a row of any number of sequences needs a budget")
    row: list[int] = []
    room: float = math.inf if budget is None else max(budget, longest)
    while sequences is None or len(row) < sequences:
        shared = prompt if len(row) % group else 0
        whole = int(min(longest, room + shared))
        if whole - shared < 1 or whole < 2:
            break
        row.append(whole)
        room -= whole - shared
    return tuple(row)


def members(sequences: int, group: int, begins_within: bool) -> tuple[int, ...]:
    """How many sequences of a row share each prompt.

    Args:
        sequences: of the row.
        group: sequences of a prompt.
        begins_within: whether the row may begin, and then end, in the middle of a group: a micro-batch may, where the
            number of its sequences is not a multiple of the group's.
    """
    if begins_within and sequences % group:
        return (1, *members(sequences - 1, group, False))
    full, rest = divmod(sequences, group)
    return (group,) * full + ((rest,) if rest else ())


def _bits(module: PolicyModule, config: PreTrainedConfig) -> Literal[4, 8, 16, 32]:
    """Of the base's weights on a GPU, whatever this machine has."""
    stored = getattr(config, "quantization_config", None) or {}
    if module.quantization == "8bit" or stored.get("load_in_8bit"):
        return 8
    if module.quantization or stored:
        return 4
    return 32 if module.lora is None or module.base_dtype == "float32" else 16
