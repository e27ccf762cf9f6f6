"""`vibethinker verify`: grades a file of completions with any reward, to debug either. Needs no torch."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from jsonargparse.typing import NonNegativeInt
from rich.console import Console
from rich.table import Table as View

from vibethinker.cli.report.result_table import plain_table
from vibethinker.datamodules.reading.fields import COLUMNS, Row, read_rows
from vibethinker.datamodules.reading.tables import read_table
from vibethinker.problems import Problem
from vibethinker.rewards import DispatchReward, MathReward, Outcome, Reward, Verifier
from vibethinker.rewards.base import as_verifier, outcomes
from vibethinker.utils.atomic import atomic_file
from vibethinker.utils.meter import tracked

_COLUMNS: Final = {**COLUMNS, "completion": ("completion", "completions", "response", "responses")}
_BATCH: Final = 16  # completions graded together: enough for the workers of a reward, few enough for the progress bar
_FAILED: Final = ("timeout", "crashed", "memory", "error", "rejected")
_SHOWN: Final = 20  # rows that failed; all of them are in --out
_WIDTH: Final = 80  # characters of a detail

DESCRIPTION: Final = """
Grades a file of completions with a reward, without training anything.

Each row holds `completion` (or `response`: a text, or a list of them) and what the reward needs of a problem:
`answer`, `tests`, `prompt`, `domain`, `id`.
"""
EXAMPLE: Final = """
example:
  $ cat answers.jsonl
  {"prompt": "2 + 2?", "answer": "4", "domain": "algebra", "completion": "It is \\\\boxed{4}."}
  {"prompt": "Half of 3?", "answer": "3/2", "completion": ["\\\\boxed{1.5}", "It is 1.5."]}
  $ vibethinker verify answers.jsonl --out verdicts.jsonl
  $ vibethinker verify answers.jsonl --reward MathReward --reward.timeout 2 --fields '{"completion": "output"}'
  $ vibethinker verify answers.jsonl --reward my_rewards.length    # a function (problems, completions) -> numbers
"""


@dataclass(frozen=True)
class Sample:
    """One completion of the file."""

    line: int  # number, from 1
    index: int  # among the completions of its line, from 0
    problem: Problem
    completion: str
    reward: Verifier  # that grades it


Graded: TypeAlias = tuple[Sample, Outcome]


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The example as it is written."""


