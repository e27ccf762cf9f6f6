"""The page that shows the figures and their goals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parts.goals import Results, get, goals, shortfalls, show, variants
from parts.setting import LIBRARIES


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def sampling_rows(results: Results) -> list[list[str]]:
    def row(work: str, figures: dict[str, Any] | None) -> list[str]:
        found = figures or {}
        return [
            work,
            show(found.get("tokens_per_second"), ".1fk"),
            show(found.get("step_ms"), ".2f"),
            show(found.get("seconds"), ".2f"),
            show(found.get("gib"), ".1f"),
            str(found.get("repeats") or ""),
        ]

    def sampled(part: str) -> dict[str, Any]:
        found = get(results, part) or {}
        names = {"tokens_per_second": "rollout_tokens_per_second", "seconds": "rollout_seconds", "repeats": "repeats"}
        return {name: found.get(key) for name, key in names.items()}

    return [
        row("ours, 16 × 16, 128 + 256", get(results, "rollout", "short")),
        row("TRL in its GRPO step, the same", sampled("trl-grpo-short")),
        row("TRL, continuous batching, the same", sampled("trl-grpo-batching")),
        row("transformers `generate`, bfloat16, the same", get(results, "generate", "short")),
        row("ours, 32 × 16, 128 + 2048", get(results, "rollout", "long")),
        row("ours, 64 × 16 in 512 slots, equal lengths of 512", get(results, "long-tail", "equal")),
        row("ours, the same, long-tailed, mean 512, longest 4,096", get(results, "long-tail", "tail")),
        row("ours, the longest of these by itself", get(results, "long-tail", "alone")),
    ]


def step_rows(results: Results) -> list[list[str]]:
    rows = []
    for work, name in (
        ("ours, 256 × 256", "grpo-short"),
        ("TRL, 256 × 256", "trl-grpo-short"),
        ("TRL, continuous batching, 256 × 256", "trl-grpo-batching"),
        ("ours, 256 × 2,048", "grpo-long"),
        ("TRL, 256 × 2,048", "trl-grpo-long"),
    ):
        found = get(results, name) or {}
        seconds, sampled = found.get("step_seconds"), found.get("rollout_seconds")
        rest = None if seconds is None or sampled is None else seconds - sampled
        cold = "" if found.get("warmed_up", True) else ", not warmed up"
        repeats = f"{found['repeats']}{cold}" if "repeats" in found else ""
        cells = [(seconds, ".2f"), (sampled, ".2f"), (rest, ".2f"), (found.get("gib"), ".1f")]
        rows.append([work, *(show(*cell) for cell in cells), repeats])
    return rows


def training_rows(results: Results) -> list[list[str]]:
    rows = []
    for who, part in (("ours", "sft"), ("ours", "sft-compiled"), ("TRL", "trl-sft")):
        for name, found in variants(results, part).items():
            cells = [
                (found["tokens_per_second"], ".1fk"),
                (found["step_ms"], ".0f"),
                (found.get("passes_ms"), ".0f"),
                (found.get("optimizer_and_rest_ms"), ".0f"),
                (found.get("share_of_peak"), ".0%"),
                (found["gib"], ".1f"),
            ]
            rows.append([f"{who}, {name}", *(show(*cell) for cell in cells), str(found["repeats"])])
    return rows


def head_rows(results: Results) -> list[list[str]]:
    found = get(results, "head") or {}
    measured = {"plain": found.get("plain"), **{f"chunks of {k}": v for k, v in found.get("chunks", {}).items()}}
    return [[name, show(v["ms"], ".1f"), show(v["gib"], ".2f")] for name, v in measured.items() if v]


def single_figures(results: Results) -> list[str]:
    """What no table holds, as lines."""
    lines = []
    sync, context, cpu = get(results, "rollout", "sync_seconds"), get(results, "context"), get(results, "cpu")
    if sync is not None:
        lines.append(f"- Weights into the replica (float32 → bfloat16): {show(1000 * sync, '.0f ms')}, median of 5.")
    if get(context or {}, "seconds"):
        lines.append(
            f"- One GRPO update of a sequence of {context['tokens']:,} tokens (reference, forward, backward with "
            f"recomputation, optimizer; rollouts given): {context['seconds']:.1f} s, peak {context['gib']:.1f} GiB."
        )
    if get(cpu or {}, "ratio"):
        lines.append(
            f"- CPU, nano model, {cpu['sequences']} sequences of {cpu['new_tokens']} new tokens after prompts of "
            f"{cpu['prompt_tokens'][0]} to {cpu['prompt_tokens'][1]}, {cpu['threads']} threads of "
            f"{cpu['machine']['cores']} shared cores, torch {cpu['machine']['torch']}: "
            f"ours {cpu['seconds']:.2f} s, `transformers.generate` {cpu['generate_seconds']:.2f} s (no log-probs); "
            f"median ratio of {cpu['pairs']} pairs {cpu['ratio']:.2f} ({', '.join(map(str, cpu['ratios']))}), of each "
            f"side's fastest call {cpu['fastest_ratio']:.2f}."
        )
    for name in ("bfloat16", "float32"):
        if found := get(results, "agreement", name):
            lines.append(
                f"- Rollout log-probs against a packed training forward, {name}: mean |Δ| {found['mean']:.2g}, "
                f"max {found['max']:.2g} over {found['tokens']:,} tokens."
            )
    return lines


def failures(results: Results) -> list[str]:
    found = {name: part["error"] for name, part in results.items() if isinstance(part, dict) and "error" in part}
    return [f"- `{name}` failed: {error.strip().splitlines()[-1]}" for name, error in found.items()]


def machines(results: Results) -> str:
    """Where and when the parts ran; which, where not all ran at one place on one day."""
    found: dict[str, list[str]] = {}
    for name, part in results.items():
        if isinstance(part, dict) and "machine" in part:
            found.setdefault(_machine(part), []).append(name)
    return "\n\n".join(
        where if len(found) == 1 else f"{where} There: {', '.join(names)}." for where, names in found.items()
    )


def _machine(part: dict[str, Any]) -> str:
    found = part["machine"]
    gpu = f"{found['gpu']} ({found['gpu_gib']:.0f} GiB)" if "gpu" in found else "no GPU"
    versions = ", ".join(f"{name} {found[name]}" for name in LIBRARIES if found.get(name))
    return f"{part.get('date')}, {gpu}, {found.get('cores')} CPU cores, Python {found.get('python')}, {versions}."


def tests(results: Results) -> str:
    """What pytest said."""
    said = get(results, "tests", "said")
    return f"`{get(results, 'tests', 'command')}`:\n\n    {said}" if said else "Not run."


def markdown(results: Results, command: str) -> str:
    """The page. `command` is what made the figures."""
    scale = "\nA smoke run: a tiny model, figures without meaning.\n" if results.get("smoke") else ""
    told = "\n".join([*single_figures(results), *failures(results)])
    return f"""# Performance
{scale}
    {command}

