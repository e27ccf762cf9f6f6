"""The device's side of sampling: prefill of prompts into slots, decode steps, and their CUDA graphs.

Nothing here waits for the device. A decode step reads and writes tensors that stay at their addresses, so that one
captured graph serves any weights, prompts and sequences; there is one for each number of rows and each split that
occurs, and a batch that shrinks takes a smaller one.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from vibethinker.ops import decode_state, implementation, sampling
from vibethinker.ops.decode_attention import Split
from vibethinker.ops.decode_state.torch import GENERATED, LAST, LENGTH, SEED, DecodeState
from vibethinker.packed.attention import Attention
from vibethinker.packed.packing import pack
from vibethinker.rollout.kv_cache import DecodeAttention, PrefillAttention, SlotCache
from vibethinker.rollout.sampling_params import Sampling

Backbone = Callable[[Tensor, Tensor, Attention], Tensor]
PREFILL_TOKENS = 16_384  # of prompts computed at one time
_STOPS = 8  # least room for stop tokens


class Decoder:
    """Slots with their KV cache and state, and the steps that advance them.

    Args:
        model: the replica, for its head and its shape.
        backbone: its layers, `(input_ids [T], position_ids [T], attention) → hidden [T, H]`.
        slots: sequences at one time.
        prompt_length: most tokens of a prompt.
        completion_length: most tokens of a completion.
        graphs: true captures decode steps in CUDA graphs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        backbone: Backbone,
        slots: int,
        prompt_length: int,
        completion_length: int,
        graphs: bool,
    ):
        device, dtype = model.device, model.dtype
        self.backbone, self.head, self.completion_length = backbone, model.get_output_embeddings(), completion_length
        self.cache = SlotCache(model.config, slots, prompt_length, completion_length, dtype, device)
        self.state = DecodeState.empty(slots, completion_length + 1, device)
        self.stops = torch.full((_STOPS,), -1, device=device)
        self.sizes = _sizes(slots)
        self._graphs: dict[Any, torch.cuda.CUDAGraph] | None = None
        if graphs and device.type == "cuda":
            self._forget_graphs()
        self._sampler = implementation(sampling, device)
        self._recorder = implementation(decode_state, device)

    def begin(self, stop_token_ids: Sequence[int]) -> None:
        """Empties all slots; completions will end at these tokens."""
        self.state.clear()
        room = max(_STOPS, 1 << (len(stop_token_ids) - 1).bit_length())
        stops = torch.tensor([*stop_token_ids, *[-1] * (room - len(stop_token_ids))], dtype=torch.long)
        if room != len(self.stops):
            self.stops = torch.empty_like(stops, device=self.stops.device)
            if self._graphs is not None:
                self._forget_graphs()
        self.stops.copy_(stops)

    def _forget_graphs(self) -> None:
        self._graphs, self._pool = {}, torch.cuda.graph_pool_handle()  # a pool does not outlive its graphs

    def prefill(self, prompts: Sequence[Tensor], slots: Tensor) -> Tensor:
        """Computes prompts into these slots of the cache, in several parts; returns the logits after them [P, V]."""
        logits = []
        for part in _parts([len(p) for p in prompts], PREFILL_TOKENS):
            nothing = [torch.zeros(1, dtype=torch.long)] * len(prompts[part])
            row = pack(prompts[part], nothing).to(self.stops.device)
            hidden = self.backbone(row.input_ids, row.position_ids, PrefillAttention(row, self.cache, slots[part]))
            logits.append(self.head(hidden[row.predictors]))
        return torch.cat(logits)

    def sample(self, logits: Tensor, first: int, params: Sampling, grows: bool) -> None:
        """Samples and records a token for each of the rows from `first` on.

        Args:
            logits: [R, V], one row for each.
            first: index of the first row.
            params: temperature and filters.
            grows: true where the token before this one has been added to the cache.
        """
        rows = self.state.rows[:, first : first + len(logits)]
        numbers = self._sampler.uniforms(rows[SEED], rows[GENERATED])
        logits = params.processor(logits) if params.processor else logits
        sampled = self._sampler.sample(logits, numbers, params)
        outputs = tuple(store[first:] for store in self.state.outputs)
        self._recorder.advance(self.state.rows[:, first:], self.state.counters, sampled, self.stops, outputs, grows)

    def decode(self, lengths: NDArray[np.int64], params: Sampling, steps: int) -> None:
        """Samples tokens for the first slots.

        Args:
            lengths: tokens that each of these slots will then have in the cache, at most.
            params: temperature and filters.
            steps: tokens for each slot.
        """
        rows = len(lengths)
        if self._graphs is None:
            for _ in range(steps):
                self._step(rows, Split.of(lengths, rows, self.cache.kv_heads), params)
            return
        size = next(size for size in self.sizes if size >= rows)
        split = Split.of(lengths, size, self.cache.kv_heads)
        key = (size, split, params.temperature, params.top_k, params.min_p, params.top_p, params.processor)
        if key not in self._graphs:
            self._step(size, split, params)  # compiles what it needs, which a capture could not
            steps -= 1
            self._graphs[key] = self._captured(lambda: self._step(size, split, params))
        for _ in range(steps):
            self._graphs[key].replay()

    def _step(self, rows: int, split: Split, params: Sampling) -> None:
        state = self.state.rows[:, :rows]
        hidden = self.backbone(state[LAST], state[LENGTH], DecodeAttention(self.cache, state, split))
        self.sample(self.head(hidden), 0, params, grows=True)

    def _captured(self, call: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """A capture without the garbage collection and emptied caches of `torch.cuda.graph`, which take longer."""
        graph, stream = torch.cuda.CUDAGraph(), _capture_stream(self.stops.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), _no_collection():
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                call()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        return graph


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures: the matrix library keeps a workspace for every stream it has seen."""
    return torch.cuda.Stream(device)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps the garbage collector off: a graph that it destroys during another's capture would break that one."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _sizes(slots: int) -> list[int]:
    """Numbers of rows that have a graph, ascending: powers of two and the halves between them, up to the slots."""
    powers = [1 << i for i in range(slots.bit_length())]
    return sorted({size for p in powers for size in (p, p + p // 2) if size < slots} | {slots})


def _parts(lengths: Sequence[int], limit: int) -> list[slice]:
    """Consecutive parts of at most `limit` tokens, or of one prompt."""
    parts, start, load = [], 0, 0
    for index, length in enumerate(lengths):
        if index > start and load + length > limit:
            parts.append(slice(start, index))
            start, load = index, 0
        load += length
    return [*parts, slice(start, len(lengths))] if lengths else []
