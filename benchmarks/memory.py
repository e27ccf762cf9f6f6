"""What `fit --dry_run` estimates against what fits of a few steps really take on this GPU.

    python benchmarks/memory.py            # about five minutes; models of random weights are made in a temporary folder

Every fit is a process of its own. Sequences are as long as `max_length`, which is what an estimate assumes. `allocated`
is PyTorch's `max_memory_allocated`; `reserved` is what its allocator took from the device for it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

SHARED = {
    "vocab_size": 151_936,
    "num_hidden_layers": 28,
    "tie_word_embeddings": True,
    "max_position_embeddings": 65_536,
}
MODELS: dict[str, dict[str, Any]] = {
    "Qwen2": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },  # of Qwen2.5-Math-1.5B
    "Qwen3": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },  # of Qwen3-0.6B
}
LORA = ["--model.lora.rank", "32"]
FOUR_BITS = [*LORA, "--model.quantization", "4bit"]
RECOMPUTED = ["--model.gradient_checkpointing", "true"]
KEPT = ["--model.gradient_checkpointing", "false"]
GROUPS = ["--model.group_size", "16", "--model.sampler.slots", "128"]
# model, module, tokens of a sequence, problems of a batch, tokens of a packed row, further options
CASES: dict[str, tuple[str, str, int, int, int | str, list[str]]] = {
    "1.5B SFT": ("Qwen2", "SFTModule", 4096, 4, 8192, KEPT),
    "1.5B SFT, recomputed": ("Qwen2", "SFTModule", 8192, 4, 16384, RECOMPUTED),
    "1.5B SFT, LoRA": ("Qwen2", "SFTModule", 4096, 4, 8192, [*LORA, *KEPT]),
    "1.5B SFT, 4 bits, recomputed": (
        "Qwen2",
        "SFTModule",
        8192,
        4,
        16384,
        [*FOUR_BITS, *RECOMPUTED],
    ),
    "1.5B MGPO, recomputed": ("Qwen2", "GRPOModule", 512, 8, 7232, [*GROUPS, *RECOMPUTED]),
    "1.5B SFT, automatic": ("Qwen2", "SFTModule", 4096, 32, "auto", []),
    "0.6B MGPO, 4 bits": ("Qwen3", "GRPOModule", 512, 8, 7232, [*GROUPS, *FOUR_BITS, *KEPT]),
}


def make_models(root: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

    from vibethinker.models.source import ModelSource, load_tokenizer

    for name, config in (("Qwen2", Qwen2Config), ("Qwen3", Qwen3Config)):
        with torch.device("cuda"):
            model = AutoModelForCausalLM.from_config(config(**SHARED, **MODELS[name]), dtype=torch.bfloat16)
        model.save_pretrained(root / name)
        load_tokenizer(ModelSource.of("nano")).save_pretrained(root / name)


def make_data(file: Path, tokens: int) -> None:
    """Problems whose only solution fills a sequence."""
    from vibethinker import Problem
    from vibethinker.models.prompts import prompt_ids
    from vibethinker.models.source import ModelSource, load_tokenizer

    tokenizer, rows = load_tokenizer(ModelSource.of("nano")), []
    for number in range(64):
        prompt = f"Problem {number}: what is {number} + {number * 7}?"
        (ids,) = prompt_ids(tokenizer, [Problem("", "algebra", prompt, "1")])
        rows.append({"prompt": prompt, "answer": "1", "solutions": ["x" * (tokens - len(ids) - 1)]})
    file.write_text("\n".join(map(json.dumps, rows)))


def measure(name: str, root: Path) -> dict[str, Any]:
    """One fit in this process."""
    import torch

    from vibethinker.cli import fit
    from vibethinker.cli.dry_run import workload
    from vibethinker.memory.estimate import estimate

    model, module, tokens, problems, row_tokens, options = CASES[name]
    make_data(root / "data.jsonl", tokens)
    settings = {
        "model": module,
        "model.model": root / model,
        "model.max_length": tokens,
        "model.sampler.max_new_tokens": tokens - 64 if module == "GRPOModule" else 16,
        "model.packing.row_tokens": row_tokens,
        "data": "DomainDataModule",
        "data.domain": "algebra",
        "data.data": root / "data.jsonl",
        "data.batch_size": problems,
        "trainer.max_steps": 3,
        "trainer.precision": "bf16-mixed",
        "trainer.gradient_clip_val": 1.0,
        "trainer.limit_val_batches": 0,
        "trainer.enable_checkpointing": "false",
        "trainer.default_root_dir": root / "run",
    }
    cli = fit.run(["fit", *(f"--{key}={value}" for key, value in settings.items()), *options])
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    work = workload(cli.model, cli.config.fit)
    recomputed = cli.model.policy.is_gradient_checkpointing
    made = estimate(replace(work, row_tokens=min(work.row_tokens, cli.model.row_tokens), checkpointing=recomputed))
    return {"estimated": made.peak, "allocated": allocated, "reserved": reserved, "gpu": torch.cuda.get_device_name()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    told = f"of these: {'; '.join(CASES)}"
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="FIT", help=told)
    options = parser.parse_args()
    if options.case:
        print("MEASURED", json.dumps(measure(options.case[0], Path(options.case[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        print("| fit | estimated | allocated | estimate is | reserved |\n| --- | --- | --- | --- | --- |")
        for name in options.only:
            command = [sys.executable, __file__, "--case", name, folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found = [line for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
            if not found:
                sys.exit(f"{name}: {done.stderr[-2000:]}")
            figures = json.loads(found[0].removeprefix("MEASURED "))
            gib = [f"{figures[key] / 2**30:.2f}" for key in ("estimated", "allocated", "reserved")]
            off = figures["estimated"] / figures["allocated"] - 1
            print(f"| {name} | {gib[0]} | {gib[1]} | {off:+.1%} | {gib[2]} |", flush=True)
        print(f"\nGiB; {figures['gpu']}")


if __name__ == "__main__":
    main()