def make_parser() -> ArgumentParser:
    """The options, including those of the reward."""
    parser = ArgumentParser(
        prog="vibethinker verify",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=_Help,
        exit_on_error=False,
    )
    parser.add_argument("file", type=str, metavar="FILE", help="JSONL, or Parquet")
    parser.add_argument(
        "--reward",
        type=Reward | None,
        help="short name of a class with its options, or path of a function or class; "
        "by default problems with tests go to CodeReward, all others to MathReward",
    )
    parser.add_argument(
        "--fields", type=dict[str, str], default={}, help="names of columns that are not found by their usual names"
    )
    parser.add_argument("--slowest", type=NonNegativeInt, default=5, metavar="N", help="number of the slowest to show")
    parser.add_argument("--out", type=Path | None, metavar="FILE.jsonl", help="file for the outcome of each completion")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Parses the options after the command's name, grades, writes, prints.

    Raises:
        ValueError, OSError: naming the option, or file, line and field.
    """
    parser = make_parser()
    options = parser.parse_args(arguments[1:])
    with as_verifier(parser.instantiate(options).reward or DispatchReward(), "reward") as reward:
        samples = list(read_samples(options.file, options.fields, reward))
        graded = list(zip(samples, _grade(samples), strict=True))
    if options.out is not None:
        with atomic_file(options.out) as file:
            for sample, outcome in graded:
                labels = {"line": sample.line, "completion": sample.index}
                record = {**labels, "id": sample.problem.id, "domain": sample.problem.domain, **asdict(outcome)}
                file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    console = Console()
    for view in _views(graded, options.slowest):
        console.print(view)


def read_samples(file: str, fields: Mapping[str, str], reward: Verifier) -> Iterator[Sample]:
    """The completions of a file in their order.

    Raises:
        ValueError: naming file, line and field of the first row that cannot be graded.
    """
    for row in read_rows(read_table(Path(file)), fields, _COLUMNS, required="completion"):
        problem = row.partial_problem(row.text("domain") or "")
        own = reward.reward_of(problem) if isinstance(reward, DispatchReward) else reward
        if isinstance(own, MathReward) and problem.answer is None:
            raise row.error("answer", "missing; MathReward compares with it")
        for index, completion in enumerate(_completions(row)):
            yield Sample(row.number, index, problem, completion, own)


def _completions(row: Row) -> list[str]:
    value = row.value("completion")
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise row.error("completion", "missing" if value is None else "expected text or a list of texts")
    return texts


def _grade(samples: Sequence[Sample]) -> list[Outcome]:
    indices: defaultdict[Verifier, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        indices[sample.reward].append(index)
    found: dict[int, Outcome] = {}
    batches: list[tuple[Verifier, list[int]]] = []
    for reward, own in indices.items():
        size = _BATCH if reward.timed else 1
        batches += [(reward, own[start : start + size]) for start in range(0, len(own), size)]
    for reward, batch in tracked(batches, "verify"):
        graded = _grade_batch(reward, [samples[index] for index in batch])
        found.update(zip(batch, graded, strict=True))
    return [found[index] for index in range(len(samples))]


def _grade_batch(reward: Verifier, samples: Sequence[Sample]) -> list[Outcome]:
    """Outcomes with times; an exception of an untimed reward is one of kind `error`, since verify looks for those."""
    start = time.perf_counter()
    try:
        found = outcomes(reward, [s.problem for s in samples], [s.completion for s in samples], shaping=True)
    except Exception as error:
        if reward.timed:
            raise
        found = [Outcome(0.0, "error", f"{type(error).__name__}: {error}")]
    return found if reward.timed else [replace(found[0], seconds=time.perf_counter() - start)]


# Tables


def _views(graded: Sequence[Graded], slowest: int) -> Iterator[View | str]:
    yield _summary(graded)
    failed = [pair for pair in graded if pair[1].kind in _FAILED]
    if failed:
        yield _listing("in trouble", failed[:_SHOWN])
        if len(failed) > _SHOWN:
            yield f"  and {len(failed) - _SHOWN} more; --out has all of them"
    if slowest:
        yield _listing("slowest", sorted(graded, key=lambda pair: -pair[1].seconds)[:slowest])


def _summary(graded: Sequence[Graded]) -> View:
    """Domains down, kinds of outcome across, the most frequent first."""
    kinds = [kind for kind, _ in Counter(outcome.kind for _, outcome in graded).most_common()]
    domains = sorted({sample.problem.domain for sample, _ in graded})
    rows: list[Sequence[object]] = []
    for domain in [*domains, *([None] if len(domains) > 1 else [])]:
        own = [outcome for sample, outcome in graded if domain in (None, sample.problem.domain)]
        counts = Counter(outcome.kind for outcome in own)
        mean = sum(outcome.score for outcome in own) / len(own)
        seconds = sum(outcome.seconds for outcome in own)
        name = "all" if domain is None else domain or "(none)"
        rows.append((name, len(own), f"{mean:.3f}", *(counts[kind] or "" for kind in kinds), f"{seconds:.2f}"))
    return plain_table("domain", "completions", "mean score", *kinds, "seconds", rows=rows)


def _listing(title: str, graded: Sequence[Graded]) -> View:
    rows = []
    for sample, outcome in graded:
        detail = outcome.detail if len(outcome.detail) <= _WIDTH else f"{outcome.detail[:_WIDTH]}…"
        numbers = f"{outcome.score:.3g}", f"{outcome.seconds:.3f}"
        rows.append((sample.line, sample.index, sample.problem.id, outcome.kind, *numbers, " ".join(detail.split())))
    header = ("line", "completion", "id", "kind", "score", "seconds", "detail")
    return plain_table(*header, rows=rows, title=title)
