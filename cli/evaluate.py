"""`vibethinker evaluate`, `probe` and `regrade`: a model's answers, sampled, kept, counted, and counted anew."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from vibethinker.cli.noise import hush
from vibethinker.cli.report.result_table import figures_table, hardest_table
from vibethinker.datamodules.reading.problem_files import read_problems
from vibethinker.datamodules.splits import ProblemSource
from vibethinker.evaluation.grading import Examination, Protocol, regrade
from vibethinker.evaluation.store import Said, SampleStore
from vibethinker.evaluation.summary import ALL, FEW, Row, figures, listing, summarize, votes
from vibethinker.metrics.functional import distinct_solutions
from vibethinker.models.source import ModelSource
from vibethinker.problems import Problem
from vibethinker.rewards import DispatchReward, MathReward, Reward, Verifier
from vibethinker.rewards.base import as_verifier
from vibethinker.utils.atomic import write_atomic
from vibethinker.utils.meter import Meter

_SAMPLE_PROBLEMS, _SAMPLE_COMPLETIONS = 4, 2  # kept of each domain for people to read
# As the VibeThinker papers evaluate; the instruction is that of their published evaluation.
_PAPER: Final = Protocol(
    samples=64,
    top_p=0.95,
    at_most=40_960,
    instruction="Let's think step by step and output the final answer within \\boxed{}.",
)
PRESETS: Final = {"vibethinker": _PAPER, "vibethinker-0.6": replace(_PAPER, temperature=0.6)}


def evaluate(**given: Any) -> None:
    """Samples, judges, prints tables, writes results and samples; goes on where it was stopped.

    Raises:
        ValueError, OSError: before sampling, naming the option, model or problem at fault.
    """
    hush()
    options = argparse.Namespace(**given)
    wanted = protocol(options)
    _check_ks(options.k, wanted.samples)
    reward = reward_of(options.reward)
    problems = _benchmarks(options) if options.files else {"": _held_out(options)}
    exam = Examination(ModelSource.of(options.model), problems, wanted, skip_long=options.skip_long)
    if wanted.max_new_tokens is None and options.preset and exam.max_new_tokens < wanted.at_most:
        print(
            f"--preset {options.preset} takes up to {wanted.at_most} new tokens: {exam.max_new_tokens} here, "
            f"which is what the context of {options.model!r} leaves beside the longest prompt"
        )
    labels = {"stage": options.stage, "model": options.model, "split": ALL if options.files else _split(options)}
    with nullcontext(samples_beside(options.out)) if options.out else tempfile.TemporaryDirectory() as folder:
        if options.overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        store = SampleStore(folder, {**exam.options, "--reward": options.reward})
        examine(exam, store, reward, options.slots, "evaluate")
        _conclude(store, options, labels, exam.left_out)


def again(**given: Any) -> None:
    """Judges the samples of an evaluation anew and rewrites its results.

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
    bar = Meter()
    with reward_of(named) as reward, closing(bar):
        regrade(store, reward, {"--reward": named}, lambda done, total: bar.show("regrade", done, total))
    _conclude(store, options, {name: first[name] for name in ("stage", "model", "split")}, left_out)


def examine(exam: Examination, store: SampleStore, reward: Verifier, slots: int, task: str) -> None:
    """Asks what the store does not know yet, under a bar."""
    bar = Meter()
    with reward, closing(bar):
        exam.run(store, reward, slots=slots, progress=lambda done, total: bar.show(task, done, total))


# Options


def protocol(options: argparse.Namespace) -> Protocol:
    """The preset, or the command's own defaults, with what is said explicitly in front of them."""
    base = PRESETS[options.preset] if options.preset else Protocol(samples=options.default_samples)
    names = ("samples", "temperature", "top_p", "max_new_tokens", "instruction", "seed")
    said = {name: value for name in names if (value := getattr(options, name)) is not None}
    if "instruction" in said:
        said["code_instruction"] = said["instruction"]
    return replace(base, **said)


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
    """Where the samples of a results file are kept."""
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


def _split(options: argparse.Namespace) -> str:
    return str(options.split or options.default_split)


def _held_out(options: argparse.Namespace) -> list[Problem]:
    split, domains = _split(options), options.domains or list(options.default_domains)
    most = options.problems or options.default_problems
    size = {f"{split}_size": most * len(domains)}
    fields, difficulty = options.fields, options.difficulty or 2
    found = ProblemSource(domains, options.data, fields, difficulty, **size).problems(split)  # type: ignore[arg-type]
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
    """Counts what the store holds, writes it beside the samples, prints it."""
    said: list[Said] = []
    paths: list[int | None] = []
    for one in store.read():
        programs = bool(one.problem.tests)
        found = distinct_solutions(one.completions, one.correct, programs=programs) if options.distinct else None
        paths.append(found)
        said.append(replace(one, completions=one.completions[:_SAMPLE_COMPLETIONS]))
    with MathReward() as equivalence:
        clusters = votes(said, equivalence.compare)
    values = [figures(one, own, options.k, found) for one, own, found in zip(said, clusters, paths, strict=True)]
    rows, problems = summarize(said, values, **labels), listing(said, clusters)
    if options.out is not None:
        content = {"rows": rows, "samples": _samples(said), "problems": problems, "left_out": left_out}
        write_atomic(options.out, json.dumps({**content, "options": store.options}, ensure_ascii=False, indent=1))
    _show(rows, problems, left_out)


def _show(rows: Sequence[Row], problems: Sequence[Mapping[str, Any]], left_out: Mapping[str, int]) -> None:
    console, first = Console(), rows[0]
    what = "" if "file" in first else f", {first['split']} split"
    console.print(figures_table(rows, f"{first['model']}{what}; pass@1 is avg@{first['samples']}; ± standard error"))
    if "file" in first:
        console.print(hardest_table(problems))
    for file, count in left_out.items():
        print(f"{file or 'all'}: {count} problems left out, whose prompts are too long")
    few = {f"{row.get('file', '')} {row['domain']}".strip(): row["problems"] for row in rows if row["problems"] < FEW}
    if few:
        names = ", ".join(f"{name} ({count})" for name, count in few.items())
        print(f"Intervals are too narrow, and standard errors rough, for fewer than {FEW} problems: {names}")


def _samples(said: Sequence[Said]) -> list[dict[str, Any]]:
    """The first problems of each domain with their first completions, as they came."""
    samples: list[dict[str, Any]] = []
    taken: dict[str, int] = {}
    for one in said:
        problem = one.problem
        taken[problem.domain] = taken.get(problem.domain, 0) + 1
        if taken[problem.domain] > _SAMPLE_PROBLEMS:
            continue
        pairs = list(zip(one.completions, one.outcomes, strict=False))  # fewer texts are kept than outcomes
        completions = [{"text": text, "outcome": outcome} for text, outcome in pairs]
        record = {"domain": problem.domain, "prompt": problem.prompt, "answer": problem.expected}
        samples.append({**record, "completions": completions})
    return samples
