"""`vibethinker doctor`: hardware, attention kernel, sandbox and library versions of this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib.metadata import version

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vibethinker.packed.attention import supports_flash
from vibethinker.sandbox import Sandbox, SandboxError
from vibethinker.sandbox.isolation import LEVELS, missing
from vibethinker.utils.process import available_cores

_LIBRARIES = ("lightning", "transformers", "peft", "jsonargparse", "datasets", "math-verify", "RestrictedPython")


def examine() -> None:
    """Prints them as a table."""
    table = Table(show_header=False)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = {"system": platform.platform(), "cores": str(available_cores()), "memory": f"{memory:.1f} GiB"}
    for name, value in {**machine, **_accelerator(), **_sandbox(), **_software()}.items():
        table.add_row(name, escape(value))
    Console().print(table)


def _accelerator() -> dict[str, str]:
    if not torch.cuda.is_available():
        return {
            "device": "CPU",
            "compute": "float32",
            "attention": "PyTorch's scaled_dot_product_attention, sequences of like length together",
        }
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    half = torch.zeros(1, 1, 64, dtype=torch.bfloat16, device="cuda")
    flash = supports_flash(half) and properties[0].major >= 8 and torch.backends.cuda.is_flash_attention_available()
    return {
        "device": ", ".join(f"{p.name} ({p.total_memory / 2**30:.0f} GiB)" for p in properties),
        "compute": "bfloat16" if torch.cuda.is_bf16_supported() else "float32: no bfloat16 here",
        "attention": "PyTorch's flash kernel, packed" if flash else "PyTorch's scaled_dot_product_attention",
    }


def _sandbox() -> dict[str, str]:
    """The isolation level for untrusted programs, and every layer with its evidence; docs/security.md explains them."""
    try:
        with Sandbox(1, level="none") as box:
            layers, reached = box.layers, box.reached
    except SandboxError as error:
        return {"sandbox": f"none: {error}"}
    rows = {"sandbox": f"level {reached}"}
    rows |= {f"  {name}": f"{'yes' if layer.ok else 'no'}: {layer.evidence}" for name, layer in layers.items()}
    if higher := LEVELS[LEVELS.index(reached) + 1 :]:
        rows["sandbox lacks"] = f"for {higher[0]}: {'; '.join(missing(layers, higher[0]))}"
    return rows


def _software() -> dict[str, str]:
    installed = importlib.util.find_spec("bitsandbytes") is not None
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in _LIBRARIES},
        "bitsandbytes": version("bitsandbytes") if installed else "none: pip install vibethinker[quantized]",
    }
