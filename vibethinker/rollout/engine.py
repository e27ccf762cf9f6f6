"""In-process sampling that returns tokens and the log-probabilities they were sampled with.

The engine keeps its own copy of the policy's weights in the compute precision and decodes with continuous batching: a
slot holds one sequence, finished sequences are replaced by waiting ones, and every decode step works on unfinished
sequences only. A group's prompt is computed and cached once. On CUDA a step is one graph.

A rollout is a function of its prompt, its seed and the weights: not of slot, batch or process, as far as kernels round
the same in batches of other sizes and lengths.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from transformers import PreTrainedModel

from vibethinker.models.export import stop_token_ids
from vibethinker.models.loading import build_model
from vibethinker.models.plain_weights import copy_weights
from vibethinker.models.source import context_of, rotations
from vibethinker.packed.attention import hidden_states
from vibethinker.packed.model_support import incompatibility
from vibethinker.rollout import hf_generate
from vibethinker.rollout.decoder import Backbone, Decoder
from vibethinker.rollout.hf_generate import Completion
from vibethinker.rollout.kv_cache import slot_bytes
from vibethinker.rollout.llama_decoder import LlamaDecoder
from vibethinker.rollout.sampling_params import Sampling, rollout_seeds
from vibethinker.rollout.scheduler import Progress, Scheduler

_GIB = 2**30
_CACHE_FRACTION = 0.8  # of the free memory, for a KV cache without a limit


@dataclass(frozen=True, slots=True)
class Rollouts:
    """`n` completions of each of `P` prompts, group-major; all tensors on the CPU.

    Attributes:
        prompt_ids: P·n prompts; the members of a group share one tensor.
        completion_ids: P·n token tensors, the stop token included.
        logprobs: P·n float32 tensors, under the plain temperature distribution.
        sampled_logprobs: the same under the distribution sampled from, which differs with top-k, top-p or min-p.
        finished: bool [P·n]; false where the completion was truncated at its length limit.
        n: completions of each prompt.
    """

    prompt_ids: list[Tensor]
    completion_ids: list[Tensor]
    logprobs: list[Tensor]
    sampled_logprobs: list[Tensor]
    finished: Tensor
    n: int

    @property
    def lengths(self) -> Tensor:
        """int64 [P·n] completion lengths in tokens."""
        return torch.tensor([len(c) for c in self.completion_ids])


class RolloutEngine:
    """Samples from a replica of a causal model.

    Args:
        model: the policy (full, LoRA or quantized), on the device to sample on.
        max_length: longest prompt plus completion, in tokens.
        slots: sequences decoded at one time; fewer where their KV cache would take too much memory.
        dtype: precision of the replica and its cache; bfloat16 on CUDA and float32 on CPU by default.
        cache_gib: memory for the KV cache in GiB; by default four fifths of a GPU's free memory at the first use.
        graphs: false runs every decode step kernel by kernel on CUDA too.

    Raises:
        ValueError: `max_length` beyond the model's context, or a `cache_gib` that holds no sequence.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_length: int,
        slots: int = 256,
        dtype: torch.dtype | None = None,
        cache_gib: float | None = None,
        graphs: bool = True,
    ):
        limit = context_of(model.config)
        if max_length > limit:
            raise ValueError(f"max_length {max_length} is longer than the model's context of {limit} tokens")
        if slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        self.device = next(model.parameters()).device
        self.dtype = dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        self.max_length, self.cache_gib, self._config = max_length, cache_gib, model.config
        # transformers' `dynamic` angles ask the device at every step, which a capture cannot
        self.graphs = graphs and all(r.get("rope_type") != "dynamic" for r in rotations(model.config))
        self._most = self.slots = slots if cache_gib is None else self._fitting(slots, cache_gib * _GIB, "cache_gib")
        self.replica = self._empty_replica()
        self.sync(model)
        reason = incompatibility(self.replica)
        if reason:
            rank_zero_warn(
                f"sampling through transformers' generate, which is slower: {reason}", category=RuntimeWarning
            )
            self.replica = self._empty_replica(packed=False)
            self.sync(model)
        self._backbone: Backbone | None = None
        if not reason and LlamaDecoder.is_supported(self.replica):
            self._backbone = LlamaDecoder(self.replica, max_length)
        elif not reason:
            self._backbone = lambda ids, positions, attention: hidden_states(self.replica, ids, positions, attention)
        self._decoder: Decoder | None = None
        self.stop_token_ids = stop_token_ids(model)

    def _empty_replica(self, packed: bool = True) -> PreTrainedModel:
        return build_model(self._config, self.dtype, self.device, packed=packed).requires_grad_(False).eval()

    def _fitting(self, slots: int, room: float, name: str) -> int:
        """The number of slots that fit into `room` bytes, beside one more prompt."""
        one = slot_bytes(self._config, self.max_length, self.dtype)
        if room < 2 * one:
            raise ValueError(
                f"{name} of {room / _GIB:.2f} GiB holds no sequence: one of max_length={self.max_length} tokens and "
                f"the next one's prompt take {2 * one / _GIB:.2f} GiB"
            )
        return min(slots, int(room // one) - 1)

    def sync(self, model: PreTrainedModel) -> float:
        """Copies the policy's weights into the replica, adapters merged; returns the seconds it took."""
        start = time.perf_counter()
        copy_weights(model, self.replica)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def _decoder_for(self, completion_length: int) -> Decoder:
        """Slots and graphs, allocated at the first use and whenever `max_new_tokens` changes."""
        if self._decoder is None or self._decoder.completion_length != completion_length:
            self.release()
            if self.device.type == "cuda" and self.cache_gib is None:
                unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
                free = torch.cuda.mem_get_info(self.device)[0] + unused
                self.slots = self._fitting(self._most, _CACHE_FRACTION * free, "free GPU memory")
            assert self._backbone is not None, "transformers' generate keeps its own cache"
            lengths = (self.max_length - completion_length, completion_length)
            self._decoder = Decoder(self.replica, self._backbone, self.slots, *lengths, self.graphs)
        return self._decoder

    def release(self) -> None:
        """Frees the memory of the KV cache and the graphs until the next `generate`."""
        self._decoder = None

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seed: int | Sequence[int] = 0,
        progress: Progress | None = None,
        limits: Sequence[int] | None = None,
    ) -> Rollouts:
        """Samples `n` completions of every prompt.

        Args:
            prompt_ids: `P` prompts.
            n: completions of each.
            sampling: temperature, filters and where completions end.
            seed: one number, to which each prompt's index is added, or a number for each prompt.
            progress: called with the number of finished completions and of all.
            limits: most tokens of each of the P·n completions, where that is less than `max_new_tokens`.

        Raises:
            ValueError: an empty prompt, or one that leaves no room for `max_new_tokens`; seeds or limits in the wrong
                number; no room for any prompt.
            FloatingPointError: the model's logits are NaN; the message names the step.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if sampling.max_new_tokens >= self.max_length:
            raise ValueError(
                f"max_new_tokens {sampling.max_new_tokens} leaves no room for a prompt in max_length {self.max_length}"
            )
        for index, prompt in enumerate(prompt_ids):
            if not 0 < len(prompt) <= self.max_length - sampling.max_new_tokens:
                raise ValueError(
                    f"prompt {index} has {len(prompt)} tokens; with max_new_tokens={sampling.max_new_tokens} "
                    f"and max_length={self.max_length} it may have 1 to {self.max_length - sampling.max_new_tokens}"
                )
        prompts = [torch.as_tensor(p, dtype=torch.long) for p in prompt_ids]
        room = _limits(limits, len(prompts) * n, sampling.max_new_tokens)
        stops = self.stop_token_ids if sampling.stop_token_ids is None else sampling.stop_token_ids
        seeds = rollout_seeds(_seeds(seed, len(prompts)), n)
        # under autocast keys would come in another precision than the cache's, and tokens from another distribution
        on_cuda = self.device.type == "cuda"  # graphs and Triton's kernels run on the current GPU
        current = torch.cuda.device(self.device) if on_cuda else nullcontext()
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False), current:
            if self._backbone is None:
                stop = torch.tensor(stops, dtype=torch.long)
                done = hf_generate.generate(self.replica, prompts, n, sampling, seeds, stop, self.slots, progress)
                limited = zip(done, room.tolist(), strict=True)
                done = [(t[:m], logp[:m], own[:m], ended and len(t) <= m) for (t, logp, own, ended), m in limited]
            else:
                decoder = self._decoder_for(sampling.max_new_tokens)
                decoder.begin(stops)
                done = self._decoded(Scheduler(decoder, prompts, n, sampling, seeds, room), progress)
        return Rollouts(
            prompt_ids=[p for p in prompts for _ in range(n)],
            completion_ids=_copied([tokens for tokens, *_ in done], torch.long),
            logprobs=_copied([logp for _, logp, *_ in done], torch.float32),
            sampled_logprobs=_copied([sampled for _, _, sampled, _ in done], torch.float32),
            finished=torch.tensor([finished for *_, finished in done], dtype=torch.bool),
            n=n,
        )

    def _decoded(self, scheduler: Scheduler, progress: Progress | None) -> list[Completion]:
        try:
            ended, outputs = scheduler.run(progress)
        except FloatingPointError:
            self.release()  # a cached NaN outlives its sequence: masked, it still is 0 · NaN
            raise
        rows = zip(ended.tolist(), *outputs, strict=True)
        return [(t[: abs(end)], logp[: abs(end)], sampled[: abs(end)], end > 0) for end, t, logp, sampled in rows]


def _copied(parts: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Copies into one piece of memory, outside of inference mode: autograd refuses its tensors."""
    return list(torch.cat([*parts]).to(dtype).split([len(p) for p in parts])) if parts else []


def _seeds(seed: int | Sequence[int], prompts: int) -> Tensor:
    """A seed for each prompt, int64 [P]."""
    if isinstance(seed, int):
        return seed + torch.arange(prompts)
    if len(seed) != prompts:
        raise ValueError(f"seed must be one number or {prompts}, one for each prompt, got {len(seed)}")
    return torch.as_tensor(seed, dtype=torch.long)


def _limits(limits: Sequence[int] | None, total: int, most: int) -> Tensor:
    """Most tokens of each completion, int64 [P·n]."""
    if limits is None:
        return torch.full((total,), most)
    if len(limits) != total or not all(1 <= limit <= most for limit in limits):
        raise ValueError(f"limits must be {total} numbers from 1 to max_new_tokens={most}")
    return torch.as_tensor(limits, dtype=torch.long)
