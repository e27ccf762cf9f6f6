"""`vibethinker evaluate`, `probe` and `regrade`: samples of a model, graded, stored, and graded anew."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from vibethinker.cli.quiet import hush
from vibethinker.cli.report.result_table import hardest_table, metrics_table
from vibethinker.datamodules.reading.problem_files import read_problems
from vibethinker.datamodules.splits import ProblemSource
from vibethinker.evaluation.evaluator import Evaluation, EvaluationOptions, regrade
from vibethinker.evaluation.grading import GradedSamples
from vibethinker.evaluation.store import SampleStore, read_part
from vibethinker.evaluation.summary import ALL, FEW, distinct_counts, listing, problem_metrics, summarize, votes
from vibethinker.models.source import ModelSource
from vibethinker.problems import Problem, Split
from vibethinker.rewards import DispatchReward, MathReward, Reward, Verifier
from vibethinker.rewards.base import as_verifier
from vibethinker.utils.atomic import write_atomic
from vibethinker.utils.meter import Meter

_EXAMPLE_PROBLEMS, _EXAMPLE_COMPLETIONS = 4, 2  # of each domain, in the results for people to read
# As the VibeThinker papers evaluate; the instruction is that of their published evaluation.
_PAPER: Final = EvaluationOptions(
    samples=64,
    top_p=0.95,
    at_most=40_960,
    instruction="Let's think step by step and output the final answer within \\boxed{}.",
)
PRESETS: Final = {"vibethinker": _PAPER, "vibethinker-0.6": replace(_PAPER, temperature=0.6)}


def evaluate(**given: Any) -> None:
    """Samples, grades, prints tables, writes results and samples; continues where it was stopped.

    Raises:
        ValueError, OSError: before sampling, naming the option, model or problem at fault.
    """
    hush()
    options = argparse.Namespace(**given)
    settings = settings_of(options)
    _check_ks(options.k, settings.samples)
    reward = reward_of(options.reward)
    split = options.split or options.default_split
    problems = _benchmarks(options) if options.files else {"": _held_out(options, split)}
    evaluation = Evaluation(ModelSource.of(options.model), problems, settings, skip_long=options.skip_long)
    if settings.max_new_tokens is None and options.preset and evaluation.max_new_tokens < settings.at_most:
        print(
            f"--preset {options.preset} takes up to {settings.at_most} new tokens: {evaluation.max_new_tokens} here, "
            f"which is what the context of {options.model!r} leaves beside the longest prompt"
        )
    labels = {"stage": options.stage, "model": options.model, "split": ALL if options.files else split}
    with nullcontext(samples_beside(options.out)) if options.out else tempfile.TemporaryDirectory() as folder:
        if options.overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        store = SampleStore(folder, {**evaluation.options, "--reward": options.reward})
        with reward, closing(Meter()) as bar:
            evaluation.run(store, reward, slots=options.slots, progress=partial(bar.show, "evaluate"))
        _conclude(store, options, labels, evaluation.left_out)


def again(**given: Any) -> None:
    """Grades the samples of an evaluation anew and rewrites its results.

    Raises:
        ValueError, OSError: naming the file at fault.
    """
    hush()
    options = argparse.Namespace(**given)
    try:
        content = json.loads(options.out.read_text("utf-8"))
        first, left_out = content["rows"][0], content["left_out"]
    except (ValueError, LookupError, TypeError):
        raise ValueError(f"{options.out}: not the results of an evaluation") from None
    store = SampleStore.open(samples_beside(options.out))
    metrics = {row["metric"] for row in content["rows"]}
    options.k = options.k or sorted(int(m.removeprefix("pass@")) for m in metrics if m.startswith("pass@"))
    options.distinct = "distinct_solutions" in metrics
    _check_ks(options.k, first["samples"])
    named = options.reward or store.options["--reward"]
    with reward_of(named) as reward, closing(Meter()) as bar:
        regrade(store, reward, {"--reward": named}, partial(bar.show, "regrade"))
    _conclude(store, options, {name: first[name] for name in ("stage", "model", "split")}, left_out)


# Options


def settings_of(options: argparse.Namespace) -> EvaluationOptions:
    """The preset, or the command's defaults, overridden by the options that are given."""
    base = PRESETS[options.preset] if options.preset else EvaluationOptions(samples=options.default_samples)
    names = ("samples", "temperature", "top_p", "max_new_tokens", "instruction", "seed")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if "instruction" in given:
        given["code_instruction"] = given["instruction"]
    return replace(base, **given)


