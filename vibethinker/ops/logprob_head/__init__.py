"""Log-probs, entropies and gradients of a chunk of logits."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, device

from vibethinker.ops.logprob_head import torch as reference


@runtime_checkable  # tests check the types of arguments
class LogprobHead(Protocol):
    """The arithmetic of `vibethinker.logprobs.linear_logprobs` on logits [T, V], in float32."""

    def statistics(self, logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs of the targets, entropies in nats and log-normalisers, each float32 [T]."""
        ...

    def gradient_(
        self,
        logits: Tensor,
        targets: Tensor,
        normaliser: Tensor,
        entropy: Tensor,
        grad_logp: Tensor,
        grad_entropy: Tensor,
        temperature: float,
    ) -> Tensor:
        """The gradient with respect to the logits [T, V], in their precision and possibly in their memory.

        ∂logp/∂z = onehot − p;  ∂entropy/∂z = −p · (ln p + entropy).
        """
        ...

    def add_product_(self, total: Tensor, a: Tensor, b: Tensor) -> None:
        """total += a @ b, with float32 sums."""
        ...


def implementation(on: device) -> LogprobHead:
    """Triton's kernels on CUDA, else PyTorch's own operations."""
    if on.type == "cuda":
        from vibethinker.ops.logprob_head import triton

        return triton
    return reference
