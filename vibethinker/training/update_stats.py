"""Statistics of optimizer steps, none of which makes the host wait for work that the device has still to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vibethinker.utils.async_copy import Fetched, Stopwatch


class UpdateStats:
    """Sums over the rows and ranks of an update, its gradient norm, and the tokens per second of updates.

    Args:
        device: of the updates.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._copied = Fetched(torch.empty(0))  # the sums over ranks
        self._stopwatch = Stopwatch(device)
        self._norm: tuple[int, Fetched] | None = None  # of the last gradient, and its optimizer step
        self._timed: list[tuple[Tensor, Stopwatch]] = []  # tokens and time of updates whose rate has not been read

    def start(self) -> None:
        """Begins an update."""
        self._sums, self._stopwatch = {}, Stopwatch(self._device)

    def add(self, **values: Tensor | float) -> None:
        """Adds scalars to the sums of the current update."""
        for name, value in values.items():
            scalar = value.float() if isinstance(value, Tensor) else torch.full((), value, device=self._device)
            self._sums[name] = self._sums[name] + scalar if name in self._sums else scalar

    def reduce(self, all_reduce_sum: Callable[[Tensor], Tensor]) -> None:
        """Starts to copy the sums over all ranks to the host; call it before the last backward is queued."""
        self._copied = Fetched(all_reduce_sum(torch.stack(list(self._sums.values()))))

    @property
    def totals(self) -> dict[str, Tensor]:
        """The sums over all rows and ranks on the host; waits for the last forward, not for backward."""
        return dict(zip(self._sums, self._copied.get(), strict=True))

    def stop(self) -> None:
        """Ends an update, whose sum of `tokens` counts those that all ranks computed."""
        self._stopwatch.stop()
        self._timed.append((self.totals["tokens"], self._stopwatch))

    def rates(self) -> Iterator[Tensor]:
        """Tokens per second of the updates that have ended on the device; a GPU is one update behind."""
        while self._timed and (seconds := self._timed[0][1].seconds) is not None:
            yield self._timed.pop(0)[0] / seconds

    def watch_norm(self, norm: Tensor, step: int) -> None:
        """Keeps the gradient norm of an optimizer step for `check_gradient`, and checks it where it is known."""
        self._norm = (step, Fetched(norm))
        if self._norm[1].arrived:
            self.check_gradient()

    def check_gradient(self) -> None:
        """Ends a fit whose last gradient was not finite; on a GPU that is known a step later.

        Raises:
            FloatingPointError: names the step.
        """
        if self._norm is None:
            return
        step, norm = self._norm[0], self._norm[1].get()
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient's norm is {norm.item()} at step {step}")
