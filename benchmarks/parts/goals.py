"""What was measured against what was to be reached, and what a missed goal would take, from the figures alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]


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
    sampled, stepped = (_of_trl(results, f"{what}_seconds") for what in ("rollout", "step"))
    with_sft, with_long = beside(results, "sft"), beside(results, "grpo-long")
    best, defaults = _best_trl(with_sft), get(with_sft, "trl-sft", "defaults")
    passes = max(_ours(results), key=lambda v: v["passes_tokens_per_second"], default={})
    head = of("head", "chunks", of("head", "default") or "") or {}
    return [
        Goal("rollout, 16 × 16, 128 + 256 tokens, whole call", short, 80_000, ".1fk tok/s"),
        Goal(
            "the same within a GRPO step, × TRL's",
            ratio(min(sampled, default=None), of("grpo-short", "rollout_seconds")),
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


def _of_trl(results: Results, figure: str) -> list[float]:
    """A figure of TRL's short GRPO steps that were measured in one run with ours; the best counts."""
    peers = (get(beside(results, "grpo-short"), name, figure) for name in ("trl-grpo-short", "trl-grpo-batching"))
    return [value for value in peers if value is not None]


def variants(results: Results, part: str) -> dict[str, dict[str, Any]]:
    found = get(results, part) or {}
    return {name: figures for name, figures in found.items() if isinstance(figures, dict) and "step_ms" in figures}


def _ours(results: Results) -> list[dict[str, Any]]:
    return [*variants(results, "sft").values(), *variants(results, "sft-compiled").values()]


def _best_trl(results: Results) -> dict[str, Any] | None:
    return max(variants(results, "trl-sft").values(), key=lambda v: v["tokens_per_second"], default=None)


def _ours_within(results: Results, peer: dict[str, Any] | None) -> float | None:
    """The best of our rates that takes no more memory than the peer; 0 where all take more."""
    ours = _ours(results)
    if peer is None or not ours:
        return None
    return max((v["tokens_per_second"] for v in ours if v["gib"] <= peer["gib"]), default=0.0)


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
