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
from vibethinker.packed.packing import pack
from vibethinker.packed.partition import partition
from vibethinker.problems import Problem
from vibethinker.training.policy_module import PolicyModule
from vibethinker.training.token_cache import Demonstrations
from vibethinker.training.update import Update, UpdateRow
from vibethinker.utils.seeding import stable_seed

_ENOUGH: Final = 1000  # problems of a stream before the fraction of those left out is checked against max_unusable


class SFTModule(PolicyModule):
    """Trains on demonstrations with the loss on completions only.

    Args:
        model: Hugging Face folder or hub name; `nano` is the model inside this package.
        **kwargs: options of `PolicyModule`.
    """

    def __init__(self, model: str, **kwargs: Any):
        super().__init__(model, **kwargs)
        self._demonstrations: Demonstrations | None = None
        self._streamed = [0.0, 0.0]  # problems of a stream so far, and how many of them were left out

    def unusable_demonstrations(self, problems: Sequence[Problem]) -> list[list[str]] | None:
        """For each solution of each problem why it cannot be trained on, empty where it can.

        Tokenizes them all, or finds their tokens on disk from the last time; `prepare` then need not.
        """
        self._demonstrations = Demonstrations(self.tokenizer, problems, self.instruction)
        too_long = iter((self._demonstrations.lengths + 1 > self.max_length).tolist())  # one for the end of sequence
        reason = f"longer than max_length={self.max_length}"
        return [[reason if next(too_long) else "" for _ in problem.solutions] for problem in problems]

    def prepare(self, problems: list[Problem]) -> Update:
        """Packs one demonstration of each problem; streamed ones that are too long, or none at all, are left out."""
        streaming = self.data is not None and self.data.streaming
        pairs = [self.demonstration(p) for p in problems if p.solutions or not streaming]
        fitting = [(p, c) for p, c in pairs if len(p) + len(c) <= self.max_length]
        if len(fitting) < len(pairs) and not streaming:
            index, length = next((i, n) for i, (p, c) in enumerate(pairs) if (n := len(p) + len(c)) > self.max_length)
            raise ValueError(
                f"problem {problems[index].id!r} has {length} tokens with its solution, more than max_length"
            )
        sums = [sum(len(c) for _, c in fitting), len(problems), len(problems) - len(fitting)]
        tokens, *counts = self.all_reduce_sum(torch.tensor(sums, dtype=torch.float32)).cpu()
        rows = []
        for indices in partition([len(p) + len(c) for p, c in fitting], self.row_tokens):
            row = pack([fitting[i][0] for i in indices], [fitting[i][1] for i in indices])
            rows.append(UpdateRow(row, {"weight": torch.ones(len(row.targets)) / tokens}))
        return Update(rows, self._count_streamed(*map(float, counts)) if streaming else {})

    def _count_streamed(self, seen: float, left_out: float) -> dict[str, float]:
        """Counts and checks what a stream is found to hold only as it comes."""
        assert self.data is not None
        self._streamed = [self._streamed[0] + seen, self._streamed[1] + left_out]
        limit = self.data.max_unusable
        if self._streamed[0] >= _ENOUGH and self._streamed[1] > limit * self._streamed[0]:
            raise ValueError(
                f"{self._streamed[1]:.0f} of {self._streamed[0]:.0f} training problems have no solution of at most "
                f"max_length={self.max_length} tokens, more than max_unusable={limit:g} allows"
            )
        return {"train/left_out": self._streamed[1]}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the counts of a stream as well."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["streamed"] = self._streamed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the counts of a stream as well."""
        super().on_load_checkpoint(checkpoint)
        self._streamed = checkpoint.get("streamed", self._streamed)

    def demonstration(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Tokens of the prompt, and of one solution with the end of sequence, chosen anew at every optimizer step."""
        if not problem.solutions:
            raise ValueError(f"problem {problem.id!r} has no solutions to learn from")
        index = stable_seed(self.seed, self.trainer.global_step, problem.id) % len(problem.solutions)
        solution = problem.solutions[index]
        if found := self._demonstrations and self._demonstrations.find(problem, solution):
            prompt, text = found
        else:
            (ids,) = prompt_ids(self.tokenizer, [problem], self.instruction)
            prompt = torch.tensor(ids)
            text = torch.tensor(self.tokenizer.encode(solution, add_special_tokens=False), dtype=torch.long)
        return prompt, torch.cat([text, torch.tensor([self.tokenizer.eos_token_id])])

    def token_loss(self, logp: Tensor, entropy: Tensor, per_token: dict[str, Tensor]) -> Tensor:
        """The negative log-likelihood of each target."""
        self.stats.add(entropy=(per_token["weight"] * entropy.detach()).sum())
        return -logp

    def log_update(self, totals: dict[str, Tensor]) -> None:
        """Logs the entropy as well, in nats."""
        super().log_update(totals)
        self.log("train/entropy", totals["entropy"])
