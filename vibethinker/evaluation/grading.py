"""Sampled completions and their grades, in columns: the common ground of training, probing, validation and evaluation.

`sample` fills the first columns from a `RolloutEngine`, `grade` the last ones from a reward.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vibethinker.models.prompts import prompt_ids
from vibethinker.problems import Problem
from vibethinker.rewards.base import Verifier, outcomes
from vibethinker.rewards.code_blocks import program_of
from vibethinker.rewards.math.verifier import final_answer
from vibethinker.rollout import RolloutEngine, Sampling
from vibethinker.rollout.scheduler import Progress


@dataclass(frozen=True)
class GradedSamples:
    """`n` completions of each of `P` problems and their grades; lists and tensors are in order of the problems.

    Attributes:
        problems: [P]; without demonstrations when read from a store.
        n: completions of each problem.
        completions: [P·n] texts, group-major; empty where a store was read without them.
        lengths: int64 [P, n] tokens, the stop token included.
        finished: bool [P, n]; false where a completion was cut at its length limit.
        seeds: [P] of sampling.
        scores: float32 [P, n] in [0, 1], as `grade` fills them in.
        kinds: [P·n] kinds of outcome (`vibethinker.rewards.Outcome`), as `grade` fills them in.
        answers: [P·n] final answers, `None` where there is none and for programs, as `extract_answers` fills them in.
        unboxed: [P·n] true where a completion has neither a final answer nor a program, filled in with `answers`.
        files: [P] name of the benchmark file that a problem is from; empty for other data.
        prompt_ids: [P·n] int64 tensors, the same one within a group; empty when read from a store, like the next two.
        completion_ids: [P·n] int64 tensors, the stop token included.
        logprobs: [P·n] float32 tensors, under the plain temperature distribution.
        sampling_seconds: wall time of sampling.
        reward_seconds: wall time of grading.
    """

    problems: Sequence[Problem]
    n: int
    completions: Sequence[str]
    lengths: Tensor
    finished: Tensor
    seeds: Sequence[int]
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    kinds: Sequence[str] = ()
    answers: Sequence[str | None] = ()
    unboxed: Sequence[bool] = ()
    files: Sequence[str] = ()
    prompt_ids: list[Tensor] = field(default_factory=list)
    completion_ids: list[Tensor] = field(default_factory=list)
    logprobs: list[Tensor] = field(default_factory=list)
    sampling_seconds: float = 0.0
    reward_seconds: float = 0.0

    @property
    def correct(self) -> Tensor:
        """Of shape [P, n]; a partial score is not a solution."""
        return self.scores == 1

    @property
    def problem_of_each(self) -> list[Problem]:
        """[P·n] the problem of every completion."""
        return [problem for problem in self.problems for _ in range(self.n)]

    def group(self, index: int) -> slice:
        """The range of problem `index` in a [P·n] column."""
        return slice(index * self.n, (index + 1) * self.n)


def check_prompts(
    problems: Sequence[Problem], prompts: Sequence[list[int]], max_length: int, max_new_tokens: int
) -> None:
    """Checks that every prompt leaves room for a completion.

    Args:
        problems: for the error.
        prompts: token ids of each.
        max_length: most tokens of prompt and completion.
        max_new_tokens: most tokens of a completion.

    Raises:
        ValueError: one does not; names the problem.
    """
    room = max_length - max_new_tokens
    for problem, prompt in zip(problems, prompts, strict=True):
        if len(prompt) > room:
            raise ValueError(
                f"problem {problem.id!r} ({problem.source}) has {len(prompt)} tokens; "
                f"max_length={max_length} less max_new_tokens={max_new_tokens} leaves {room}"
            )


def sample(
    engine: RolloutEngine,
    tokenizer: PreTrainedTokenizerBase,
    problems: Iterable[Problem],
    *,
    n: int,
    sampling: Sampling,
    seeds: Sequence[int],
    instruction: str | None = None,
    prompts: Sequence[list[int]] | None = None,
    progress: Progress | None = None,
) -> GradedSamples:
    """Samples `n` completions of every problem, without grades yet.

    Args:
        engine: samples.
        tokenizer: of the engine's model.
        problems: `P` of them.
        n: completions of each.
        sampling: how tokens are sampled; where completions end is filled in, if left open.
        seeds: one for each problem, so that a problem's samples do not depend on its neighbours.
        instruction: what follows each prompt; the problem's own by default.
        prompts: token ids of each problem's prompt; by default the chat template with `instruction` gives them.
        progress: called with completions done and in all.

    Raises:
        ValueError: a prompt leaves no room for a completion; names the problem.
    """
    problems = list(problems)
    prompts = prompt_ids(tokenizer, problems, instruction) if prompts is None else prompts
    check_prompts(problems, prompts, engine.max_length, sampling.max_new_tokens)
    if sampling.stop_token_ids is None:  # demonstrations end with the tokenizer's token, whatever the model's own is
        sampling = replace(sampling, stop_token_ids=(*engine.stop_token_ids, tokenizer.eos_token_id))
    start = time.perf_counter()
    rollouts = engine.generate(prompts, n, sampling, seeds, progress)
    seconds = time.perf_counter() - start
    return GradedSamples(
        problems,
        n,
        [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in rollouts.completion_ids],
        rollouts.lengths.view(-1, n),
        rollouts.finished.view(-1, n),
        seeds,
        prompt_ids=rollouts.prompt_ids,
        completion_ids=rollouts.completion_ids,
        logprobs=rollouts.logprobs,
        sampling_seconds=seconds,
    )


def grade(samples: GradedSamples, reward: Verifier) -> GradedSamples:
    """The samples with their scores and kinds; samples that have some already are graded anew.

    Raises:
        ValueError: the reward gives no outcomes in [0, 1]; names the problem.
    """
    start = time.perf_counter()
    found = outcomes(reward, samples.problem_of_each, samples.completions)
    scores = torch.tensor([outcome.score for outcome in found], dtype=torch.float32).view(-1, samples.n)
    kinds = [outcome.kind for outcome in found]
    return replace(samples, scores=scores, kinds=kinds, reward_seconds=time.perf_counter() - start)


def extract_answers(samples: GradedSamples) -> GradedSamples:
    """The samples with the columns that are read from the texts: final answers, and which completions have none."""
    answers: list[str | None] = []
    unboxed: list[bool] = []
    for problem, text in zip(samples.problem_of_each, samples.completions, strict=True):
        answers.append(None if problem.tests else final_answer(text.rpartition("</think>")[2]))
        unboxed.append((program_of(text) if problem.tests else answers[-1]) is None)
    return replace(samples, answers=answers, unboxed=unboxed)
