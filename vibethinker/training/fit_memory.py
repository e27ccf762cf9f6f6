"""The memory that a module's options need on a GPU, and the length of packed rows that fits beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from lightning.pytorch.utilities import rank_zero_info

from vibethinker.memory.estimate import Bits, Workload
from vibethinker.memory.update_plan import CPU_ROW_TOKENS, LONGEST, gpu_memory, plan_update
from vibethinker.models.loading import with_checkpointing
from vibethinker.models.reference import FrozenCopy

if TYPE_CHECKING:
    from vibethinker.training.policy_module import PolicyModule  # which imports this file

_PROMPT: Final = 256  # tokens of a demonstration's problem at the least


def settle_rows_(module: PolicyModule) -> None:
    """At the start of a fit: settles `packing.row_tokens` and `gradient_checkpointing` where they are `auto`."""
    trainer: Any = module.trainer
    asked, auto_checkpointing = module.packing.row_tokens, module.gradient_checkpointing == "auto"
    size = gpu_memory(module.device)
    module.row_tokens = max(CPU_ROW_TOKENS, module.max_length) if asked == "auto" else asked
    if not size or not (asked == "auto" or auto_checkpointing):
        return
    callbacks = [kind.__name__ for callback in trainer.callbacks for kind in type(callback).__mro__]
    try:
        work = workload(
            module,
            module.data.batch_size if module.data else None,
            autocast="mixed" in str(trainer.precision),
            replicas=trainer.world_size,
            samples=samples_between_updates(module, callbacks, trainer.limit_val_batches),
        )
        plan = plan_update(work, size, auto_rows=asked == "auto", auto_checkpointing=auto_checkpointing)
    except Exception as error:  # an architecture that cannot be traced without weights trains all the same
        rank_zero_info(
            f"packed rows of at most {module.row_tokens:,} tokens, gradient_checkpointing on: "
            f"this model's updates cannot be estimated: {error}"
        )
        recomputes = auto_checkpointing
    else:
        rank_zero_info(str(plan))
        recomputes = auto_checkpointing and plan.work.checkpointing
        if asked == "auto":
            module.row_tokens = plan.work.row_tokens
    if recomputes:
        with_checkpointing(module.policy)


def samples_between_updates(module: PolicyModule, callbacks: Iterable[str], val_batches: float | None) -> bool:
    """True where a fit has a replica to sample from between its updates.

    Args:
        module: of the fit; rollouts come in groups.
        callbacks: names of classes, among which a probe may be.
        val_batches: `trainer.limit_val_batches`.
    """
    return module.group_size > 1 or val_batches != 0 or any("DiversityProbe" in name for name in callbacks)


def workload(module: PolicyModule, batch_size: int | None, *, autocast: bool, replicas: int, samples: bool) -> Workload:
    """The most that a module's options allow on a GPU: every sequence as long as it may be.

    Args:
        module: with or without weights.
        batch_size: problems of a global batch, if that is known.
        autocast: True where updates run under it.
        replicas: processes of the run.
        samples: True where anything is sampled between updates.
    """
    group, asked, longest = module.group_size, module.packing.row_tokens, module.max_length
    room = longest - module.sampling.max_new_tokens
    sequences = None if batch_size is None else -(-batch_size // replicas) * group
    total = None if sequences is None else tokens_of_update(sequences, longest, room, group)
    row = max(LONGEST if asked == "auto" else asked, longest)
    return Workload(
        config=module.source.config,
        lora=module.lora,
        bits=_base_bits(module),
        checkpointing=module.gradient_checkpointing is True,
        autocast=autocast,
        fused=module.fused_kernels,
        row_tokens=row if total is None else min(row, total),
        update_tokens=total,
        max_length=longest,
        prompt_length=room if group > 1 else min(_PROMPT, longest // 2),
        group=group,
        slots=module.sampler.slots if samples else 0,
        rollouts=sequences or 0 if group > 1 else 0,
        reference=isinstance(module.reference, FrozenCopy),
        replicas=replicas,
    )


def _base_bits(module: PolicyModule) -> Bits:
    """Bits of a base weight on a GPU, whatever this machine has; the checkpoint may be quantized already."""
    stored = getattr(module.source.config, "quantization_config", None) or {}
    if module.quantization == "8bit" or stored.get("load_in_8bit"):
        return 8
    if module.quantization or stored:
        return 4
    return 32 if module.lora is None or module.base_dtype == "float32" else 16


def tokens_of_update(sequences: int, max_length: int, prompt_length: int = 0, group: int = 1) -> int:
    """Tokens of so many sequences, each as long as it may be, in one row.

    Args:
        sequences: of the update.
        max_length: of a sequence, its prompt included.
        prompt_length: of a prompt.
        group: sequences that share a prompt, which is in the row once.
    """
    shared = sequences - -(-sequences // group)
    return sequences * max_length - shared * prompt_length
