"""Supervised fine-tuning on demonstrations: the spectrum phase (arXiv 2511.06221, section 3.3).

Every problem of a batch contributes one of its solution paths; sequences are packed without padding and the loss is
the mean negative log-likelihood over all completion tokens of the global batch, whatever the packing and the number of
ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from vibethinker.models.prompts import prompt_ids
from vibethinker.packed.packing import Slice, pack
from vibethinker.packed.partition import partition
from vibethinker.problems import Problem
from vibethinker.training.policy_module import PolicyModule
from vibethinker.training.token_cache import Demonstrations
from vibethinker.utils.seeding import stable_seed

_ENOUGH: Final = 1000  # problems of a stream before the share of those left out is held against max_unusable


class SFTModule(PolicyModule):
    """Trains on demonstrations with the loss on completions only.

    Args:
        model: Hugging Face folder or hub name; `nano` is the model inside this package.
    """

    def __init__(self, model: str, **kwargs: Any):
        super().__init__(model, **kwargs)
        self._demonstrations: Demonstrations | None = None
        self._streamed = [0.0, 0.0]  # problems of a stream so far, and how many of them were left out

    def refusals(self, problems: Sequence[Problem]) -> list[list[str]]:
        """For each solution of each problem why it cannot be learned from, empty where it can.

        Tokenizes them all, or finds their tokens on disk from the last time; `prepare` then need not.
        """
        self._demonstrations = Demonstrations(self.tokenizer, problems, self.instruction)
        too_long = iter((self._demonstrations.lengths + 1 > self.max_length).tolist())  # one for the end of sequence
        reason = f"longer than max_length={self.max_length}"
        return [[reason if next(too_long) else "" for _ in problem.solutions] for problem in problems]

    def prepare(self, problems: list[Problem]) -> list[list[Slice]]:
        streaming = getattr(self.trainer.datamodule, "streaming", False)  # type: ignore[attr-defined]
        pairs = [self.demonstration(p) for p in problems if p.solutions or not streaming]
        fitting = [(p, c) for p, c in pairs if len(p) + len(c) <= self.max_length]
        if len(fitting) < len(pairs) and not streaming:
            index, length = next((i, n) for i, (p, c) in enumerate(pairs) if (n := len(p) + len(c)) > self.max_length)
            raise ValueError(
                f"problem {problems[index].id!r} has {length} tokens with its solution, more than max_length"
            )
        sums = [sum(len(c) for _, c in fitting), len(problems), len(problems) - len(fitting)]
        tokens, *counts = self.all_reduce_sum(torch.tensor(sums, dtype=torch.float32)).cpu()
        if streaming:
            self._count_streamed(*map(float, counts))
        rows = partition([len(p) + len(c) for p, c in fitting], self.micro_batches, self.row_tokens)
        return [[self._slice([fitting[i] for i in part], tokens) for part in parts] for parts in rows]

    @staticmethod
    def _slice(pairs: list[tuple[Tensor, Tensor]], tokens: Tensor) -> Slice:
        row = pack([prompt for prompt, _ in pairs], [completion for _, completion in pairs])
        return Slice(row, {"weight": torch.ones(len(row.targets)) / tokens})

    def _count_streamed(self, seen: float, left_out: float) -> None:
        """What is too long in a stream, or has no solution, is known only when it comes."""
        self._streamed = [self._streamed[0] + seen, self._streamed[1] + left_out]
        self._figures["train/left_out"] = self._streamed[1]
        limit = self.trainer.datamodule.max_unusable  # type: ignore[attr-defined]
        if self._streamed[0] >= _ENOUGH and self._streamed[1] > limit * self._streamed[0]:
            raise ValueError(
                f"{self._streamed[1]:.0f} of {self._streamed[0]:.0f} training problems have no solution of at most "
                f"max_length={self.max_length} tokens, more than max_unusable={limit:g} allows"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["streamed"] = self._streamed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._streamed = checkpoint.get("streamed", self._streamed)

    def demonstration(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """The tokens of the prompt and of one of its solutions, drawn anew at every visit, with the end of sequence."""
        if not problem.solutions:
            raise ValueError(f"problem {problem.id!r} has no solutions to learn from")
        path = stable_seed(self.seed, self.trainer.global_step, problem.id) % len(problem.solutions)
        found = self._demonstrations and self._demonstrations.find(problem, problem.solutions[path])
        if found:
            prompt, text = found
        else:
            (ids,) = prompt_ids(self.tokenizer, [problem], self.instruction)
            prompt = torch.tensor(ids)
            text = torch.tensor(
                self.tokenizer.encode(problem.solutions[path], add_special_tokens=False), dtype=torch.long
            )
        return prompt, torch.cat([text, torch.tensor([self.tokenizer.eos_token_id])])

    def token_loss(self, logp: Tensor, entropy: Tensor, per_token: dict[str, Tensor]) -> Tensor:
        self.add(entropy=(per_token["weight"] * entropy.detach()).sum())
        return -logp

    def log_update(self) -> None:
        super().log_update()
        self.log("train/entropy", self._sums["entropy"])
