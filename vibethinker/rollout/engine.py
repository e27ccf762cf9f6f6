"""In-process sampling that returns tokens and the log-probabilities they were drawn with.

The engine keeps its own copy of the policy's weights in the compute precision and a slot for every sequence in flight.
A group's prompt is computed once and copied into its slots; finished sequences leave, the rows behind them move up, and
waiting ones take the free slots, so every decode step works on live sequences only.

A rollout is a function of its prompt, its seed and the weights: not of the slot, batch or process it was made in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vibethinker import policy as policies
from vibethinker.attention import Attention, hidden_states
from vibethinker.packing import pack
from vibethinker.rollout.cache import DecodeAttention, PrefillAttention, SlotCache
from vibethinker.rollout.sampling import Sampling, rollout_seeds, sample, uniforms

Progress = Callable[[int, int], None]
_REFILL_SHARE = 8  # a prefill is worth its launch once an eighth of the slots is free


@dataclass(frozen=True, slots=True)
class Rollouts:
    """`n` completions of each of `P` prompts, group-major; all tensors on the CPU.

    Attributes:
        prompt_ids: P·n prompts; the members of a group share one tensor.
        completion_ids: P·n token tensors, the stop token included.
        logprobs: P·n float32 tensors, under the plain temperature distribution.
        sampled_logprobs: the same under the distribution drawn from, which differs where top-k, top-p or min-p cut.
        finished: bool [P·n]; false where the completion was cut at its length limit.
        n: completions a prompt.
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
        model: the policy: full, LoRA or quantized, on the device to sample on.
        max_length: longest prompt plus completion, in tokens.
        slots: sequences in flight at one time.
        dtype: of the replica and its cache; bfloat16 on CUDA and float32 on CPU by default.
    """

    def __init__(self, model: PreTrainedModel, *, max_length: int, slots: int = 256, dtype: torch.dtype | None = None):
        limit = model.config.max_position_embeddings
        if max_length > limit:
            raise ValueError(f"max_length {max_length} is longer than the model's context of {limit} tokens")
        if slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        self.device = next(model.parameters()).device
        self.dtype = dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        self.max_length, self.slots = max_length, slots
        self.replica = policies.empty_model(model, self.dtype, self.device)
        self._cache: SlotCache | None = None
        self.stop_token_ids = policies.stop_token_ids(model)
        self.sync(model)

    def sync(self, model: PreTrainedModel) -> float:
        """Copies the policy's weights into the replica, adapters merged; returns the seconds it took."""
        start = time.perf_counter()
        policies.copy_weights(model, self.replica)
        return time.perf_counter() - start

    @property
    def cache(self) -> SlotCache:
        if self._cache is None:
            self._cache = SlotCache(self.replica.config, self.slots, self.max_length, self.dtype, self.device)
        return self._cache

    def release(self) -> None:
        """Gives the cache's memory back until the next `generate`."""
        self._cache = None

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seed: int | Sequence[int] = 0,
        progress: Progress | None = None,
    ) -> Rollouts:
        """Samples `n` completions of every prompt.

        Args:
            prompt_ids: `P` prompts.
            n: completions of each.
            sampling: how tokens are drawn and where completions end.
            seed: one for all, or one for each prompt.
            progress: called with completions done and in all.

        Raises:
            ValueError: an empty prompt, or one that leaves no room for `max_new_tokens`.
            FloatingPointError: the model gave NaN; the message names the step.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        for index, prompt in enumerate(prompt_ids):
            if not 0 < len(prompt) <= self.max_length - sampling.max_new_tokens:
                raise ValueError(
                    f"prompt {index} has {len(prompt)} tokens; with max_new_tokens={sampling.max_new_tokens} "
                    f"and max_length={self.max_length} it may have 1 to {self.max_length - sampling.max_new_tokens}"
                )
        run = _Run(self, prompt_ids, n, sampling, seed)
        try:
            # under autocast keys would come in another precision than the cache's, and tokens from another distribution
            with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
                run.finish(progress)
        except FloatingPointError:
            self.release()  # a NaN among the stored values outlives its sequence: masked, it still is 0 · NaN
            raise
        return run.rollouts()  # out of inference mode, whose tensors autograd refuses

    def logits(self, input_ids: Tensor, position_ids: Tensor, attention: Attention, rows: Tensor | None) -> Tensor:
        """Next-token logits [R, V] at the given rows of one packed row (all rows when `None`)."""
        hidden = hidden_states(self.replica, input_ids, position_ids, attention)
        head = self.replica.get_output_embeddings()
        return head(hidden if rows is None else hidden[rows])


class _Completion(NamedTuple):
    tokens: Tensor
    logprobs: Tensor
    sampled_logprobs: Tensor
    finished: bool


class _Run:
    """One call of `generate`. Row i of every tensor belongs to the sequence in slot i; live rows come first."""

    def __init__(
        self,
        engine: RolloutEngine,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seed: int | Sequence[int],
    ):
        self.engine, self.cache, self.sampling, self.n = engine, engine.cache, sampling, n
        self.prompts = [torch.as_tensor(p, dtype=torch.long) for p in prompts]
        self.total = len(self.prompts) * n
        seeds = torch.full((len(prompts),), seed) if isinstance(seed, int) else torch.as_tensor(seed, dtype=torch.long)
        if isinstance(seed, int):
            seeds = seeds + torch.arange(len(prompts))
        device, slots, longest = engine.device, engine.slots, sampling.max_new_tokens
        self.seeds = rollout_seeds(seeds, n).to(device)
        self.stop = torch.tensor(
            engine.stop_token_ids if sampling.stop_token_ids is None else sampling.stop_token_ids, device=device
        ).long()
        self.waiting = 0  # the first sequence without a slot
        self.live: list[int] = []  # the sequence in each row
        self.parked: int | None = None  # the prompt in the parking row
        self.parked_logits = torch.empty(0)
        self.length = torch.zeros(slots, dtype=torch.long, device=device)  # tokens in the cache
        self.made = torch.zeros(slots, dtype=torch.long, device=device)  # tokens sampled
        self.sequence = torch.zeros(slots, dtype=torch.long, device=device)
        self.tokens = torch.zeros(slots, longest, dtype=torch.long, device=device)
        self.logp = torch.zeros(slots, longest, device=device)
        self.drawn_logp = torch.zeros(slots, longest, device=device)
        self.done: dict[int, _Completion] = {}
        self.step = 0

    def finish(self, progress: Progress | None) -> None:
        """Samples until every sequence is done."""
        while self.live or self.waiting < self.total:
            free = self.engine.slots - len(self.live)
            if self.waiting < self.total and (not self.live or free * _REFILL_SHARE >= self.engine.slots):
                self._admit(min(free, self.total - self.waiting))
            else:
                self._decode()
            self._retire()
            if progress:
                progress(self.waiting - len(self.live), self.total)

    def rollouts(self) -> Rollouts:
        done = [self.done[sequence] for sequence in range(self.total)]
        return Rollouts(
            prompt_ids=[p for p in self.prompts for _ in range(self.n)],
            completion_ids=[d.tokens.clone() for d in done],
            logprobs=[d.logprobs.clone() for d in done],
            sampled_logprobs=[d.sampled_logprobs.clone() for d in done],
            finished=torch.tensor([d.finished for d in done], dtype=torch.bool),
            n=self.n,
        )

    def _admit(self, count: int) -> None:
        """Gives the next `count` sequences a slot, their prompt's cache, and their first token."""
        sequences = range(self.waiting, self.waiting + count)
        rows = torch.arange(len(self.live), len(self.live) + count)
        prompt_of = torch.tensor([s // self.n for s in sequences])
        from_parking = prompt_of == (-1 if self.parked is None else self.parked)
        logits = []
        if self.parked is not None:
            targets = rows[from_parking]
            self.cache.move(torch.full_like(targets, self.cache.parking), targets, len(self.prompts[self.parked]))
            logits.append(self.parked_logits.expand(len(targets), -1))
        if not from_parking.all():
            new = ~from_parking
            logits.append(self._prefill(prompt_of[new], rows[new], self.waiting + count))
        elif (self.waiting + count) % self.n == 0:
            self.parked = None
        row = slice(len(self.live), len(self.live) + count)
        self.length[row] = torch.tensor([len(self.prompts[p]) for p in prompt_of.tolist()], device=self.length.device)
        self.made[row] = 0
        self.sequence[row] = torch.arange(self.waiting, self.waiting + count, device=self.length.device)
        self.live.extend(sequences)
        self.waiting += count
        self._draw(torch.cat(logits), row)

    def _prefill(self, prompt_of: Tensor, rows: Tensor, next_waiting: int) -> Tensor:
        """Computes each distinct prompt once, fills its rows, parks the last one if its group goes on waiting."""
        prompts, owners = prompt_of.unique(return_inverse=True)
        last = int(prompts[-1])
        complete = (last + 1) * self.n == next_waiting
        if not complete:
            rows = torch.cat([rows, torch.tensor([self.cache.parking])])
            owners = torch.cat([owners, owners[-1:]])
        row = pack([self.prompts[p] for p in prompts.tolist()], [torch.zeros(1, dtype=torch.long)] * len(prompts))
        row = row.to(self.engine.device)
        attention = PrefillAttention(row, self.cache, rows, owners)
        logits = self.engine.logits(row.input_ids, row.position_ids, attention, row.predictors)
        self.parked, self.parked_logits = (None, self.parked_logits) if complete else (last, logits[-1])
        return logits[owners[: len(prompt_of)].to(logits.device)]

    def _decode(self) -> None:
        row = slice(0, len(self.live))
        length = self.length[row]
        last = self.tokens[row].gather(1, self.made[row, None] - 1)[:, 0]
        attention = DecodeAttention(self.cache, length, int(length.max()) + 1)
        logits = self.engine.logits(last, length, attention, None)
        self.length[row] += 1
        self._draw(logits, row)

    def _draw(self, logits: Tensor, row: slice) -> None:
        made = self.made[row]
        numbers = uniforms(self.seeds[self.sequence[row]], made)
        tokens, logp, drawn = sample(logits, numbers, self.sampling)
        self.step += 1
        if logp.isnan().any():
            raise FloatingPointError(f"rollout: the model's logits are NaN at step {self.step}")
        for store, new in ((self.tokens, tokens), (self.logp, logp), (self.drawn_logp, drawn)):
            store[row].scatter_(1, made[:, None], new[:, None])
        self.made[row] += 1

    def _retire(self) -> None:
        """Takes finished sequences out and moves the last live rows into the holes."""
        count = len(self.live)
        made = self.made[:count]
        stopped = torch.isin(self.tokens[:count].gather(1, made[:, None] - 1)[:, 0], self.stop)
        over = stopped | (made == self.sampling.max_new_tokens)
        if not over.any():
            return
        holes = over.nonzero()[:, 0].tolist()
        for hole in holes:
            end = int(made[hole])
            tokens, logp, drawn = (store[hole, :end].cpu() for store in (self.tokens, self.logp, self.drawn_logp))
            self.done[self.live[hole]] = _Completion(tokens.clone(), logp.clone(), drawn.clone(), bool(stopped[hole]))
        self._move_up(set(holes), count)

    def _move_up(self, holes: set[int], count: int) -> None:
        left = count - len(holes)
        targets = [i for i in range(left) if i in holes]
        sources = [i for i in range(left, count) if i not in holes]
        for hole, row in zip(targets, sources, strict=True):
            self.live[hole] = self.live[row]
        del self.live[left:]
        if not sources:
            return
        source, target = (torch.tensor(x, device=self.engine.device) for x in (sources, targets))
        for store in (self.length, self.made, self.sequence, self.tokens, self.logp, self.drawn_logp):
            store[target] = store[source]
        self.cache.move(source, target, int(self.length[target].max()))
