"""`vibethinker evaluate` and `vibethinker probe`: a model's answers to held-out problems, counted."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from rich.console import Console

from vibethinker import policy as policies
from vibethinker.callbacks.meter import Meter
from vibethinker.cli.noise import hush
from vibethinker.cli.table import results_table
from vibethinker.datamodules.source import ProblemSource
from vibethinker.evaluation import Judged, judge, stable_seed, summarize
from vibethinker.files import write_atomic
from vibethinker.problems import Problem
from vibethinker.rewards import DispatchReward
from vibethinker.rollout import RolloutEngine, Sampling

_SAMPLE_PROBLEMS, _SAMPLE_COMPLETIONS = 4, 2  # kept of each domain for people to read
_LONGEST = 2048


def evaluate(options: argparse.Namespace) -> None:
    """Samples, judges, prints a table, writes rows and samples.

    Raises:
        ValueError, OSError: before sampling, naming the option, model or problem at fault.
    """
    hush()
    if max(options.k) > options.samples:
        raise ValueError(f"--k {max(options.k)} needs at least as many --samples, got {options.samples}")
    problems = _problems(options)
    judged = _judge(options, problems)
    labels = {"stage": options.stage, "model": options.model, "split": options.split}
    rows = summarize(judged, options.k, distinct=options.distinct, **labels)
    if options.out is not None:
        write_atomic(options.out, json.dumps({"rows": rows, "samples": _samples(judged)}, ensure_ascii=False, indent=1))
    Console().print(results_table(rows, "metric", f"{options.model}, {options.split} split"))


def _problems(options: argparse.Namespace) -> list[Problem]:
    size = {f"{options.split}_size": options.problems * len(options.domains)}
    data = ProblemSource(options.domains, options.data, difficulty=options.difficulty, **size)
    return list(data.problems(options.split))


def _judge(options: argparse.Namespace, problems: list[Problem]) -> Judged:
    context = policies.context_length(options.model)
    tokenizer = policies.load_tokenizer(options.model)
    lengths = [len(ids) for ids in policies.prompt_ids(tokenizer, problems)]
    longest = max(lengths)
    new_tokens = options.max_new_tokens or min(_LONGEST, max(context - longest, 1))
    if longest + new_tokens > context:
        raise ValueError(
            f"problem {problems[lengths.index(longest)].id!r} has {longest} tokens; with --max-new-tokens {new_tokens} "
            f"that is more than the context of {options.model!r}, {context} tokens"
        )
    policy: Any = policies.load_policy(options.model, trainable=False)
    policy.to("cuda" if torch.cuda.is_available() else "cpu")
    engine = RolloutEngine(policy, max_length=longest + new_tokens, slots=options.slots)
    del policy
    bar = Meter()
    try:
        with DispatchReward() as reward:
            return judge(
                engine,
                tokenizer,
                problems,
                reward,
                n=options.samples,
                sampling=Sampling(options.temperature, options.top_p, max_new_tokens=new_tokens),
                seeds=[stable_seed(options.seed, p.id) for p in problems],
                progress=lambda done, total: bar.show("evaluate", done, total),
            )
    finally:
        bar.close()


def _samples(judged: Judged) -> list[dict[str, Any]]:
    """The first problems of each domain with their first completions, as they came."""
    samples: list[dict[str, Any]] = []
    taken: dict[str, int] = {}
    for index, problem in enumerate(judged.problems):
        taken[problem.domain] = taken.get(problem.domain, 0) + 1
        if taken[problem.domain] > _SAMPLE_PROBLEMS:
            continue
        pairs = list(zip(judged.texts(index), judged.outcomes[index].tolist(), strict=True))
        completions = [{"text": text, "outcome": outcome} for text, outcome in pairs[:_SAMPLE_COMPLETIONS]]
        record = {"domain": problem.domain, "prompt": problem.prompt, "answer": problem.expected}
        samples.append({**record, "completions": completions})
    return samples
