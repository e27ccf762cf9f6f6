"""Measures the speed and the accuracy of math verification; prints a table.

    python benchmarks/math_verification.py [LABELLED.jsonl …] [--workers 2] [--repeats 3]

A labelled file has a JSON object a line: `gold`, `pred` (a completion), `equal`, and perhaps `kind` and `contested`;
contested pairs are counted apart. Rates are the best of the repeats, on pairs that are in no cache, after the workers
have started; the batch with hangers includes their start.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vibethinker.rewards.math import MathReward, is_equivalent
from vibethinker.rewards.math.verifier import are_equivalent

HANGERS = 10
BATCH = 1024
Pairs = list[tuple[str, str]]


def exact_pairs(seed: int, count: int) -> Pairs:
    """Numbers, fractions, lists and words; half of them wrong."""
    pairs: Pairs = []
    for n in range(seed * count, (seed + 1) * count):
        wrong = n % 2
        kinds = (
            (str(n + wrong), str(n)),
            (f"{n + wrong}/7", rf"\\frac{{{n}}}{{7}}"),
            (f"{n + wrong}, 2", f"2,{n}"),
            (rf"{n + wrong}\text{{ cm}}", str(n)),
        )
        pairs.append(kinds[n // 2 % len(kinds)])
    return pairs


def symbolic_pairs(seed: int, count: int) -> Pairs:
    """Surds, polynomials, angles, complex numbers, lines, intervals, matrices; half of them wrong."""
    pairs: Pairs = []
    for n in range(seed * count + 2, (seed + 1) * count + 2):
        m = n + n % 2
        kinds = (
            (rf"\sqrt{{{2 * m * m}}}", rf"{n}\sqrt{{2}}"),
            (rf"(x+{m})^2", f"x^2+{2 * n}x+{n * n}"),
            (rf"{m}\pi/7", rf"\frac{{{n}\pi}}{{7}}"),
            (rf"\frac{{{m}}}{{1+i}}", rf"\frac{{{n}-{n}i}}{{2}}"),
            (f"y-{m}x=3", f"y={n}x+3"),
            (rf"({m},\infty)\cup(-\infty,-\sqrt{{2}})", rf"(-\infty,-\frac{{2}}{{\sqrt2}})\cup({n},\infty)"),
            (rf"\begin{{pmatrix}}{m}\\\sqrt{{8}}\end{{pmatrix}}", rf"\begin{{pmatrix}}{n}\\2\sqrt{{2}}\end{{pmatrix}}"),
            (rf"\sin {m}x", rf"2\sin\frac{{{n}x}}{{2}}\cos\frac{{{n}x}}{{2}}"),
        )
        pairs.append(kinds[n // 2 % len(kinds)])
    return pairs


def batch_with_hangers(seed: int) -> Pairs:
    """A training batch: as many symbolic answers as others, and ten that would take for ever, spread evenly."""
    half = BATCH // 2
    short = [pair for both in zip(exact_pairs(seed, half), symbolic_pairs(seed, half), strict=True) for pair in both]
    for n in range(HANGERS):
        hanger = (rf"f(x)+(x+y+{n})^{{3000}}", rf"f(x)+(x+y+{n + 1})^{{3000}}")
        short[n * (BATCH // HANGERS)] = hanger
    return short


def best_rate(reward: MathReward, make: Callable[[int, int], Pairs], count: int, repeats: int) -> float:
    rates = []
    for seed in range(repeats):
        pairs = make(seed + 1, count)
        start = time.perf_counter()
        reward.compare(pairs)
        rates.append(count / (time.perf_counter() - start))
    return max(rates)


def hanging_batch_seconds(workers: int, repeats: int) -> list[float]:
    seconds = []
    for seed in range(repeats):
        with MathReward(workers=workers) as reward:
            start = time.perf_counter()
            reward.compare(batch_with_hangers(seed + 10))
            seconds.append(time.perf_counter() - start)
            assert reward.timeouts == HANGERS, f"{reward.timeouts} of {HANGERS} hangers ran out of time"
    return seconds


def accuracy(path: Path) -> list[str]:
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    verdicts, slowest = [], 0.0
    is_equivalent(r"\boxed{\sqrt{12}}", r"2\sqrt{3}")  # start a worker
    for row in rows:
        start = time.perf_counter()
        verdicts.append(is_equivalent(row["pred"], row["gold"]))
        slowest = max(slowest, time.perf_counter() - start)
    batched = are_equivalent([row["pred"] for row in rows], [row["gold"] for row in rows])
    assert batched == verdicts, "a batch and single calls disagree"
    lines = []
    for name, contested in (("uncontested", False), ("contested", True)):
        pairs = [(row, v) for row, v in zip(rows, verdicts, strict=True) if bool(row.get("contested")) == contested]
        right = sum(row["equal"] == v for row, v in pairs)
        false = sum(v and not row["equal"] for row, v in pairs)
        lines.append(f"| {path.name}, {name} | {right} of {len(pairs)} right, {false} false positives |")
        lines += [
            f"|   wrong | {row.get('kind', '')}: `{row['gold'][:40]}`, accepted: {v} |"
            for row, v in pairs
            if row["equal"] != v
        ]
    return [*lines, f"| {path.name}, slowest pair | {slowest:.2f} s |"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labelled", nargs="*", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    print(f"{platform.machine()}, Python {platform.python_version()}, {options.workers} workers\n\n| | |\n|---|---|")
    with MathReward(workers=options.workers) as reward:
        reward.compare(symbolic_pairs(0, 64))  # start them all
        exact = best_rate(reward, exact_pairs, 4000, options.repeats)
        symbolic = best_rate(reward, symbolic_pairs, 1000, options.repeats)
        assert reward.timeouts == reward.crashes == 0
    print(f"| pairs without algebra | {exact:,.0f} a second |")
    print(f"| pairs with algebra, {options.workers} workers | {symbolic:,.0f} a second |")
    seconds = hanging_batch_seconds(options.workers, options.repeats)
    print(
        f"| {BATCH:,} pairs, {HANGERS} of them hanging | {min(seconds):.1f} s at best, {max(seconds):.1f} s at worst |"
    )
    for path in options.labelled:
        print("\n".join(accuracy(path)))


if __name__ == "__main__":
    main()
