"""Keeps the messages of other libraries out of a run's log."""

from __future__ import annotations

import logging
import sys
import warnings

from transformers.utils import logging as transformers_logging


def hush() -> None:
    """Shows this package's log and all warnings, one line each; drops greetings, tips, and bars outside a terminal."""
    ours = logging.getLogger("vibethinker")
    ours.setLevel(logging.INFO)
    if not ours.handlers:
        ours.addHandler(logging.StreamHandler())
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # so it is when resuming
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")  # Lightning's own business
    warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # Lightning sets DDP up in one of its own
    warnings.filterwarnings("ignore", "LightningCLI's args parameter is intended")  # the arguments are the same
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}\n"
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
