"""The head's log-probs, forward and backward, against PyTorch's own linear and cross-entropy.

float32 weight under bfloat16 autocast; medians of seven calls; memory above what is there before a call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F

from parts.setting import Setting
from vibethinker.logprobs import CHUNK, linear_logprobs

REPEATS = 7


def head(setting: Setting) -> None:
    scale, device = setting.scale, setting.device
    words, width = scale.model["vocab_size"], scale.model["hidden_size"]
    hidden = torch.randn(scale.head_tokens, width, device=device)
    weight = torch.nn.Parameter(torch.randn(words, width, device=device) * 0.02)
    targets = torch.randint(words, (scale.head_tokens,), device=device)

    def plain() -> None:
        inputs = hidden.detach().requires_grad_()
        with torch.autocast(device, torch.bfloat16):
            logits = F.linear(inputs, weight)
            loss = F.cross_entropy(logits.float(), targets, reduction="sum")
        loss.backward()
        weight.grad = None

    def chunked(chunk: int) -> None:
        inputs = hidden.detach().requires_grad_()
        with torch.autocast(device, torch.bfloat16):
            logp, _ = linear_logprobs(inputs, weight, targets, chunk=chunk)
        (-logp.sum()).backward()
        weight.grad = None

    def measure(call: Callable[[], None]) -> dict[str, float]:
        call()
        setting.free()
        before = setting.allocated
        setting.forget_peak()
        times = setting.times(call, REPEATS)
        return {"ms": 1000 * median(times), "gib": setting.peak - before}

    chunks = {str(chunk): measure(partial(chunked, chunk)) for chunk in (512, 1024, CHUNK, 4096)}
    setting.report(tokens=scale.head_tokens, repeats=REPEATS, default=str(CHUNK), plain=measure(plain), chunks=chunks)