{machines(results)}

Qwen2.5-Math-1.5B's shape (Qwen2, 28 layers, 1,536 wide, 12 heads, 2 key-value heads, 151,936 words, tied), random
weights. Training holds float32 master weights under bfloat16 autocast, sampling a bfloat16 replica. Every part is a
process of its own. Training steps are timed between places in the device's work, on both sides, all else between two
waits for the device; figures are medians of the repeats that a table gives, after a warm-up. Memory is the peak that
PyTorch allocated. No completion ends before its limit, on either side. Ratios are taken within a run alone. The page is
written by the command, verdicts included.

## Goals

{table(["work", "goal", "measured", "reached"], [goal.row for goal in goals(results)])}

{shortfalls(results)}

## Sampling

Whole calls: prompts, decoding, log-probs where it is ours, results on the CPU. A step is one token of every sequence:
ours by the difference to calls of fewer tokens, transformers' the whole call over its tokens. In a fit graphs are made
again at every step, whose update gets their memory; that is part of its time.

{table(["work", "tokens/s", "ms a step", "s", "GiB", "repeats"], sampling_rows(results))}

## GRPO step

16 prompts × 16 rollouts, prompts of 128 tokens, β = 0.001, one update: weights into the replica, rollouts, reward,
reference, update. TRL generates with transformers' `generate` or by its continuous batching (which turns the weights
that TRL trains into bfloat16), with liger's kernels, without recomputation, in micro-batches of 16 and 4 sequences. At
2,048 tokens it runs one step, which nothing has warmed up and in whose peak the optimizer's moments are not there yet.
Rollouts are, for us, the last step's time from the weights to the rewards, for TRL the median of its sampling calls.

{table(["step", "s", "of it rollouts", "rest", "GiB", "steps"], step_rows(results))}

## Training

16,384 tokens a step in 16 sequences of 1,024 random letters with optimizer and clipping. TRL packs them (`wrapped`)
into rows of one sequence each. The share of the peak counts 6·N for each token and causal attention, recomputation not,
over 989 TFLOP/s; of N the head counts for prompts too, for which ours is not computed.

{
        table(
            ["step", "tokens/s", "ms a step", "forward + backward", "rest", "share of peak", "GiB", "steps"],
            training_rows(results),
        )
    }

## Head

{get(results, "head", "tokens") or 0:,} tokens, forward and backward, float32 weight under bfloat16 autocast; memory
above what is there before. Chunks of {get(results, "head", "default")} are the default.

{table(["head", "ms", "GiB"], head_rows(results))}

## Tests on the GPU

{tests(results)}

## Further figures

{told}
"""
