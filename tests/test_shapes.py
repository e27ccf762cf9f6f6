"""The shapes in the signatures of public tensor functions, checked at run time by jaxtyping and beartype."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import TypeCheckError, install_import_hook

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as in PEP 484


def checked(name: str) -> ModuleType:
    """A second copy of a module whose functions check their arguments and results."""
    unchecked = sys.modules.pop(name, None)
    try:
        with install_import_hook(name, f"{__name__}.check"):
            return importlib.import_module(name)
    finally:
        if unchecked is not None:
            sys.modules[name] = unchecked
            parent, _, child = name.rpartition(".")
            setattr(sys.modules[parent], child, unchecked)


objectives, logprobs = checked("vibethinker.objectives"), checked("vibethinker.logprobs")
GROUPS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
TOKENS = torch.tensor([-1.0, -0.5, -2.0, -0.1])
HIDDEN, HEAD, TARGETS = torch.randn(5, 4), torch.randn(7, 4), torch.tensor([0, 6, 2, 3, 1])
LENGTHS = torch.tensor([[3, 5, 2], [1, 1, 4]])
SUMS = {"sequences": 2, "tokens": 4, "max_new_tokens": 8}

RIGHT: dict[str, tuple[ModuleType, tuple[Any, ...], dict[str, Any]]] = {
    "max_entropy_weight": (objectives, (GROUPS.mean(-1), 1), {}),
    "alive_groups": (objectives, (GROUPS,), {}),
    "group_advantages": (objectives, (GROUPS, GROUPS, 1.0), {}),
    "kl_penalty": (objectives, (TOKENS, TOKENS.flip(0), "k3"), {}),
    "clipped_surrogate": (objectives, (TOKENS, TOKENS.flip(0), torch.ones(4)), {}),
    "truncated_surrogate": (objectives, (TOKENS, TOKENS.flip(0), torch.ones(1)), {}),
    "sequence_weights": (objectives, (LENGTHS[0], "token"), SUMS),
    "long2short": (objectives, (GROUPS, GROUPS, LENGTHS), {}),
    "overlong": (objectives, (LENGTHS, 8, 4), {}),
    "linear_logprobs": (logprobs, (HIDDEN, HEAD, TARGETS), {}),
}
WRONG: dict[str, tuple[ModuleType, tuple[Any, ...], dict[str, Any]]] = {
    "alive_groups": (objectives, (GROUPS[0],), {}),
    "group_advantages": (objectives, (GROUPS, GROUPS.T), {}),
    "kl_penalty": (objectives, (TOKENS, TOKENS[:2]), {}),
    "clipped_surrogate": (objectives, (TOKENS, TOKENS, torch.ones(3)), {}),
    "truncated_surrogate": (objectives, (TOKENS, TOKENS[None], torch.ones(4)), {}),
    "sequence_weights": (objectives, (LENGTHS, "token"), SUMS),
    "long2short": (objectives, (GROUPS, GROUPS, LENGTHS[:, :2]), {}),
    "linear_logprobs": (logprobs, (HIDDEN, HEAD[:, :3], TARGETS), {}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_documented_shapes_pass(name: str) -> None:
    module, arguments, options = RIGHT[name]
    assert getattr(module, name)(*arguments, **options) is not None


@pytest.mark.parametrize("name", WRONG)
def test_other_shapes_fail(name: str) -> None:
    module, arguments, options = WRONG[name]
    with pytest.raises(TypeCheckError):
        getattr(module, name)(*arguments, **options)
