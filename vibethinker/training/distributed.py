"""State that differs between ranks: gathering it, and the random generators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def gather(own: Any) -> list[Any]:
    """Gathers an object from every rank, in their order, on every rank."""
    if not torch.distributed.is_initialized():
        return [own]
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, own)
    return parts


def random_state() -> dict[str, Any]:
    """Of PyTorch's generators, for `set_random_state`."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Generators of a GPU are left alone where there is none, or where the state is of a CPU."""
    torch.set_rng_state(state["cpu"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
