"""`vibethinker fit … --dry_run`: what a fit trains and how much memory it takes, without weights and without data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from vibethinker.memory.estimate import Estimate, Workload, estimate
from vibethinker.memory.update_plan import USABLE, plan_update
from vibethinker.models.loading import Lora
from vibethinker.training import fit_memory
from vibethinker.training.policy_module import PolicyModule

_GIB: Final = 2**30
_SIZES: Final = (16, 24, 40, 48, 80, 141)  # GiB that cards come with


def describe(module: PolicyModule, config: Any, memory: float) -> None:
    """Prints parameters, memory by part, and what to change if it will not fit.

    Args:
        module: of the fit, without weights.
        config: all options of the fit.
        memory: GiB to fit into; the GPU's own when 0.
    """
    console = Console(soft_wrap=True, highlight=False)
    work = workload(module, config)
    size = memory or (torch.cuda.mem_get_info()[1] / _GIB if torch.cuda.is_available() else 0.0)
    automatic = module.gradient_checkpointing == "auto"
    with console.status("adding up"):
        if size:
            auto_rows = module.packing.row_tokens == "auto"
            plan = plan_update(work, size * _GIB, auto_rows=auto_rows, auto_checkpointing=automatic)
            work, made, rows = plan.work, plan.estimated, str(plan)
        else:
            made, rows = estimate(work), f"packed rows of at most {work.row_tokens:,} tokens"
    console.print(
        f"{module.source.name}: {_millions(made.parameters)} parameters, {_millions(made.trainable)} trained",
        f"({made.trainable / made.parameters:.1%})",
    )
    console.print(rows)
    console.print(_table(made))
    if not size:
        console.print(_sizes(made))
        if automatic:
            recomputed = estimate(replace(work, checkpointing=True))
            console.print(f"on less gradient_checkpointing=auto recomputes activations: {_sizes(recomputed)}")
    elif made.peak <= USABLE * size * _GIB:
        console.print(f"fits into {size:.0f} GiB")
    else:
        with console.status("looking for what helps"):
            advice = "\n".join(_advice(work, made, size))
        console.print(f"does not fit into {size:.0f} GiB, of which {USABLE:.0%} can be counted on\n{advice}")


def workload(module: PolicyModule, config: Any) -> Workload:
    """The most that the options of a fit allow on each device."""
    callbacks = config.trainer.callbacks or []
    names = [str(c.get("class_path")) for c in (callbacks if isinstance(callbacks, list) else [callbacks])]
    samples = fit_memory.samples_between_updates(module, names, config.trainer.limit_val_batches)
    return fit_memory.workload(
        module,
        config.data.init_args.batch_size,
        autocast="mixed" in str(config.trainer.precision),
        replicas=_devices(config),
        samples=samples,
    )


def _sizes(made: Estimate) -> str:
    fitting = [s for s in _SIZES if made.peak <= USABLE * s * _GIB]
    return f"fits into {fitting[0]} GiB and more" if fitting else f"fits into none of {_SIZES[-1]} GiB"


def _advice(work: Workload, made: Estimate, size: float) -> Iterator[str]:
    """Changes one after the other, each with what is needed then, until it fits."""
    for change, better in _changes(work, made):
        if better.peak < made.peak:
            yield f"  with {change}: {better.peak / _GIB:.1f} GiB"
            made = better
        if made.peak <= USABLE * size * _GIB:
            return
    yield "  more than that is not enough: a shorter max_length, a smaller model, or more memory"


def _changes(work: Workload, made: Estimate) -> Iterator[tuple[str, Estimate]]:
    """From what costs least to what changes most; each builds on those before it."""
    if not work.checkpointing:
        work = replace(work, checkpointing=True)
        yield "model.gradient_checkpointing=true", (made := estimate(work))
    if work.row_tokens > work.max_length:
        work = replace(work, row_tokens=work.max_length)
        yield f"model.packing.row_tokens={work.row_tokens}", (made := estimate(work))
    work = _as_many_slots_as_an_update_has_room_for(work, made)
    yield f"model.sampler.slots={work.slots}", estimate(work)
    if work.lora is None:
        work = replace(work, lora=Lora(rank=32), bits=16, reference=False)
        yield "model.lora.rank=32", (made := estimate(work))
    if work.bits > 8:
        work = replace(work, bits=4)
        yield "model.quantization=4bit", (made := estimate(work))
    work = _as_many_slots_as_an_update_has_room_for(work, made)
    yield f"model.sampler.slots={work.slots}", estimate(work)


def _as_many_slots_as_an_update_has_room_for(work: Workload, made: Estimate) -> Workload:
    update, rollout = sum(made.update.values()), sum(made.rollout.values())
    return replace(work, slots=max(work.slots * update // rollout, 1)) if rollout > update else work


def _table(made: Estimate) -> Table:
    table = Table("memory of one device", "GiB", box=SIMPLE_HEAD)
    table.columns[1].justify = "right"
    for before, parts in (("", made.resident), ("in updates, ", made.update), ("in rollouts, ", made.rollout)):
        for name, size in parts.items():
            table.add_row(before + name, f"{size / _GIB:.1f}")
    table.add_row("peak", f"{made.peak / _GIB:.1f}", style="bold")
    return table


def _devices(config: Any) -> int:
    asked = config.trainer.devices
    if asked in ("auto", -1, "-1"):
        asked = max(torch.cuda.device_count(), 1)
    return (len(asked) if isinstance(asked, list) else int(asked)) * int(config.trainer.num_nodes)


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f}M"
