"""The frozen reference that the KL is taken to: a copy of the policy, or its base with the adapter switched off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel

from vibethinker.models.loading import build_model
from vibethinker.models.plain_weights import copy_weights


class FrozenCopy:
    """The policy's plain weights as they are now, without gradients. No module: it enters no checkpoint."""

    def __init__(self, policy: PreTrainedModel):
        model = build_model(policy.config, torch.float32, next(policy.parameters()).device)
        copy_weights(policy, model)
        self.model: Any = model.requires_grad_(False).eval()

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Moves and casts the copy."""
        self.model.to(device, dtype)

    def __call__(self) -> AbstractContextManager[PreTrainedModel]:
        """The copy, as a context."""
        return nullcontext(self.model)


class AdapterOff:
    """The policy's own base weights with the adapter switched off: no second model in memory."""

    def __init__(self, policy: PreTrainedModel):
        if not hasattr(policy, "disable_adapter"):
            raise ValueError("reference 'adapter_off' needs lora: this policy has no adapter to switch off")
        self.policy: Any = policy

    @contextmanager
    def __call__(self) -> Iterator[PreTrainedModel]:
        """Training mode stays: nothing drops out, and in evaluation bitsandbytes repacks 4-bit weights on a CPU."""
        with self.policy.disable_adapter():
            yield self.policy
