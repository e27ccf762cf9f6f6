"""Copies between host and device, and timing, that let neither wait for the other.

On a CPU there is nothing to wait for, and everything here is immediate.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to a device, from pinned memory: the host does not wait for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Fetched:
    """An asynchronous copy of a tensor to the host, in the state that it has at this point of the device's queue.

    Waiting for it does not wait for work that is queued later.
    """

    def __init__(self, tensor: Tensor):
        self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        self._copy.copy_(tensor.detach(), non_blocking=True)
        self._event = torch.cuda.Event() if tensor.is_cuda else None
        if self._event:
            self._event.record()

    @property
    def arrived(self) -> bool:
        """True once the copy is complete."""
        return self._event is None or bool(self._event.query())

    def get(self) -> Tensor:
        """Waits for the copy and returns it."""
        if self._event:
            self._event.synchronize()
        return self._copy


class Stopwatch:
    """Seconds that a device spends between two points of its queue."""

    def __init__(self, device: torch.device):
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        self._times = [0.0, 0.0]
        self._mark(0)

    def stop(self) -> None:
        """Marks the second point."""
        self._mark(1)

    @property
    def seconds(self) -> float | None:
        """Between creation and `stop`; `None` until a GPU has got there."""
        if not self._events:
            return self._times[1] - self._times[0]
        begin, end = self._events
        return begin.elapsed_time(end) / 1000 if end.query() else None

    def _mark(self, index: int) -> None:
        if self._events:
            self._events[index].record()
        else:
            self._times[index] = time.perf_counter()
