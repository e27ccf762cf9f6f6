"""Configurations that finish within seconds, as the tests of the command line share them."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file

from vibethinker import Problem
from vibethinker.cli.main import main

DOMAINS = ["algebra", "geometry"]


def odd_length(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    """A reward that a random model earns now and then."""
    return [float(len(text) % 2) for text in completions]


def sft(model: str, **trainer: Any) -> dict[str, Any]:
    probe = {"every_n_steps": 2, "n": 2, "k": 2, "problems": 4, "max_new_tokens": 8}
    keep = {"every_n_train_steps": 2, "monitor": "probe/algebra/pass@2", "mode": "max", "filename": "{step}"}
    settings = {
        "optimizer": {"learning_rate": 1e-3},
        "packing": {"row_tokens": 512},
        "sampler": {"max_new_tokens": 64},
        "max_length": 448,
        "instruction": "",
    }
    return {
        "model": {"class_path": "SFTModule", "init_args": {"model": model, **settings}},
        "data": {
            "class_path": "DomainDataModule",
            "init_args": {"domain": "algebra", "difficulty": 1, "batch_size": 4, "probe_size": 8},
        },
        "trainer": {
            "max_steps": 6,
            "accelerator": "cpu",
            "limit_val_batches": 0,
            "log_every_n_steps": 1,
            "callbacks": [
                {"class_path": "DiversityProbe", "init_args": probe},
                {"class_path": "ModelCheckpoint", "init_args": keep},
            ],
            **trainer,
        },
    }


def mgpo(model: str, **trainer: Any) -> dict[str, Any]:
    config = sft(model, **trainer)
    config["trainer"]["callbacks"] = [
        {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 2, "filename": "{step}"}}
    ]
    config["data"]["init_args"]["domain"] = DOMAINS
    config["model"]["class_path"] = "GRPOModule"
    config["model"]["init_args"] |= {"group_size": 4, "sampler": {"max_new_tokens": 8}, "updates_per_rollout": 2}
    config["model"]["init_args"]["reward"] = "tests.support.miniature.odd_length"
    return config


def recipe(model: str) -> dict[str, Any]:
    monitor = "probe/{each}/pass@2"
    return {
        "output": "out",
        "model": model,
        "evaluation": {"problems": 4, "samples": 2, "k": [1, 2], "max_new_tokens": 8, "difficulty": 1},
        "stages": [
            {"name": "base", "evaluate": DOMAINS},
            {
                "name": "specialist",
                "each": DOMAINS,
                "fit": "sft.yaml",
                "with": {"data.domain": "{each}", "trainer.callbacks.monitor": monitor},
                "choose": monitor,
            },
            {"name": "fused", "fuse": "specialist"},
            {"name": "signal", "fit": "mgpo.yaml", "from": "fused", "evaluate": DOMAINS},
        ],
    }


def write(folder: Path, **configs: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, config in configs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def in_a_child(arguments: Sequence[str]) -> int:
    """Starts the command in a forked process, whose imports are done already; returns its id."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    code = 1
    try:
        code = main(arguments)
    finally:
        os._exit(code)


def kill_at_random(start: Callable[[], int], checkpoint: Path, times: int, seed: int) -> int:
    """Kills what `start` starts at random moments after a new checkpoint, again and again, then lets it end."""
    rng = random.Random(seed)
    for _ in range(times):
        child = start()
        before, wanted = _written(checkpoint), rng.randint(1, 2)
        while wanted:
            time.sleep(0.001)
            assert os.waitpid(child, os.WNOHANG)[0] == 0, "it ended before it was killed often enough"
            now = _written(checkpoint)
            wanted, before = wanted - (now != before), now
        time.sleep(rng.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(os.waitpid(start(), 0)[1])


def _written(checkpoint: Path) -> int:
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
