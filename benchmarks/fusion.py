"""Time and memory of fusing four 0.5B bfloat16 checkpoints, against the time of copying their bytes.

    python benchmarks/fusion.py [--rounds 5] [--mergekit PATH/TO/mergekit-yaml] [--write docs/fusion.md]

The checkpoints have the shape of Qwen2.5-0.5B and random weights. Every round runs every method once, so that a busy
machine is busy for all of them; the table gives medians. All times include fsync of what was written; imports are left
out, except for mergekit, whose command line is what its users run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file

EXPERTS = 4
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
    "dtype": "bfloat16",
}
Measured = dict[str, float]


def make_experts(scratch: Path) -> list[Path]:
    """Four checkpoints: one random model and small differences from it, as experts of one trajectory have."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    with torch.device("meta"):
        shapes = {n: p.shape for n, p in AutoModelForCausalLM.from_config(Qwen2Config(**CONFIG)).named_parameters()}
    folders = [scratch / f"expert{i}" for i in range(EXPERTS)]
    for seed, folder in enumerate(track(folders, "making checkpoints", console=Console(stderr=True))):
        folder.mkdir()
        common, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1 + seed)
        weights = {
            name: (0.02 * torch.randn(shape, generator=common) + 1e-4 * torch.randn(shape, generator=own)).bfloat16()
            for name, shape in shapes.items()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(CONFIG))
    return folders


def copy(sources: list[Path], out: Path, written: int) -> Measured:
    """Read every source once; write the first `written` of them."""
    buffer = bytearray(1 << 20)
    out.mkdir()
    begin = time.perf_counter()
    for number, source in enumerate(sources):
        with source.open("rb", buffering=0) as reading, (out / str(number)).open("wb", buffering=0) as writing:
            while count := reading.readinto(buffer):
                if number < written:
                    writing.write(memoryview(buffer)[:count])
            os.fsync(writing.fileno())
    return {"seconds": time.perf_counter() - begin}


def in_fresh_process(folders: list[Path], out: Path) -> Measured:
    """Our `fuse` in a process of its own, which times the call; its memory is watched from here."""
    printed, peak = watched([sys.executable, __file__, "--fuse", str(out), *map(str, folders)])
    return json.loads(printed) | {"anonymous_mb": peak}


def fuse_here(folders: list[str], out: str) -> Measured:
    """Wall and processor seconds of `fuse`."""
    from vibethinker.fusion import fuse

    begin, busy = time.perf_counter(), time.process_time()
    fuse(folders, out, progress=False)
    return {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - busy}


def watched(command: list[str]) -> tuple[str, float]:
    """Standard output of a command and the peak of its anonymous memory in MB."""
    peak = 0.0
    with tempfile.TemporaryFile("w+") as printed:  # a pipe that nobody reads could fill up
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, env=environment, stdout=printed, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            peak = max(peak, anonymous_mb(process.pid))
            time.sleep(0.02)
        if process.returncode:
            raise RuntimeError(f"{shlex.join(command)}: exit code {process.returncode}")
        printed.seek(0)
        return printed.read(), peak


