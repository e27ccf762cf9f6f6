"""The kernel that records sampled tokens against the reference."""

from __future__ import annotations

import pytest
import torch

from tests.support.kernels import normal
from vibethinker.ops.decode_state import torch as plain
from vibethinker.ops.decode_state import triton as state
from vibethinker.ops.decode_state.torch import ENDED, GENERATED, LENGTH, LIMIT, SEQUENCE, DecodeState


@pytest.mark.parametrize("grows", [True, False])
def test_advance_is_the_plain_one(grows: bool, device: str) -> None:
    """Twenty draws of five rows: stops, limits, a row that never began, NaN late."""
    ours, expected = (DecodeState.empty(6, 32, torch.device(device)) for _ in range(2))
    stops = torch.tensor([3, -1, 7, -1, -1, -1, -1, -1], device=device)
    for one in (ours, expected):
        one.rows[ENDED, :4], one.rows[GENERATED, :4], one.rows[LENGTH, :4] = 0, 1, 5
        one.rows[LIMIT] = torch.tensor([20, 4, 12, 30, 9, 9], device=device)
        one.rows[SEQUENCE] = torch.arange(6, device=device)
    for step in range(20):
        tokens = torch.randint(3 if step > 8 else 4, 40, (5,), generator=torch.Generator().manual_seed(step)).to(device)
        logp = normal(5, device=device, seed=step)
        if step == 17:
            logp[3] = torch.nan
        drawn = (tokens, logp, logp - 1)
        state.advance(ours.rows, ours.counters, drawn, stops, ours.outputs, grows)
        plain.advance(expected.rows, expected.counters, drawn, stops, expected.outputs, grows)
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, atol=0.0, rtol=0.0, equal_nan=True)
    assert ours.counters.tolist()[0] == 20
    assert set(ours.rows[ENDED, :4].sign().tolist()) >= {1, -1}
