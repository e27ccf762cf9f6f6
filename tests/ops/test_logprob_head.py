"""The head's fused kernels against the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vibethinker.ops.logprob_head import torch as reference
from vibethinker.ops.logprob_head import triton as head

TOKENS, WORDS = 5, 5001  # two blocks of columns, the second one not full


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_statistics_and_gradient(dtype: torch.dtype, temperature: float, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(TOKENS, WORDS, generator=generator)).to(dtype)
    logits[1, 0] = 60.0  # next to a sure thing
    logits[2, 5:] = -torch.inf
    logits[3, :4096] = -torch.inf  # the whole first block
    targets = torch.tensor([0, 0, 4, 4096, WORDS - 1])
    upstream = torch.randn(2, TOKENS, generator=generator)
    logits, targets, upstream = (x.to(device) for x in (logits, targets, upstream))
    expected = reference.statistics(logits, targets, temperature)
    for ours, plain in zip(head.statistics(logits, targets, temperature), expected, strict=True):
        assert ours.dtype == torch.float32
        finite = ~plain.isnan()  # the plain entropy makes 0 · −∞ of a word without mass
        torch.testing.assert_close(ours[finite], plain[finite], atol=1e-4, rtol=2e-5)  # 85 − 85 at a sure thing

    assert all(x.isfinite().all() for x in head.statistics(logits, targets, temperature))

    rows = [0, 1, 4]
    _, entropy, normaliser = expected
    arguments: Any = (*(x[rows] for x in (targets, normaliser, entropy, *upstream)), temperature)
    plain = reference.gradient_(logits[rows].float(), *arguments)
    ours = head.gradient_(logits[rows], *arguments)
    assert ours.dtype == dtype
    tolerance = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]  # of exp on a GPU
    torch.testing.assert_close(ours.float(), plain, atol=2e-5, rtol=tolerance)  # 1 − exp(85 − 85) at a sure thing


def test_no_tokens(device: str) -> None:
    logits, targets = torch.empty(0, 9, device=device), torch.empty(0, dtype=torch.long, device=device)
    assert [len(x) for x in head.statistics(logits, targets, 1.0)] == [0, 0, 0]
    nothing = torch.empty(0, device=device)
    assert head.gradient_(logits, targets, nothing, nothing, nothing, nothing, 1.0).shape == (0, 9)
