"""Progress of a fit: bars on a terminal, plain lines in a log."""

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
_REFRESH_SECONDS = 0.5  # reading a metric waits for the device


class Progress(Meter, ProgressBar):
    """Shows optimizer steps and the most important metrics.

    On a terminal there are bars. Anywhere else there is a plain line every few seconds and at each probe:
    `step 40/120  loss 0.412  lr 1.0e-04  12.3k tok/s  probe/algebra/pass@8 0.81 ±0.04  0:31 elapsed`.

    Args:
        interval: seconds between plain lines.
    """

    def __init__(self, interval: float = 5.0):
        super().__init__(interval)
        self._step = 0  # shown last

    def announce(self, trainer: pl.Trainer) -> None:
        """Prints the metrics of this step now, those of the probe for all domains."""
        if not self._enabled:
            return
        self._step = trainer.global_step
        metrics = "  ".join([*step_metrics(trainer), *probe_metrics(trainer.callback_metrics)])
        if self._bar is not None:
            self._move("step", trainer.global_step, trainer.max_steps, metrics)
        self._line("step", trainer.global_step, trainer.max_steps, metrics)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._start = self._shown = time.monotonic()
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Shows the step if the last one shown is old enough."""
        wait = _REFRESH_SECONDS if self._console.is_terminal else self.interval
        if not self._enabled or trainer.global_step == self._step or time.monotonic() - self._shown < wait:
            return
        metrics = [*step_metrics(trainer), *probe_metrics(trainer.callback_metrics)[-1:]]
        self.show("step", trainer.global_step, trainer.max_steps, "  ".join(metrics))
        self._step, self._shown = trainer.global_step, time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows the last step."""
        if self._step != trainer.global_step:
            self.announce(trainer)
        self.close()

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Shows the validation batch."""
        sizes = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._show_batch("validation", args[3], sizes)

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Shows the test batch."""
        self._show_batch("test", args[3], trainer.num_test_batches)

    def _show_batch(self, task: str, index: int, sizes: Any) -> None:
        self.show(task, index + 1, int(sum(sizes)) if isinstance(sizes, list) else int(sizes))

    def teardown(self, *_: Any, **__: Any) -> None:
        """Removes the bars."""
        self.close()

    on_exception = teardown


def step_metrics(trainer: pl.Trainer) -> list[str]:
    """Loss, pass rate, KL, learning rate and tokens per second, as far as they are logged."""
    metrics = trainer.callback_metrics
    names = {"loss": "train/loss", "pass rate": "train/pass_rate", "KL": "train/kl"}
    texts = [f"{label} {metrics[key]:.3g}" for label, key in names.items() if key in metrics]
    if trainer.optimizers:
        texts.append(f"lr {trainer.optimizers[0].param_groups[0]['lr']:.1e}")
    speeds = {"": "train/tokens_per_second", "rollout ": "rollout/tokens_per_second"}
    return texts + [f"{label}{metrics[key] / 1000:.1f}k tok/s" for label, key in speeds.items() if key in metrics]


def probe_metrics(metrics: Mapping[str, Tensor]) -> list[str]:
    """The latest pass@k of each domain with its standard error."""
    return [
        f"{key} {value:.2f} ±{metrics[key[: key.rindex('/')] + '/standard_error']:.2f}"
        for key, value in metrics.items()
        if _PROBE.fullmatch(key)
    ]
