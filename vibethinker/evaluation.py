"""Sampling a model on problems and judging the answers: what probing, validation and evaluation have in common."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vibethinker.estimators import bootstrap_interval, distinct_solutions, pass_at_k
from vibethinker.policy import prompt_ids
from vibethinker.problems import Problem
from vibethinker.rewards import Reward
from vibethinker.rewards.base import grade
from vibethinker.rollout import RolloutEngine, Rollouts, Sampling
from vibethinker.rollout.engine import Progress


@dataclass(frozen=True)
class Judged:
    """`n` completions of each of `P` problems and what they earned.

    Attributes:
        problems: `P`.
        rollouts: tokens and log-probs, group-major.
        completions: P·n texts.
        outcomes: float32 [P, n] in [0, 1].
        reward_seconds: time it took to judge them.
        kinds: P·n kinds of outcome (`vibethinker.rewards.Outcome`).
    """

    problems: list[Problem]
    rollouts: Rollouts
    completions: list[str]
    outcomes: Tensor
    reward_seconds: float = 0.0
    kinds: Sequence[str] = ()

    @property
    def correct(self) -> Tensor:
        """bool [P, n]: a partial score is not a solution."""
        return self.outcomes == 1

    @property
    def lengths(self) -> Tensor:
        """int64 [P, n]."""
        return self.rollouts.lengths.view(self.outcomes.shape)

    def texts(self, problem: int) -> list[str]:
        n = self.rollouts.n
        return self.completions[problem * n : (problem + 1) * n]


def stable_seed(*parts: object) -> int:
    """An int64 that depends on the parts' text alone: the same in every process and session."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def judge(
    engine: RolloutEngine,
    tokenizer: PreTrainedTokenizerBase,
    problems: Iterable[Problem],
    reward: Reward,
    *,
    n: int,
    sampling: Sampling,
    seeds: Sequence[int],
    instruction: str | None = None,
    progress: Progress | None = None,
) -> Judged:
    """Samples `n` completions of every problem and scores them.

    Args:
        seeds: one for each problem, so that a problem's samples do not depend on its neighbours.

    Raises:
        ValueError: a prompt leaves no room for a completion, or the reward gives no outcomes; names the problem.
    """
    problems = list(problems)
    prompts = prompt_ids(tokenizer, problems, instruction)
    room = engine.max_length - sampling.max_new_tokens
    for problem, prompt in zip(problems, prompts, strict=True):
        if len(prompt) > room:
            raise ValueError(
                f"problem {problem.id!r} ({problem.source}) has {len(prompt)} tokens; "
                f"max_length={engine.max_length} less max_new_tokens={sampling.max_new_tokens} leaves {room}"
            )
    if sampling.stop_token_ids is None:  # demonstrations end with the tokenizer's token, whatever the model's own is
        sampling = replace(sampling, stop_token_ids=(*engine.stop_token_ids, tokenizer.eos_token_id))
    rollouts = engine.generate(prompts, n, sampling, seeds, progress)
    completions = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in rollouts.completion_ids]
    start = time.perf_counter()
    graded = grade(reward, [p for p in problems for _ in range(n)], completions)
    seconds = time.perf_counter() - start
    scores = torch.tensor([outcome.score for outcome in graded], dtype=torch.float32).view(len(problems), n)
    return Judged(problems, rollouts, completions, scores, seconds, [outcome.kind for outcome in graded])


def summarize(judged: Judged, ks: Sequence[int], *, distinct: bool = False, **labels: Any) -> list[dict[str, Any]]:
    """One row for each domain and metric, and one for all domains together: the mean with its 95% interval.

    The interval is a bootstrap over problems, since the samples of one problem are not independent.

    Args:
        judged: what was sampled.
        ks: of pass@K.
        distinct: also count each problem's distinct correct solutions: paths whose every step is checked, or programs.
        labels: further entries of every row.
    """
    n, solved = judged.rollouts.n, judged.correct.sum(1).tolist()
    metrics: dict[str, list[float]] = {f"pass@{k}": [pass_at_k(n, c, k) for c in solved] for k in ks}
    if distinct:
        correct = judged.correct.tolist()
        metrics["distinct_solutions"] = [
            distinct_solutions(judged.texts(i), c, programs=bool(judged.problems[i].tests))
            for i, c in enumerate(correct)
        ]
    domains = [p.domain for p in judged.problems]
    names = sorted(set(domains))
    rows = []
    for domain in [*names, *(["all"] if len(names) > 1 else [])]:
        for metric, figures in metrics.items():
            values = [f for f, d in zip(figures, domains, strict=True) if domain in ("all", d)]
            interval = bootstrap_interval(values)
            rows.append(
                {
                    **labels,
                    "domain": domain,
                    "metric": metric,
                    "mean": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "problems": len(values),
                    "samples": n,
                }
            )
    return rows
