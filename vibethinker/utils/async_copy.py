"""What passes between host and device while neither waits for the other: tensors, both ways, and time.

On a CPU there is nothing to wait for, and everything here is immediate.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; from pinned memory, so that the host need not wait until the GPU gets there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Fetched:
    """A tensor on its way to the host, as it is at this place in the device's work.

    Waiting for it does not wait for what the device is given later.
    """

    def __init__(self, tensor: Tensor):
        self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        self._copy.copy_(tensor.detach(), non_blocking=True)
        self._event = torch.cuda.Event() if tensor.is_cuda else None
        if self._event:
            self._event.record()

    @property
    def arrived(self) -> bool:
        return self._event is None or bool(self._event.query())

    def get(self) -> Tensor:
        if self._event:
            self._event.synchronize()
        return self._copy


class Stopwatch:
    """Seconds that a device spends between two places in its work."""

    def __init__(self, device: torch.device):
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        self._times = [0.0, 0.0]
        self._note(0)

    def stop(self) -> None:
        self._note(1)

    @property
    def seconds(self) -> float | None:
        """Between begin and `stop`; `None` while a GPU has not come so far."""
        if not self._events:
            return self._times[1] - self._times[0]
        begin, end = self._events
        return begin.elapsed_time(end) / 1000 if end.query() else None

    def _note(self, place: int) -> None:
        if self._events:
            self._events[place].record()
        else:
            self._times[place] = time.perf_counter()