def reward_of(text: str | None) -> Verifier:
    """The reward that an option names: a class with or without its options, a function, or the default.

    Raises:
        ValueError: there is no such reward, or it is not called as one.
    """
    if text is None:
        return DispatchReward()
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--reward", type=Reward)
    return as_verifier(parser.instantiate(parser.parse_args(["--reward", text])).reward, "--reward")


def samples_beside(out: Path) -> Path:
    """The folder of samples that belongs to a results file."""
    return out.with_name(f"{out.name.removesuffix('.json')}.samples")


def _check_ks(ks: Sequence[int], samples: int) -> None:
    if max(ks) > samples:
        raise ValueError(f"--k {max(ks)} needs at least as many --samples, got {samples}")


def _benchmarks(options: argparse.Namespace) -> dict[str, list[Problem]]:
    for name in ("domains", "data", "difficulty", "split", "problems"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} is for held-out problems: a FILE is evaluated as a whole")
    found: dict[str, list[Problem]] = {}
    for path in map(Path, options.files):
        if path.stem in found:
            raise ValueError(f"{path}: results go by the name of their file, and another one is called {path.stem!r}")
        found[path.stem] = [problem for _, problem in read_problems(path, options.fields)]
    return found


def _held_out(options: argparse.Namespace, split: Split) -> list[Problem]:
    domains, most = options.domains or list(options.default_domains), options.problems or options.default_problems
    size = {f"{split}_size": most * len(domains)}
    fields, difficulty = options.fields, options.difficulty or 2
    found = ProblemSource(domains, options.data, fields, difficulty, **size).problems(split)
    left = dict.fromkeys(domains, most)  # a set puts more of one domain in place of what another does not have
    kept = []
    for problem in found:
        if left[problem.domain]:
            left[problem.domain] -= 1
            kept.append(problem)
    return kept


# Results


def _conclude(
    store: SampleStore, options: argparse.Namespace, labels: Mapping[str, Any], left_out: Mapping[str, int]
) -> None:
    """Computes the metrics of the store's samples, writes them beside the samples, prints them."""
    distinct: list[int] = []
    examples: list[dict[str, Any]] = []
    taken: Counter[str] = Counter()
    for part in map(read_part, store.parts):
        examples += _examples(part, taken)
        distinct += distinct_counts(part) if options.distinct else []
    samples = store.read(texts=False)
    with MathReward() as equivalence:
        clusters = votes(samples, equivalence.compare)
    metrics = problem_metrics(samples, options.k, clusters, distinct if options.distinct else None)
    rows, problems = summarize(samples, metrics, **labels), listing(samples, clusters)
    if options.out is not None:
        content = {"rows": rows, "samples": examples, "problems": problems, "left_out": left_out}
        write_atomic(options.out, json.dumps({**content, "options": store.options}, ensure_ascii=False, indent=1))
    console, first = Console(), rows[0]
    what = "" if "file" in first else f", {first['split']} split"
    console.print(metrics_table(rows, f"{first['model']}{what}; pass@1 is avg@{first['samples']}; ± standard error"))
    if "file" in first:
        console.print(hardest_table(problems))
    for file, count in left_out.items():
        print(f"{file or 'all'}: {count} problems left out, whose prompts are too long")
    few = {f"{row.get('file', '')} {row['domain']}".strip(): row["problems"] for row in rows if row["problems"] < FEW}
    if few:
        names = ", ".join(f"{name} ({count})" for name, count in few.items())
        print(f"Intervals are too narrow, and standard errors rough, for fewer than {FEW} problems: {names}")


def _examples(samples: GradedSamples, taken: Counter[str]) -> list[dict[str, Any]]:
    """The first problems of each domain with their first completions, for people to read."""
    examples = []
    for index, problem in enumerate(samples.problems):
        taken[problem.domain] += 1
        if taken[problem.domain] <= _EXAMPLE_PROBLEMS:
            pairs = zip(samples.completions[samples.group(index)], samples.scores[index].tolist(), strict=True)
            completions = [{"text": text, "outcome": score} for text, score in pairs][:_EXAMPLE_COMPLETIONS]
            record = {"domain": problem.domain, "prompt": problem.prompt, "answer": problem.expected}
            examples.append({**record, "completions": completions})
    return examples
