"""Log-probs, entropies and gradients of a chunk of logits in PyTorch's operations."""

from __future__ import annotations

from torch import Tensor


def statistics(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs of the targets, entropies in nats and log-normalisers, each float32 [T]."""
    scaled = logits.float() / temperature
    normaliser = scaled.logsumexp(-1)
    entropy = normaliser - scaled.softmax(-1).mul_(scaled).sum(-1)
    return scaled.gather(-1, targets[:, None])[:, 0] - normaliser, entropy, normaliser


def gradient_(
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
    log_p = logits.float().div_(temperature)  # in place where they are float32
    log_p -= normaliser[:, None]
    grad = log_p.exp().neg_()
    grad *= log_p.add_(entropy[:, None]).mul_(grad_entropy[:, None]).add_(grad_logp[:, None])
    grad.scatter_add_(1, targets[:, None], grad_logp[:, None])
    return grad.div_(temperature).to(logits.dtype)


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Total += a @ b, with float32 sums."""
    total += a @ b
