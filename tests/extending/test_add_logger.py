"""A logger of one's own: any Lightning logger, named in the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers.logger import Logger

from tests.extending import test_add_logger as configured
from tests.support import miniature
from vibethinker.cli.main import main

SEEN: list[dict[str, float]] = []


class ListLogger(Logger):
    """Keeps metrics in a list."""

    name, version = "list", 0

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        SEEN.append(dict(metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Keeps no options."""


def test_a_fit_logs_to_it(tmp_path: Path, tiny_model: str) -> None:
    logger = {"class_path": "tests.extending.test_add_logger.ListLogger"}
    config = miniature.mgpo(tiny_model, max_steps=2, logger=logger)
    (tmp_path / "mgpo.yaml").write_text(yaml.safe_dump(config))
    arguments = ["--config", str(tmp_path / "mgpo.yaml"), "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["fit", *arguments]) == 0
    assert {"train/loss", "train/pass_rate", "train/kl", "rollout/length"} <= set().union(
        *configured.SEEN
    )  # the module as the configuration imports it
