"""The head's log-probs, forward and backward, against PyTorch's own linear and cross-entropy: time and peak memory.

    python benchmarks/head.py      # one CUDA device, under a minute

16,384 tokens, 1,536 wide, 151,936 words, float32 weight under bfloat16 autocast. Times are medians of seven calls by
CUDA events; memory is the peak above what is there before a call.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F

from vibethinker.logprobs import linear_logprobs

TOKENS, WIDTH, WORDS = 16_384, 1536, 151_936


def measure(call: Callable[[], None]) -> tuple[float, float]:
    """Milliseconds and GiB."""
    call()
    torch.cuda.synchronize()
    before, times = torch.cuda.memory_allocated(), []
    torch.cuda.reset_peak_memory_stats()
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times), (torch.cuda.max_memory_allocated() - before) / 2**30


def main() -> None:
    hidden = torch.randn(TOKENS, WIDTH, device="cuda")
    weight = torch.nn.Parameter(torch.randn(WORDS, WIDTH, device="cuda") * 0.02)
    targets = torch.randint(WORDS, (TOKENS,), device="cuda")

    def plain() -> None:
        inputs = hidden.detach().requires_grad_()
        with torch.autocast("cuda", torch.bfloat16):
            logits = F.linear(inputs, weight)
            loss = F.cross_entropy(logits.float(), targets, reduction="sum")
        loss.backward()
        weight.grad = None

    def chunked(chunk: int) -> None:
        inputs = hidden.detach().requires_grad_()
        with torch.autocast("cuda", torch.bfloat16):
            logp, _ = linear_logprobs(inputs, weight, targets, chunk=chunk)
        (-logp.sum()).backward()
        weight.grad = None

    print("| head | ms | GiB |\n| --- | --- | --- |")
    print("| plain | {:.1f} | {:.1f} |".format(*measure(plain)))
    for chunk in (512, 1024, 2048, 4096):
        print("| chunks of {} | {:.1f} | {:.1f} |".format(chunk, *measure(lambda chunk=chunk: chunked(chunk))))
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
