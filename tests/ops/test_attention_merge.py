"""The merge kernel against the reference, in float64."""

from __future__ import annotations

import pytest
import torch

from vibethinker.ops.attention_merge import torch as reference
from vibethinker.ops.attention_merge import triton as merging


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 12, 128), (3, 5, 24), (1, 1, 8)])
@pytest.mark.parametrize("strided", [False, True])
def test_merge(dtype: torch.dtype, shape: tuple[int, int, int], strided: bool, device: str) -> None:
    """In place of a part of the row, whose neighbours stay."""
    generator = torch.Generator().manual_seed(0)
    rows, heads, width = shape
    out = torch.randn(rows + 4, heads, width, generator=generator).to(device, dtype)
    other = torch.randn(shape, generator=generator).to(device, dtype)
    lse, other_lse = (5 * torch.randn(heads, rows + n, generator=generator).to(device) for n in (4, 0))
    lse[0, 2], other_lse[-1, 0] = 900.0, -900.0
    if strided:  # heads first, as the flash kernel answers to such queries
        out, other = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in (out, other))
    part = slice(2, 2 + rows)
    expected, expected_lse = out.double().cpu(), lse.double().cpu()
    reference.merge_(expected[part], expected_lse[:, part], other.double().cpu(), other_lse.double().cpu())
    merging.merge_(out[part], lse[:, part], other, other_lse)
    rounding = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(out.double().cpu(), expected, atol=rounding, rtol=rounding)
    torch.testing.assert_close(lse.double().cpu(), expected_lse, atol=1e-5, rtol=1e-6)


def test_nothing_to_merge(device: str) -> None:
    out, lse = torch.ones(3, 2, 8, device=device), torch.ones(2, 3, device=device)
    merging.merge_(out[:0], lse[:, :0], 5 * out[:0], 5 * lse[:, :0])
    assert out.eq(1).all()
    assert lse.eq(1).all()


def test_a_strided_last_dimension_is_refused(device: str) -> None:
    out, lse = torch.zeros(4, 8, 2, device=device).transpose(1, 2), torch.zeros(2, 4, device=device)
    with pytest.raises(ValueError, match="contiguous"):
        merging.merge_(out, lse, out, lse)
