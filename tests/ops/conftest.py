"""Kernels are tested on CUDA or, without it, in Triton's interpreter.

The interpreter is chosen when Triton is first imported, for a whole process: test_interpreter.py starts one with
TRITON_INTERPRET=1 that runs the other files here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"

if INTERPRETED or DEVICE == "cuda":
    collect_ignore = ["test_interpreter.py"]
else:
    collect_ignore = [file.name for file in Path(__file__).parent.glob("test_*.py") if file.stem != "test_interpreter"]


@pytest.fixture
def device() -> str:
    return DEVICE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if DEVICE == "cuda" and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
