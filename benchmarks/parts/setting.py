"""What all parts share: shapes, the model and the problems on disk, clocks, memory, how figures are handed on."""

from __future__ import annotations

import json
import os
import platform
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

MARK = "MEASURED "
PEAK_FLOPS = 989e12  # bfloat16 with float32 accumulation, dense, of an H100 or H200 SXM, by their data sheets
LETTERS = "jJMNOQRUVYZ"  # in none of the nano tokenizer's longer tokens, so that each is one wherever it stands
LIBRARIES = ("torch", "triton", "transformers", "lightning", "liger-kernel", "trl")


@dataclass(frozen=True)
class Scale:
    """Every length and count; the defaults are what is reported.

    Attributes:
        model: of Qwen2's configuration; the default is the shape of Qwen2.5-Math-1.5B with room for a long context.
        prompt: tokens.
        group: rollouts of a prompt.
        prompts: of a GRPO step, and of the short rollout.
        short, long: new tokens.
        many: prompts of the long rollout.
        tail: sequences of the long-tailed law through half as many slots.
        tail_mean, tail_longest: new tokens of the law.
        sequences, sequence: of a packed row: how many, and tokens of each.
        context: tokens of the longest sequence that is trained on.
        head_tokens: of the head alone.
        row: tokens of a packed row that a GRPO step is cut into.
        trl_rows: sequences of a micro-batch of TRL's GRPO step, short and long, which it does without recomputation.
        compared: prompts whose rollouts' log-probs are compared with a training forward.
        cpu: prompts of 16 sequences with 48 new tokens, on the CPU.
    """

    model: dict[str, Any] = field(
        default_factory=lambda: {
            "vocab_size": 151_936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "max_position_embeddings": 65_536,
        }
    )
    prompt: int = 128
    group: int = 16
    prompts: int = 16
    short: int = 256
    long: int = 2048
    many: int = 32
    tail: int = 1024
    tail_mean: int = 512
    tail_longest: int = 4096
    sequences: int = 16
    sequence: int = 1024
    context: int = 65_536
    head_tokens: int = 16_384
    row: int = 16_384
    trl_rows: tuple[int, int] = (16, 4)
    compared: int = 8
    cpu: int = 32

    @property
    def slots(self) -> int:
        return self.tail // 2


SMOKE = Scale(
    model={
        "vocab_size": 1000,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 512,
    },
    prompt=48,
    group=4,
    prompts=2,
    short=12,
    long=24,
    many=4,
    tail=16,
    tail_mean=8,
    tail_longest=32,
    sequences=4,
    sequence=64,
    context=256,
    head_tokens=100,
    row=300,
    trl_rows=(4, 2),
    compared=2,
    cpu=2,
)


class Tick:
    """A place in the device's work, noted without waiting for it: the host may run ahead, as it does in training."""

    def __init__(self, cuda: bool):
        self.event: Any = None
        if cuda:
            import torch

            self.event = torch.cuda.Event(enable_timing=True)
            self.event.record()
        self.time = time.perf_counter()

    def __sub__(self, earlier: Tick) -> float:
        """Seconds between the two."""
        if self.event is None:
            return self.time - earlier.time
        self.event.synchronize()
        return float(earlier.event.elapsed_time(self.event)) / 1000


@dataclass(frozen=True)
class Setting:
    """Where and at which scale a part runs.

    Attributes:
        folder: what `prepare` made.
        smoke: a tiny model, to see that everything runs.
        on_cpu: whatever there is beside it.
    """

    folder: Path
    smoke: bool = False
    on_cpu: bool = False

    @property
    def scale(self) -> Scale:
        return SMOKE if self.smoke else Scale()

    @cached_property
    def cuda(self) -> bool:
        import torch

        return torch.cuda.is_available() and not self.on_cpu

    @property
    def device(self) -> str:
        return "cuda" if self.cuda else "cpu"

    @property
    def model(self) -> str:
        return str(self.folder / "model")

    def report(self, **figures: Any) -> None:
        """Hands figures to the process that collects them; what was handed on survives an error that comes later."""
        print(MARK + json.dumps(figures), flush=True)

    def synchronize(self) -> None:
        if self.cuda:
            import torch

            torch.cuda.synchronize()

    def tick(self) -> Tick:
        return Tick(self.cuda)

    def seconds(self, call: Callable[[], Any]) -> float:
        """Wall time of a call, with the device idle before and after it."""
        self.synchronize()
        start = time.perf_counter()
        call()
        self.synchronize()
        return time.perf_counter() - start

    def times(self, call: Callable[[], Any], repeats: int) -> list[float]:
        return [self.seconds(call) for _ in range(repeats)]

    def forget_peak(self) -> None:
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()

    @property
    def peak(self) -> float:
        """GiB allocated at most since `forget_peak`; 0 on a CPU."""
        return self._statistic("max_memory_allocated")

    @property
    def allocated(self) -> float:
        """GiB allocated now; 0 on a CPU."""
        return self._statistic("memory_allocated")

    def _statistic(self, name: str) -> float:
        if not self.cuda:
            return 0.0
        import torch

        return float(getattr(torch.cuda, name)()) / 2**30

    def free(self) -> None:
        """Gives memory without an owner back to the device."""
        import gc

        gc.collect()
        if self.cuda:
            import torch

            torch.cuda.empty_cache()

    def prompts(self, count: int) -> list[list[int]]:
        """Random tokens; 0 and 1, end of sequence and padding of the tokenizer, are not among them."""
        import torch

        generator = torch.Generator().manual_seed(0)
        shape = (count, self.scale.prompt)
        return torch.randint(2, self.scale.model["vocab_size"], shape, generator=generator).tolist()


def prepare(setting: Setting) -> None:
    """Writes the model of random weights, the tokenizer of the nano model, and problems of exact lengths."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from vibethinker.models.source import ModelSource, load_tokenizer

    torch.manual_seed(0)
    tokenizer = load_tokenizer(ModelSource.of("nano"))
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    with torch.device(setting.device):
        model = AutoModelForCausalLM.from_config(Qwen2Config(**setting.scale.model, **ends), dtype=torch.bfloat16)
    model.save_pretrained(setting.model)
    tokenizer.save_pretrained(setting.model)
    write_problems(setting)


def write_problems(setting: Setting) -> None:
    """`asked.jsonl`: problems of `prompt` tokens. `shown.jsonl`: problems of `sequence` tokens with their solution."""
    from vibethinker.models.prompts import prompt_ids
    from vibethinker.models.source import ModelSource, load_tokenizer
    from vibethinker.problems import Problem

    tokenizer = load_tokenizer(ModelSource.of("nano"))
    scale = setting.scale
    asked, shown, draw = [], [], random.Random(0)
    for number in range(20 * max(scale.prompts, scale.sequences)):
        start = f"What is {number} + {number * 7}? j"  # a template may strip an end of white space
        (ids,) = prompt_ids(tokenizer, [Problem("", "algebra", start, "1")], "")
        more = "".join(draw.choices(LETTERS, k=scale.prompt - len(ids)))
        asked.append({"prompt": start + more, "answer": "1"})
        solution = "".join(draw.choices(LETTERS, k=scale.sequence - len(ids) - 1))  # one for the end of sequence
        shown.append({"prompt": start, "answer": "1", "solutions": [solution]})
    for name, rows in (("asked", asked), ("shown", shown)):
        (setting.folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    found: dict[str, Any] = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = None
    found["torch"] = torch.__version__
    found["cores"] = len(os.sched_getaffinity(0))
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_gib"] = torch.cuda.get_device_properties(0).total_memory / 2**30
    return found
