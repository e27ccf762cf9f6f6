"""The page: what was measured against what was to be reached, from the figures alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]
_LIBRARIES = ("torch", "triton", "transformers", "lightning", "liger-kernel", "trl")


@dataclass(frozen=True)
class Goal:
    """A figure and its bound.

    Attributes:
        work: what is measured.
        value: `None` when it was not.
        bound: to be reached.
        form: of both.
        at_most: whether the bound is an upper one.
    """

    work: str
    value: float | None
    bound: float
    form: str
    at_most: bool = False

    @property
    def reached(self) -> bool | None:
        if self.value is None:
            return None
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    @property
    def row(self) -> list[str]:
        verdict = {True: "yes", False: "**not reached**", None: "not measured"}[self.reached]
        sign = "≤" if self.at_most else "≥"
        return [self.work, f"{sign} {show(self.bound, self.form)}", show(self.value, self.form), verdict]


def show(value: float | None, form: str) -> str:
    """`form` is a format with its unit, like `.1f ms`; `k` shows thousands."""
    if value is None:
        return ""
    number, _, unit = form.partition(" ")
    if number.endswith("k"):
        return f"{format(value / 1000, number[:-1])}k {unit}".strip()
    return f"{format(value, number)}{' ' * (unit not in ('', '×'))}{unit}"


def get(results: Results, *path: str) -> Any:
    """The figure at a path, `None` where a part is missing or failed before it."""
    value: Any = results
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def beside(results: Results, part: str) -> Results:
    """What was measured in one run with a part: cards of one kind differ, so that ratios across runs mean little."""
    run = get(results, part, "date")
    return {name: found for name, found in results.items() if isinstance(found, dict) and found.get("date") == run}


def goals(results: Results) -> list[Goal]:
    """Every goal of the table in the order of the work."""

    def of(*path: str) -> Any:
        return get(results, *path)

    rate = "tokens_per_second"
    short, step = of("rollout", "short", rate), of("grpo-short", "step_seconds")
    sampled, stepped = _of_trl(results, "rollout", f"rollout_{rate}"), _of_trl(results, "grpo-short", "step_seconds")
    with_sft, with_long = beside(results, "sft"), beside(results, "grpo-long")
    best, defaults = _best_trl(with_sft), get(with_sft, "trl-sft", "defaults")
    passes = max(_ours(results), key=lambda v: v["passes_tokens_per_second"], default={})
    head = of("head", "chunks", of("head", "default") or "") or {}
    return [
        Goal("rollout, 16 × 16, 128 + 256 tokens, whole call", short, 80_000, ".1fk tok/s"),
        Goal(
            "the same, × TRL's sampling",
            ratio(short, max(sampled, default=None)),
            8,
            ".1f ×",
        ),
        Goal("decode step of 256 sequences", of("rollout", "short", "step_ms"), 3.0, ".2f ms", at_most=True),
        Goal("rollout, 32 × 16, 128 + 2048 tokens", of("rollout", "long", rate), 70_000, ".1fk tok/s"),
        Goal(
            "long-tailed lengths, share of the rate of equal ones",
            ratio(of("long-tail", "tail", rate), of("long-tail", "equal", rate)),
            0.7,
            ".0%",
        ),
        Goal("warm-up (kernels, graphs)", of("rollout", "warm_up_seconds"), 10, ".1f s", at_most=True),
        Goal("GRPO step, 256 × 256 tokens, β > 0", step, 3.3, ".2f s", at_most=True),
        Goal(
            "the same, × TRL",
            ratio(min(stepped, default=None), step),
            3.3,
            ".1f ×",
        ),
        Goal(
            "GRPO step, 256 × 2,048 tokens, × TRL",
            ratio(get(with_long, "trl-grpo-long", "step_seconds"), of("grpo-long", "step_seconds")),
            5,
            ".1f ×",
        ),
        Goal("forward + backward, 16 × 1,024 tokens", passes.get("passes_tokens_per_second"), 50_000, ".1fk tok/s"),
        Goal("the same, share of 989 TFLOP/s", passes.get("share_of_peak"), 0.48, ".0%"),
        Goal(
            "SFT step, × TRL's best, at no more memory",
            ratio(_ours_within(with_sft, best), (best or {}).get(rate)),
            1.4,
            ".2f ×",
        ),
        Goal(
            "SFT step, × TRL's defaults, at no more memory",
            ratio(_ours_within(with_sft, defaults), (defaults or {}).get(rate)),
            2,
            ".2f ×",
        ),
        Goal("head, × time of the plain one", ratio(head.get("ms"), of("head", "plain", "ms")), 1.15, ".2f ×", True),
        Goal("head, peak above its inputs", head.get("gib"), 2, ".2f GiB", at_most=True),
        Goal("longest sequence of one GRPO update", of("context", "tokens"), 65_536, ",d tokens"),
        Goal("CPU: engine × `transformers.generate`, nano model", of("cpu", "ratio"), 3, ".2f ×"),
        Goal("mean ∣Δ log-prob∣, bfloat16", of("agreement", "bfloat16", "mean"), 0.02, ".2g", at_most=True),
        Goal("mean ∣Δ log-prob∣, float32", of("agreement", "float32", "mean"), 1e-4, ".2g", at_most=True),
    ]


def _of_trl(results: Results, part: str, figure: str) -> list[float]:
    """A figure of TRL's short GRPO steps that were measured in one run with a part of ours; the best counts."""
    peers = (get(beside(results, part), name, figure) for name in ("trl-grpo-short", "trl-grpo-batching"))
    return [value for value in peers if value is not None]


