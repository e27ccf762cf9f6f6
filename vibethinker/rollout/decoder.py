"""The device's side of sampling: prompts into slots, one token for every slot, CUDA graphs of that.

Nothing here waits for the device. A decode step reads and writes tensors that stay where they are, so that one capture
serves any weights, prompts and sequences; there is one for each number of rows and of splits that occurs, and a batch
that shrinks takes a smaller one.
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

from vibethinker.ops import kernels_of
from vibethinker.ops.decode_state import torch as plain_state
from vibethinker.ops.decode_state.torch import LAST, LENGTH, MADE, SEED, State
from vibethinker.packed.attention import Attention
from vibethinker.packed.packing import pack
from vibethinker.rollout import sampling_params as plain_sampling
from vibethinker.rollout.kv_cache import DecodeAttention, PrefillAttention, SlotCache, Split
from vibethinker.rollout.sampling_params import Sampling

Body = Callable[[Tensor, Tensor, Attention], Tensor]
PREFILL_TOKENS = 16_384  # of prompts computed at one time
_STOPS = 8  # places for stop tokens, at least


class Decoder:
    """Slots with their cache and state, and what advances them.

    Args:
        model: the replica, for its head and its shape.
        body: its decoder, `(input_ids [T], position_ids [T], attention) → hidden [T, H]`.
        slots: sequences at one time.
        prompt_length: of one of them, at most.
        completion_length: likewise.
        graphs: whether decode steps are captured in CUDA graphs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        body: Body,
        slots: int,
        prompt_length: int,
        completion_length: int,
        graphs: bool,
    ):
        device, dtype = model.device, model.dtype
        self.body, self.head, self.completion_length = body, model.get_output_embeddings(), completion_length
        self.cache = SlotCache(model.config, slots, prompt_length, completion_length, dtype, device)
        self.state = State.empty(slots, completion_length + 1, device)
        self.stops = torch.full((_STOPS,), -1, device=device)
        self.sizes = _sizes(slots)
        self._graphs: dict[Any, torch.cuda.CUDAGraph] | None = None
        if graphs and device.type == "cuda":
            self._forget_graphs()
        self._sampler = kernels_of(device, "sampling", plain_sampling)
        self._state = kernels_of(device, "decode_state", plain_state)

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

    def prefill(self, prompts: Sequence[Tensor], places: Tensor) -> Tensor:
        """Computes prompts into these places of the cache, some at a time; gives the logits that follow them [P, V]."""
        logits = []
        for part in _parts([len(p) for p in prompts], PREFILL_TOKENS):
            nothing = [torch.zeros(1, dtype=torch.long)] * len(prompts[part])
            row = pack(prompts[part], nothing).to(self.stops.device)
            hidden = self.body(row.input_ids, row.position_ids, PrefillAttention(row, self.cache, places[part]))
            logits.append(self.head(hidden[row.predictors]))
        return torch.cat(logits)

    def draw(self, logits: Tensor, first: int, sampling: Sampling, grows: bool) -> None:
        """Draws and books a token for each of the rows from `first` on, one for each of the logits [R, V]."""
        rows = self.state.rows[:, first : first + len(logits)]
        numbers = self._sampler.uniforms(rows[SEED], rows[MADE])
        drawn = self._sampler.sample(logits, numbers, sampling)
        outputs = tuple(store[first:] for store in self.state.outputs)
        self._state.advance(self.state.rows[:, first:], self.state.counters, drawn, self.stops, outputs, grows)

    def decode(self, lengths: NDArray[np.int64], sampling: Sampling, steps: int) -> None:
        """`steps` tokens for each of the first slots, which will then have these many tokens in the cache, or fewer."""
        rows = len(lengths)
        if self._graphs is None:
            for _ in range(steps):
                self._step(rows, Split.of(lengths, rows, self.cache.kv_heads), sampling)
            return
        size = next(size for size in self.sizes if size >= rows)
        split = Split.of(lengths, size, self.cache.kv_heads)
        law = (sampling.temperature, sampling.top_k, sampling.min_p, sampling.top_p)
        key = (size, split, law)
        if key not in self._graphs:
            self._step(size, split, sampling)  # compiles what it needs, which a capture could not
            steps -= 1
            self._graphs[key] = self._captured(lambda: self._step(size, split, sampling))
        for _ in range(steps):
            self._graphs[key].replay()

    def _step(self, rows: int, split: Split, sampling: Sampling) -> None:
        state = self.state.rows[:, :rows]
        hidden = self.body(state[LAST], state[LENGTH], DecodeAttention(self.cache, state, split))
        self.draw(self.head(hidden), 0, sampling, grows=True)

    def _captured(self, call: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Without what `torch.cuda.graph` does beside it: collecting garbage and emptying caches takes longer."""
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
    """A graph that is collected during another's capture would break it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _sizes(slots: int) -> list[int]:
    """Numbers of rows that have a graph, ascending: powers of two and what lies halfway, up to the slots."""
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
