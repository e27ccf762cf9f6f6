"""Speed and memory on one GPU, ours and what users have otherwise, against the goals: writes docs/performance.md.

    python benchmarks/performance.py                     # one CUDA device with 80 GiB or more, about twenty minutes
    python benchmarks/performance.py --only rollout sft  # some parts, beside the figures that are there
    python benchmarks/performance.py --smoke             # a tiny model on whatever there is: does everything run?

Needs `pip install trl liger-kernel` beside this library for the peers. Every part is a process of its own.
Figures are kept in `--results` as they come: run the command again and it goes on with the parts that are missing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from parts import page
from parts.setting import MARK, Setting, machine, prepare

from vibethinker.utils.atomic import write_atomic


@dataclass(frozen=True)
class Part:
    """What is measured in one process.

    Attributes:
        call: module and function in `parts`.
        seconds: it takes about, on an H200; one that takes four times as long is ended.
        model: whether it needs the model of random weights.
    """

    call: str
    seconds: int
    model: bool = True


PARTS = {
    "rollout": Part("rollouts.rollout", 65),
    "agreement": Part("rollouts.agreement", 30),
    "grpo-short": Part("updates.grpo_short", 60),
    "sft": Part("updates.sft", 60),
    "head": Part("head.head", 15, model=False),
    "trl-grpo-short": Part("peers.grpo_short", 85),
    "trl-grpo-batching": Part("peers.grpo_batching", 120),
    "trl-sft": Part("peers.sft", 40),
    "grpo-long": Part("updates.grpo_long", 90),
    "trl-grpo-long": Part("peers.grpo_long", 225),
    "long-tail": Part("rollouts.long_tail", 85),
    "context": Part("updates.context", 90),
    "generate": Part("rollouts.generate", 35),
    "tests": Part("checks.tests", 80, model=False),
    "sft-compiled": Part("updates.sft_compiled", 110),
    "cpu": Part("rollouts.cpu", 50, model=False),
}
_PATIENCE = 4


def run(name: str, setting: Setting, seconds: float) -> dict[str, Any]:
    """The figures of a part; with `error` when it failed, beside what it had handed on by then."""
    command = [sys.executable, __file__, "--part", name, str(setting.folder), *(["--smoke"] if setting.smoke else [])]
    environment = {
        "CUDA_VISIBLE_DEVICES": "0",  # transformers' Trainer would spread over all there are
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRITON_CACHE_DIR": str(setting.folder / "triton"),  # empty at first: warm-up is a figure
    }
    figures: dict[str, Any] = {}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as printed:
        error = None
        try:
            done = subprocess.run(
                command, env=environment, stdout=printed, stderr=subprocess.STDOUT, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            error = f"ended after {seconds:.0f} s"
        printed.seek(0)
        lines = printed.read().splitlines()
    for line in lines:
        if line.startswith(MARK):
            figures |= json.loads(line.removeprefix(MARK))
    if error is None and done.returncode:
        error = "\n".join(line for line in lines if not line.startswith(MARK))[-3000:]
    if error is not None:
        figures["error"] = error
    return {**figures, "wall_seconds": time.perf_counter() - start}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Runs what is asked for and not there yet."""
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    wanted = [name for name in PARTS if name in (options.only or PARTS)]
    missing = [name for name in wanted if options.only or "error" in results.get(name, {"error": ""})]
    begin, date = time.monotonic(), datetime.datetime.now().isoformat(" ", "minutes")
    with tempfile.TemporaryDirectory(prefix="performance-") as folder:
        setting = Setting(Path(folder), options.smoke)
        if any(PARTS[name].model for name in missing) and (failed := run("prepare", setting, 300).get("error")):
            sys.exit(f"prepare: {failed}")
        for name in missing:
            left = options.budget - (time.monotonic() - begin)
            if PARTS[name].seconds > left and not options.smoke:
                print(f"{name}: left for another run, {left:.0f} s are too few", flush=True)
                continue
            found = run(name, setting, min(left, _PATIENCE * PARTS[name].seconds))
            results |= {name: {**found, "date": date}, "smoke": options.smoke}
            write_atomic(options.results, json.dumps(results, indent=1))
            print(f"{name}: {found.get('error', 'done')} ({found['wall_seconds']:.0f} s)", flush=True)
    return results


def part(name: str, setting: Setting) -> None:
    """What `run` starts."""
    if name == "prepare":
        prepare(setting)
        return
    module, _, function = PARTS[name].call.partition(".")
    setting.report(machine=machine())
    getattr(import_module(f"parts.{module}"), function)(setting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, metavar="PART", help=f"measure these anew: {', '.join(PARTS)}"
    )
    parser.add_argument(
        "--results",
        type=Path,
        help="JSON file of the figures, runs/performance.json by default; delete it to start anew",
    )
    parser.add_argument("--budget", type=float, default=3600, help="seconds; parts that would take longer are left out")
    parser.add_argument("--smoke", action="store_true", help="a tiny model; writes no page unless --write says where")
    parser.add_argument("--write", type=Path, help="the page; docs/performance.md unless it is a smoke run")
    parser.add_argument("--part", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part(options.part[0], Setting(Path(options.part[1]), options.smoke))
        return
    options.results = options.results or Path("runs") / (
        "performance-smoke.json" if options.smoke else "performance.json"
    )
    results = measure(options)
    command = ["python", "benchmarks/performance.py", *(["--smoke"] if options.smoke else [])]
    written = page.markdown(results, shlex.join(command))
    print(written)
    if options.write or not options.smoke:
        (options.write or Path("docs/performance.md")).write_text(written, "utf-8")
    if failed := [name for name in PARTS if "error" in results.get(name, {})]:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
