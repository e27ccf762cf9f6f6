"""Log-probability and entropy of given tokens straight from hidden states; the logits are never held whole.

The vocabulary of a small model is its widest layer: for 16k tokens and 152k words the logits alone are 9 GiB in float32
and their gradient as much again. Here the head runs over chunks of tokens, forward and once more in backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 4096  # tokens at a time; 2k to 8k cost nothing over the plain product, 256 would triple it


def linear_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    r"""Log-probs $\ln\,\mathrm{softmax}(h W^\top / \tau)_y$ and entropies of these distributions, both with gradient.

    Args:
        hidden: [T, H] final hidden states.
        weight: [V, H] of the head.
        targets: [T] token ids.
        temperature: τ > 0, the temperature the tokens were sampled at.
        chunk: tokens whose logits exist at one time.

    Returns:
        log-probs [T] and entropies in nats [T], float32.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    logp, entropy = _LinearLogProbs.apply(hidden.to(dtype), weight, targets, temperature, chunk)
    return logp, entropy


def logprobs_and_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same from float32 logits [T, V] that fit in memory, without a copy of a log-softmax."""
    normaliser = logits.logsumexp(-1)
    entropy = normaliser - logits.softmax(-1).mul_(logits).sum(-1)
    return logits.gather(-1, targets[:, None])[:, 0] - normaliser, entropy


class _LinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        head = weight.to(hidden.dtype)
        logp = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        entropy = torch.empty_like(logp)
        for part in _parts(len(hidden), chunk):
            logits = (hidden[part] @ head.T).float().div_(temperature)
            logp[part], entropy[part] = logprobs_and_entropy(logits, targets[part])
        ctx.save_for_backward(hidden, weight, targets, entropy)
        ctx.temperature, ctx.chunk = temperature, chunk
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, grad_logp: Tensor, grad_entropy: Tensor) -> tuple[Tensor | None, ...]:
        """∂logp/∂z = onehot − p;  ∂entropy/∂z = −p · (ln p + entropy);  z = h·W/τ."""
        hidden, weight, targets, entropy = ctx.saved_tensors
        head = weight.to(hidden.dtype)
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if to_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if to_weight else None
        for part in _parts(len(hidden), ctx.chunk):
            log_p = (hidden[part] @ head.T).float().div_(ctx.temperature).log_softmax(-1)
            grad = log_p.exp().neg_()
            grad *= log_p.add_(entropy[part, None]).mul_(grad_entropy[part, None]).add_(grad_logp[part, None])
            del log_p  # two float32 buffers of a chunk's logits are the most there is
            grad.scatter_add_(1, targets[part, None], grad_logp[part, None])
            grad = grad.div_(ctx.temperature).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad @ head
            if grad_weight is not None:
                grad_weight += grad.T @ hidden[part]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def _parts(length: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, length)) for start in range(0, length, chunk)]
