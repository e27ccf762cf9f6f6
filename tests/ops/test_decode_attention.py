"""The decode attention kernels against the same written out in PyTorch."""

from __future__ import annotations

import pytest
import torch

from tests.support.kernels import angles, normal, rms_norm, rotated
from vibethinker.ops.decode_attention import Split
from vibethinker.ops.decode_attention import triton as cached_attention
from vibethinker.ops.decoder_layers import Rotation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("split", [Split(1, 4096), Split(2, 64), Split(8, 16)])
@pytest.mark.parametrize("rotates", ["not", "rotated", "normed and rotated"])
def test_attend(rotates: str, split: Split, dtype: torch.dtype, device: str) -> None:
    """Prompts alone, with many tokens after them, and none, in places full of what others left behind."""
    if dtype == torch.bfloat16 and device == "cpu":
        pytest.skip("the interpreter takes its bits for integers in a matrix product")
    heads, kv_heads, size, room = 6, 2, 12, 112
    of_prompt = torch.tensor([1, 1, 15, 16, 17, 64, 15, 20, 0], device=device)
    place = torch.tensor([3, 3, 0, 2, 1, 5, 0, 4, 6], device=device)
    made = torch.tensor([0, 100, 1, 0, 17, 64, 3, 107, 0], device=device)
    lengths, rows = of_prompt + made, len(made)
    stores = [normal(n, kv_heads, m, size, device=device, seed=n, dtype=dtype) for n, m in ((7, 64), (rows + 1, room))]
    of_prompts, of_completions = (torch.stack([x, x.flip(0)]) for x in stores)
    for row in range(rows):
        for store, end, index in ((of_prompts, of_prompt[row], place[row]), (of_completions, made[row], row)):
            for x in store:
                x[index, :, end:] = torch.nan
    qkv = normal(rows, (heads + 2 * kv_heads) * size, device=device, dtype=dtype).view(rows, -1, size)
    q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)  # rows further apart than their heads take
    rotation, seen_q, seen_k = None, q.float(), k.float()
    if rotates != "not":
        cos, sin = angles(int(lengths.max()) + 1, size, device)
        weights = None
        if rotates != "rotated":
            weights = (normal(size, device=device, seed=3), normal(size, device=device, seed=4), 1e-6)
            seen_q, seen_k = rms_norm(seen_q, weights[0], 1e-6), rms_norm(seen_k, weights[1], 1e-6)
        rotation = Rotation(cos, sin, weights)
        seen_q, seen_k = (rotated(x, cos[lengths], sin[lengths]) for x in (seen_q, seen_k))
    known_rows = (lengths, place, of_prompt)
    out = cached_attention.attend(q, k, v, of_prompts, of_completions, known_rows, 0.3, split, rotation)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for row, (place_of_row, end_of_prompt, end) in enumerate(zip(place, of_prompt, made, strict=True)):
        keys, values = (
            torch.cat([p[place_of_row, :, :end_of_prompt], c[row, :, : end + 1]], 1).float()
            for p, c in zip(of_prompts, of_completions, strict=True)
        )
        torch.testing.assert_close(keys[:, -1], seen_k[row], atol=tolerance, rtol=tolerance)
        assert torch.equal(values[:, -1], v[row].float())
        for head in range(heads):
            weight = (keys[head // 3] @ seen_q[row, head] * 0.3).softmax(0)
            expected = weight @ values[head // 3]
            torch.testing.assert_close(out[row, head].float(), expected, atol=tolerance, rtol=tolerance)
    assert of_completions[0][: rows - 1].isnan().any()
    assert not of_completions[0][rows].isnan().any()  # what is no sequence's stays as it was


def test_copy_rows(device: str) -> None:
    store = normal(3, 2, 6, 2, 16, 8, device=device)
    before = store.clone()
    sources, targets, lengths = (torch.tensor(x, device=device) for x in ([5, 5, 0], [1, 3, 2], [16, 4, 7]))
    cached_attention.copy_rows_(store, sources, targets, lengths, 16)
    for source, target, length in ((5, 1, 16), (5, 3, 4), (0, 2, 7)):
        before[:, :, target, :, :length] = before[:, :, source, :, :length]
    assert torch.equal(store, before)
    cached_attention.copy_rows_(store, sources[:0], targets[:0], lengths[:0], 0)