def _variants(results: Results, part: str) -> dict[str, dict[str, Any]]:
    found = get(results, part) or {}
    return {name: figures for name, figures in found.items() if isinstance(figures, dict) and "step_ms" in figures}


def _ours(results: Results) -> list[dict[str, Any]]:
    return [*_variants(results, "sft").values(), *_variants(results, "sft-compiled").values()]


def _best_trl(results: Results) -> dict[str, Any] | None:
    return max(_variants(results, "trl-sft").values(), key=lambda v: v["tokens_per_second"], default=None)


def _ours_within(results: Results, peer: dict[str, Any] | None) -> float | None:
    """The best of our rates that takes no more memory than the peer; 0 where all take more."""
    ours = _ours(results)
    if peer is None or not ours:
        return None
    return max((v["tokens_per_second"] for v in ours if v["gib"] <= peer["gib"]), default=0.0)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def sampling_rows(results: Results) -> list[list[str]]:
    def row(work: str, figures: dict[str, Any] | None, form: str = "") -> list[str]:
        found = figures or {}
        repeats = found.get("repeats")
        return [
            work,
            show(found.get("tokens_per_second"), ".1fk"),
            show(found.get("step_ms"), ".2f"),
            show(found.get("seconds"), ".2f"),
            show(found.get("gib"), ".1f"),
            str(repeats) if repeats else form,
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
        for name, found in _variants(results, part).items():
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
    versions = ", ".join(f"{name} {found[name]}" for name in _LIBRARIES if found.get(name))
    return f"{part.get('date')}, {gpu}, {found.get('cores')} CPU cores, Python {found.get('python')}, {versions}."


def shortfalls(results: Results) -> str:
    """Why goals were not reached, as far as it is known."""
    why = {} if results.get("smoke") else reasons(results)
    missed = [goal.work for goal in goals(results) if goal.reached is False]
    return "\n".join(f"- {work}: {why[work]}" for work in missed if work in why)


def reasons(results: Results) -> dict[str, str]:
    """What stands between a goal and its figure, where the figures tell."""
    found = {}
    alone, equal = (get(results, "long-tail", name) for name in ("alone", "equal"))
    if alone and equal:
        seconds, step = alone["seconds"], 1000 * alone["seconds"] / alone["tokens"]
        found["long-tailed lengths, share of the rate of equal ones"] = (
            f"The longest completion takes {seconds:.1f} s by itself, {step:.2f} ms a step, and all equal ones "
            f"together {equal['seconds']:.1f} s: were the other completions for nothing, it would be "
            f"{min(1.0, equal['seconds'] / seconds):.0%}. A step of few sequences is some 250 kernels of a few "
            "microseconds each; reading all weights once would take less than half of it."
        )
    kept, recomputed = (get(results, "sft", name) for name in ("no recomputation", "recomputation"))
    with_sft = beside(results, "sft")
    best, defaults = _best_trl(with_sft), get(with_sft, "trl-sft", "defaults")
    if kept and best:
        milliseconds, share = _passes_for(1.4, kept, best)
        found["SFT step, × TRL's best, at no more memory"] = (
            f"It takes forward and backward in {milliseconds:.0f} ms, {share:.0%} of the peak. Both sides spend most "
            "of a step in the same matrix products and attention."
        )
    if recomputed and defaults:
        milliseconds, share = _passes_for(2, recomputed, defaults)
        found["SFT step, × TRL's defaults, at no more memory"] = (
            f"Within that memory both sides recompute activations; it takes that, forward and backward in "
            f"{milliseconds:.0f} ms, {share * 4 / 3:.0%} of the peak with the second forward counted."
        )
    products, theirs = (get(results, "cpu", name) for name in ("products_seconds", "generate_seconds"))
    if products and theirs:
        found["CPU: engine × `transformers.generate`, nano model"] = (
            f"The products of small matrices alone take {products:.2f} of the {theirs / 3:.2f} s that a call may take."
        )
    return found


def _passes_for(times: float, ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, float]:
    """Milliseconds that forward and backward may take for a step so many times as fast, and their share of the peak."""
    milliseconds = theirs["step_ms"] / times - ours["optimizer_and_rest_ms"]
    return milliseconds, ours["share_of_peak"] * ours["passes_ms"] / milliseconds


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
over 989 TFLOP/s.

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