def anonymous_mb(pid: int) -> float:
    """RssAnon of a process, 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0.0)


def mergekit(executable: str, folders: list[Path], out: Path) -> Measured:
    """Linear merge of mergekit in float32, stored as bfloat16, from its command line; flushed to disk as ours is."""
    recipe = out.with_suffix(".json")  # JSON is YAML
    models = [{"model": str(folder), "parameters": {"weight": 1 / EXPERTS}} for folder in folders]
    merge = {"merge_method": "linear", "models": models, "dtype": "float32", "out_dtype": "bfloat16"}
    recipe.write_text(json.dumps(merge))
    begin = time.perf_counter()
    _, peak = watched([executable, str(recipe), str(out), "--no-write-model-card", "--no-copy-tokenizer"])
    for file in out.glob("*.safetensors"):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    return {"seconds": time.perf_counter() - begin, "anonymous_mb": peak}


def rounds(scratch: Path, count: int, mergekit_path: str | None) -> dict[str, list[Measured]]:
    """Every method, `count` times, interleaved."""
    folders = make_experts(scratch)
    files = [folder / "model.safetensors" for folder in folders]
    out = scratch / "out"
    methods: dict[str, Callable[[], Measured]] = {
        "copy the four files": lambda: copy(files, out, written=EXPERTS),
        "read the four, write one": lambda: copy(files, out, written=1),
        "`vibethinker.fusion.fuse`": lambda: in_fresh_process(folders, out),
    }
    if mergekit_path:
        methods["mergekit linear"] = lambda: mergekit(mergekit_path, folders, out)
    results: dict[str, list[Measured]] = {name: [] for name in methods}
    for _ in track(range(count), "measuring", console=Console(stderr=True)):
        for name, method in methods.items():
            results[name].append(method())
            shutil.rmtree(out)
    return results


def rows_of(results: dict[str, list[Measured]]) -> list[list[str]]:
    """Medians, the range of the times, and the medians of the ratios to the two copies of the same round."""

    def median(measured: list[Measured], key: str, form: str) -> str:
        return format(statistics.median(m[key] for m in measured), form) if key in measured[0] else ""

    rows = []
    copying, least, *_ = results.values()
    for name, measured in results.items():
        times = [m["seconds"] for m in measured]
        ratios = [
            statistics.median(m["seconds"] / of["seconds"] for m, of in zip(measured, reference, strict=True))
            for reference in (copying, least)
        ]
        rows.append(
            [
                name,
                f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})",
                median(measured, "cpu", ".2f"),
                *(f"{ratio:.2f}" for ratio in ratios),
                median(measured, "anonymous_mb", ",.0f"),
            ]
        )
    return rows


HEADER = ["method", "wall s: median (range)", "CPU s", "× copy of four", "× read four, write one", "peak anonymous MB"]


def machine() -> str:
    """Processor count, memory and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{cores} shared CPU cores ({platform.machine()}), {memory:.0f} GiB memory, {versions}"


def markdown(rows: list[list[str]], count: int, command: str) -> str:
    """The page."""
    table = "\n".join("| " + " | ".join(row) + " |" for row in [HEADER, ["---"] * len(HEADER), *rows])
    return f"""# Fusion: time and memory

Mean of {EXPERTS} checkpoints of 494 M parameters in bfloat16 (0.99 GB each) into one, files in the page cache.
Medians of {count} interleaved rounds, ratios taken within each round. The cores were shared with other work (load
average {os.getloadavg()[2]:.1f} at the end), by which a method that needs both loses more than a copy, which needs one.

    {command}

{datetime.date.today().isoformat()}, {machine()}.

{table}

- *copy of four* reads and writes 3.95 GB; *read four, write one* is the least that any fusion must move.
  Both end with fsync.
- `fuse` is timed from call to return, without imports: checks, average in float32, one rounding, fsync, rename,
  and the hash of every source file.
- mergekit is timed as the command its users run, imports included (float32 to bfloat16, no model card, no tokenizer).
- Anonymous memory is the peak of `RssAnon`: what the imported libraries hold counts, pages of mapped files do not.
- Adapters alone, and checkpoints in 4 or 8 bits, are merged or expanded first, one at a time, into float32 folders
  beside the output, which vanish at the end. Four adapters of rank 16 over such a checkpoint took 3.4 GB of anonymous
  memory at the peak and 8 GB of disk, and 170 s on two cores that were shared with other work (load average 11).
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mergekit", help="path of mergekit-yaml")
    parser.add_argument("--scratch", type=Path, help="folder with 8 GB of space")
    parser.add_argument("--write", type=Path, help="Markdown file for the table")
    parser.add_argument("--fuse", nargs="+", metavar=("OUT", "EXPERT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fuse:
        print(json.dumps(fuse_here(options.fuse[1:], options.fuse[0])))
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        rows = rows_of(rounds(Path(scratch), options.rounds, options.mergekit))
    table = Table(*HEADER)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if options.write:
        flags = f" --rounds {options.rounds}" + (" --mergekit mergekit-yaml" if options.mergekit else "")
        page = markdown(rows, options.rounds, shlex.join(["python", "benchmarks/fusion.py"]) + flags)
        options.write.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
