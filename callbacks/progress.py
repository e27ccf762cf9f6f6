"""How far it is: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor

from vibethinker.utils.meter import Meter

_PROBE = re.compile(r"probe/(.+)/pass@(?!1$)\d+")
_REFRESH_SECONDS = 0.5  # reading a figure waits for the device


class Progress(Meter, ProgressBar):
    """Counts optimizer steps and shows the figures that matter.

    On a terminal there are rich bars. Anywhere else there is a plain line every few seconds and at each probe:
    `step 40/120  loss 0.412  lr 1.0e-04  12.3k tok/s  probe/algebra/pass@8 0.81 ±0.04  0:31 elapsed`.

    Args:
        interval: seconds between plain lines.
    """

    def __init__(self, interval: float = 5.0):
        super().__init__(interval)
        self._seen = 0  # the optimizer step that was shown last; micro-batches share one

    def announce(self, trainer: pl.Trainer) -> None:
        """Prints the figures of this step now, those of the probe with all its domains."""
        if not self._enabled:
            return
        self._seen = trainer.global_step
        figures = "  ".join([*step_figures(trainer), *probe_figures(trainer.callback_metrics)])
        if self._bar is not None:
            self._move("step", trainer.global_step, trainer.max_steps, figures)
        self._line("step", trainer.global_step, trainer.max_steps, figures)

    # When

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = self._shown = time.monotonic()
        self._seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        wait = _REFRESH_SECONDS if self._console.is_terminal else self.interval
        if not self._enabled or trainer.global_step == self._seen or time.monotonic() - self._shown < wait:
            return
        figures = [*step_figures(trainer), *probe_figures(trainer.callback_metrics)[-1:]]
        self.show("step", trainer.global_step, trainer.max_steps, "  ".join(figures))
        self._seen, self._shown = trainer.global_step, time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._seen != trainer.global_step:
            self.announce(trainer)
        self.close()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        sizes = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self.show("validation", batch_idx + 1, _total(sizes))

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self.show("test", batch_idx + 1, _total(trainer.num_test_batches))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.close()


def _total(sizes: Any) -> int:
    return int(sum(sizes)) if isinstance(sizes, list) else int(sizes)


def step_figures(trainer: pl.Trainer) -> list[str]:
    """Loss, pass rate, KL, learning rate and tokens per second, those of them that there are."""
    metrics = trainer.callback_metrics
    names = {"loss": "train/loss", "pass rate": "train/pass_rate", "KL": "train/kl"}
    figures = [f"{label} {metrics[key]:.3g}" for label, key in names.items() if key in metrics]
    if trainer.optimizers:
        figures.append(f"lr {trainer.optimizers[0].param_groups[0]['lr']:.1e}")
    speeds = {"": "train/tokens_per_second", "rollout ": "rollout/tokens_per_second"}
    return figures + [f"{label}{metrics[key] / 1000:.1f}k tok/s" for label, key in speeds.items() if key in metrics]


def probe_figures(metrics: Mapping[str, Tensor]) -> list[str]:
    """The latest pass@k of each domain with its standard error."""
    return [
        f"{key} {value:.2f} ±{metrics[key[: key.rindex('/')] + '/standard_error']:.2f}"
        for key, value in metrics.items()
        if _PROBE.fullmatch(key)
    ]
