"""What the demo takes and brings: runs the nano recipe once from nothing and writes docs/demo.md.

    python benchmarks/demo.py [--jobs 2] [--write docs/demo.md]

Seconds are wall clock of the whole command; memory is the proportional set size of its processes together, sampled
every two seconds (Linux). Nothing is chosen by looking at the test split, which the figures here come from.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RECIPE = "configs/nano/recipe.yaml"
Row = dict[str, Any]


def run_demo(output: Path, jobs: int) -> tuple[float, int]:
    """Wall-clock seconds and peak bytes of `vibethinker run`."""
    command = ["vibethinker", "run", RECIPE, "--output", str(output), "--jobs", str(jobs)]
    start, peak = time.monotonic(), 0
    process = subprocess.Popen([sys.executable, "-m", "vibethinker.cli.main", *command[1:]])
    while process.poll() is None:
        peak = max(peak, sum(map(_proportional_set_size, _family(process.pid))))
        time.sleep(2)
    if process.returncode:
        sys.exit(process.returncode)
    return time.monotonic() - start, peak


def _family(root: int) -> list[int]:
    """A process and all its descendants."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile
    family = [root]
    for member in family:
        family += [pid for pid, parent in parents.items() if parent == member]
    return family


def _proportional_set_size(pid: int) -> int:
    try:
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def results(rows: Sequence[Row], metric: str) -> str:
    """A Markdown table: stages across, domains down."""
    rows = [row for row in rows if row["metric"] == metric]
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    domains = sorted({row["domain"] for row in rows}, key=lambda domain: (domain == "all", domain))
    cells = {(row["stage"], row["domain"]): f"{row['mean']:.3f} ({row['low']:.3f}–{row['high']:.3f})" for row in rows}
    lines = [f"| {metric} | {' | '.join(stages)} |", "| --- |" + " --- |" * len(stages)]
    lines += [f"| {d} | {' | '.join(cells.get((s, d), '') for s in stages)} |" for d in domains]
    return "\n".join(lines)


def claims(rows: Sequence[Row]) -> str:
    """What was asked of the recipe, and whether these figures show it."""
    by = {(row["stage"], row["domain"]): row for row in rows if row["metric"] == "pass@1"}
    taught = sorted({domain for stage, domain in by if stage == "specialist"})

    def beats(stage: str) -> str:
        lost = [d for d in taught if by[stage, d]["mean"] <= by["base", d]["mean"]]
        return "no: " + ", ".join(lost) if lost else "yes"

    def change(before: str, after: str, domains: Sequence[str]) -> tuple[float, str]:
        (old, below), (new, above) = (_mean(by, stage, domains) for stage in (before, after))
        return new - old, "do not overlap" if new - above > old + below else "overlap"

    gain, apart = change("fused", "signal", taught)
    lines = [
        f"- Each chosen specialist beats the base in its own domain: {beats('specialist')}.",
        f"- The fused model beats the base in each of these domains: {beats('fused')}.",
        f"- The signal phase adds {gain:+.3f} to their mean pass@1 (asked: +0.100); the intervals {apart}.",
    ]
    if ("code", "code") in by:
        gain, apart = change("signal", "code", ["code"])
        kept, _ = change("signal", "code", taught)
        lines.append(f"- The code stage adds {gain:+.3f} to pass@1 on code; the intervals {apart}.")
        lines.append(f"- It changes the mean of the other domains by {kept:+.3f}.")
    return "\n".join(lines)


def _mean(by: Mapping[tuple[str, str], Row], stage: str, domains: Sequence[str]) -> tuple[float, float]:
    """Mean over domains and half its 95% interval; problems of different domains are independent."""
    rows = [by[stage, domain] for domain in domains]
    half = math.hypot(*((row["high"] - row["low"]) / 2 for row in rows)) / len(rows)
    return statistics.mean(row["mean"] for row in rows), half


def stages(timings: dict[str, Any]) -> str:
    lines = ["| stage | seconds of its processes | largest process, MB |", "| --- | --- | --- |"]
    lines += [f"| {n} | {t['seconds']:.0f} | {t['peak_memory_bytes'] / 1e6:.0f} |" for n, t in timings.items()]
    return "\n".join(lines)


def page(output: Path, jobs: int, seconds: float, peak: int) -> str:
    rows = json.loads((output / "results.json").read_text("utf-8"))
    timings = json.loads((output / "timings.json").read_text("utf-8"))
    one = rows[0]
    cores, memory = os.cpu_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"""# The demo: what each step brought

    python benchmarks/demo.py --jobs {jobs}

{datetime.date.today()}, {cores} CPU cores ({platform.machine()}), {memory:.0f} GiB memory, \
Python {platform.python_version()}, torch {torch.__version__}. One run, seeds as in `configs/nano/`.

**{seconds:.0f} s** of wall clock, **{peak / 1e9:.2f} GB** of memory (all processes together), after installation.

Test split, {one["problems"]} problems a domain, {one["samples"]} samples each, temperature 1; means with 95% intervals
(bootstrap over problems).

{results(rows, "pass@1")}

{results(rows, "pass@8")}

{claims(rows)}

{stages(timings)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", type=Path, default=Path("docs/demo.md"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "nano"
        seconds, peak = run_demo(output, options.jobs)
        options.write.write_text(page(output, options.jobs, seconds, peak), "utf-8")
    print(f"{options.write}: {seconds:.0f} s, {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
