"""Log-probability and entropy of given tokens straight from hidden states; never all logits at once.

The vocabulary of a small model is its widest layer: for 16k tokens and 152k words the logits alone are 9 GiB in float32
and their gradient as much again. Here the head runs over chunks of tokens, forward and once more in backward.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from vibethinker.ops import implementation, logprob_head

CHUNK = 1536  # tokens at a time: less would be slower (a fifth at 512), more takes room and gains next to nothing


def linear_logprobs(
    hidden: Float[Tensor, "T H"],
    weight: Float[Tensor, "V H"],
    targets: Int[Tensor, " T"],
    temperature: float = 1.0,
    chunk: int = CHUNK,
    kernels: Any = None,
) -> tuple[Float32[Tensor, " T"], Float32[Tensor, " T"]]:
    r"""Log-probs $\ln\,\mathrm{softmax}(h W^\top / \tau)_y$ and entropies in nats, both [T] and with gradient.

    >>> logp, entropy = linear_logprobs(torch.zeros(2, 3), torch.randn(4, 3), torch.tensor([0, 3]))
    >>> logp.exp(), entropy.exp()  # four equally likely tokens
    (tensor([0.2500, 0.2500]), tensor([4., 4.]))

    Args:
        hidden: [T, H] final hidden states.
        weight: [V, H] weight of the head.
        targets: [T] token ids.
        temperature: τ > 0, the temperature the tokens were sampled at.
        chunk: tokens whose logits exist at one time.
        kernels: the arithmetic on logits; by default the one for the device.

    Raises:
        ValueError: a temperature or a chunk that is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    kernels = kernels or implementation(logprob_head, hidden.device)
    logp, entropy = _LinearLogProbs.apply(hidden.to(dtype), weight, targets, temperature, chunk, kernels)
    return logp, entropy


class _LinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int, kernels: Any
    ) -> tuple[Tensor, Tensor]:
        head = weight.to(hidden.dtype)
        results = [torch.empty(len(hidden), dtype=torch.float32, device=hidden.device) for _ in range(3)]
        for part in _parts(len(hidden), chunk):
            of_part = kernels.statistics(hidden[part] @ head.T, targets[part], temperature)
            for whole, some in zip(results, of_part, strict=True):
                whole[part] = some
        logp, entropy, normaliser = results
        ctx.save_for_backward(hidden, weight, targets, normaliser, entropy)
        ctx.temperature, ctx.chunk, ctx.kernels = temperature, chunk, kernels
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, grad_logp: Tensor, grad_entropy: Tensor) -> tuple[Tensor | None, ...]:
        """Once more through the head, chunk by chunk: z = h·Wᵀ/τ."""
        hidden, weight, *of_tokens = ctx.saved_tensors
        head = weight.to(hidden.dtype)
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if to_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if to_weight else None
        of_tokens += [grad.contiguous() for grad in (grad_logp, grad_entropy)]
        for part in _parts(len(hidden), ctx.chunk):
            of_part = (values[part] for values in of_tokens)
            grad = ctx.kernels.gradient_(hidden[part] @ head.T, *of_part, ctx.temperature)
            if grad_hidden is not None:
                grad_hidden[part] = grad @ head
            if grad_weight is not None:
                ctx.kernels.add_product_(grad_weight, grad.T, hidden[part])
            del grad  # before the next chunk's logits are there
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None, None


def _parts(length: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, length)) for start in range(0, length, chunk)]
