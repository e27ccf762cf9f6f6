"""Log-probs, entropies and gradients of a chunk of logits, one pass each, in place (Triton).

Reading 152k logits a token costs more than the product that makes them: PyTorch's own operations pass over them a dozen
times. One online pass (arXiv 1805.02867) gives log-prob and entropy; another turns logits into their gradient.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096  # columns at a time


@triton.jit
def _statistics(logits, targets, logp, entropy, normaliser, columns, temperature, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    start_of_row = logits + row * columns
    offsets = tl.arange(0, block)
    highest = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)  # Σ exp(z − highest)
    weighted = tl.zeros((), tl.float32)  # Σ z · exp(z − highest)
    for start in range(0, columns, block):
        inside = start + offsets < columns
        z = tl.load(start_of_row + start + offsets, mask=inside, other=float("-inf")).to(tl.float32) / temperature
        before, highest = highest, tl.maximum(highest, tl.max(z, 0))
        base = tl.where(highest == float("-inf"), 0.0, highest)  # so far there may be no word with mass
        mass = tl.exp(z - base)
        shrink = tl.exp(before - base)
        total = total * shrink + tl.sum(mass, 0)
        weighted = weighted * shrink + tl.sum(tl.where(mass > 0, z * mass, 0.0), 0)
    log_total = highest + tl.log(total)
    chosen = tl.load(start_of_row + tl.load(targets + row)).to(tl.float32) / temperature
    tl.store(logp + row, chosen - log_total)
    tl.store(entropy + row, log_total - weighted / total)
    tl.store(normaliser + row, log_total)


@triton.jit
def _gradient(logits, targets, normaliser, entropy, grad_logp, grad_entropy, columns, temperature, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < columns
    where = logits + row * columns + column
    log_p = tl.load(where, mask=inside, other=0.0).to(tl.float32) / temperature - tl.load(normaliser + row)
    of_logp = tl.load(grad_logp + row)
    of_entropy = tl.load(grad_entropy + row) * (log_p + tl.load(entropy + row))
    grad = tl.where(column == tl.load(targets + row), of_logp, 0.0) - tl.exp(log_p) * (of_logp + of_entropy)
    tl.store(where, (grad / temperature).to(logits.dtype.element_ty), mask=inside)


def statistics(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference does."""
    results = [torch.empty(len(logits), dtype=torch.float32, device=logits.device) for _ in range(3)]
    if len(logits):
        _statistics[(len(logits),)](logits, targets, *results, logits.shape[1], temperature, _BLOCK, num_warps=8)
    return results[0], results[1], results[2]


def gradient_(
    logits: Tensor,
    targets: Tensor,
    normaliser: Tensor,
    entropy: Tensor,
    grad_logp: Tensor,
    grad_entropy: Tensor,
    temperature: float,
) -> Tensor:
    """Overwrites the logits."""
    rows, columns = logits.shape
    grid = (rows, triton.cdiv(columns, _BLOCK))
    if rows:
        _gradient[grid](
            logits, targets, normaliser, entropy, grad_logp, grad_entropy, columns, temperature, _BLOCK, num_warps=8
        )
    return logits


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Products rounded to half precision before they are added would drift."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    else:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
