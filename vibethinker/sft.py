"""Supervised fine-tuning on demonstrations: the spectrum phase (arXiv 2511.06221, section 3.3).

Every problem of a batch contributes one of its solution paths; sequences are packed without padding and the loss is
the mean negative log-likelihood over all completion tokens of the global batch, whatever the packing and the number of
ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vibethinker.evaluation import stable_seed
from vibethinker.module import PolicyModule, Slice
from vibethinker.packing import balance, pack
from vibethinker.policy import prompt_ids
from vibethinker.problems import Problem


class SFTModule(PolicyModule):
    """Trains on demonstrations with the loss on completions only.

    Args:
        model: Hugging Face folder or hub name; `nano` is the model inside this package.
    """

    def __init__(self, model: str, **kwargs: Any):
        super().__init__(model, **kwargs)

    def prepare(self, problems: list[Problem]) -> list[Slice]:
        prompts = [torch.tensor(ids) for ids in prompt_ids(self.tokenizer, problems, self.instruction)]
        completions = [self.completion_ids(p) for p in problems]
        lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        for problem, length in zip(problems, lengths, strict=True):
            if length > self.max_length:
                raise ValueError(f"problem {problem.id!r} has {length} tokens with its solution, more than max_length")
        tokens = self.all_reduce_sum(torch.tensor(float(sum(map(len, completions)))))
        slices = []
        for part in balance(lengths, self.micro_batches):
            row = pack([prompts[i] for i in part], [completions[i] for i in part])
            slices.append(Slice(row, {"weight": torch.ones(len(row.targets)) / tokens.cpu()}))
        return slices

    def completion_ids(self, problem: Problem) -> Tensor:
        """The tokens of one of the problem's solutions, drawn anew at every visit, and the end of sequence."""
        if not problem.solutions:
            raise ValueError(f"problem {problem.id!r} has no solutions to learn from")
        path = stable_seed(self.seed, self.trainer.global_step, problem.id) % len(problem.solutions)
        text: list[int] = self.tokenizer.encode(problem.solutions[path], add_special_tokens=False)
        return torch.tensor([*text, self.tokenizer.eos_token_id])

    def token_loss(self, logp: Tensor, entropy: Tensor, per_token: dict[str, Tensor]) -> Tensor:
        self.add(entropy=(per_token["weight"] * entropy.detach()).sum())
        return -logp

    def log_update(self) -> None:
        super().log_update()
        self.log("train/entropy", self._sums["entropy"])
