"""`vibethinker verify`: scores a file of completions with any reward, to find out what is wrong with either.

Nothing is trained and nothing heavy imported.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from jsonargparse.typing import NonNegativeInt
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table as View

from vibethinker.datamodules.reading.files import COLUMNS, SUFFIXES, Row, find_columns, read_table
from vibethinker.problems import Problem
from vibethinker.rewards import DispatchReward, MathReward, Outcome, Reward, examine
from vibethinker.rewards.base import check_callable, close
from vibethinker.utils.atomic import atomic_file

_COLUMNS: Final = {**COLUMNS, "completion": ("completion", "completions", "response", "responses")}
_BATCH: Final = 16  # completions handed over together: enough for the workers of a reward, few enough for the bar
_TROUBLE: Final = ("timeout", "crashed", "memory", "error", "rejected")
_SHOWN: Final = 20  # rows in trouble; all of them are in --out
_WIDTH: Final = 80  # characters of a detail

DESCRIPTION: Final = """
Scores a file of completions with a reward and tells what became of them, without training anything.

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
    """One completion and where it stands.

    Attributes:
        line: of the file, from 1.
        place: among the completions of its line, from 0.
    """

    line: int
    place: int
    problem: Problem
    completion: str


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The example as it is written."""


def parser() -> ArgumentParser:
    """The options, those of the reward among them."""
    made = ArgumentParser(
        prog="vibethinker verify",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=_Help,
        exit_on_error=False,
    )
    made.add_argument("file", type=str, metavar="FILE", help="JSONL, or Parquet")
    made.add_argument(
        "--reward",
        type=Reward | None,
        help="short name of a class with its options, or path of a function or class; "
        "by default problems with tests go to CodeReward, all others to MathReward",
    )
    made.add_argument(
        "--fields", type=dict[str, str], default={}, help="names of columns that are not found by their usual names"
    )
    made.add_argument("--slowest", type=NonNegativeInt, default=5, metavar="N", help="how many of the slowest to show")
    made.add_argument("--out", type=Path | None, metavar="FILE.jsonl", help="where the outcome of each one is written")
    return made


def run(arguments: Sequence[str]) -> None:
    """Parses the options, scores, writes, prints.

    Raises:
        ValueError, OSError: naming the option, or file, line and field.
    """
    reads = parser()
    options = reads.parse_args(list(arguments))
    reward: Reward = reads.instantiate(options).reward or DispatchReward()
    check_callable(reward, "reward")
    try:
        samples = list(read_samples(options.file, options.fields, reward))
        outcomes = _examine(reward, samples)
    finally:
        close(reward)
    if options.out is not None:
        _write(options.out, samples, outcomes)
    console = Console()
    for view in _views(samples, outcomes, options.slowest):
        console.print(view)


def read_samples(file: str, fields: Mapping[str, str], reward: Reward) -> Iterator[Sample]:
    """The completions of a file in their order.

    Raises:
        ValueError: naming file, line and field of the first row that cannot be scored.
    """
    if unknown := [field for field in fields if field not in _COLUMNS]:
        raise ValueError(f"fields maps {unknown[0]!r}, which is none of {', '.join(_COLUMNS)}")
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if Path(file).suffix not in SUFFIXES:
        raise ValueError(f"{file}: is not one of the kinds that can be read: {', '.join(SUFFIXES)}")
    table = read_table(Path(file))
    if not table.rows:
        raise ValueError(f"{file}: is empty")
    columns = find_columns(table, fields, _COLUMNS, required="completion")
    for number, raw in table.rows:
        row = Row(table, columns, number, raw)
        problem = row.partial_problem(row.text("domain") or "")
        judge = reward.reward_of(problem) if isinstance(reward, DispatchReward) else reward
        if isinstance(judge, MathReward) and problem.answer is None:
            raise row.error("answer", "missing; MathReward compares with it")
        for place, completion in enumerate(_completions(row)):
            yield Sample(number, place, problem, completion)


def _completions(row: Row) -> list[str]:
    value = row.value("completion")
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise row.error("completion", "missing" if value is None else "expected text or a list of texts")
    return texts


def _examine(reward: Reward, samples: Sequence[Sample]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("verify", total=len(samples))
        for start in range(0, len(samples), _BATCH):
            batch = samples[start : start + _BATCH]
            outcomes += examine(reward, [s.problem for s in batch], [s.completion for s in batch])
            bar.update(task, completed=len(outcomes))
    return outcomes


def _write(path: Path, samples: Sequence[Sample], outcomes: Sequence[Outcome]) -> None:
    with atomic_file(path) as file:
        for sample, outcome in zip(samples, outcomes, strict=True):
            where = {"line": sample.line, "completion": sample.place}
            record = {**where, "id": sample.problem.id, "domain": sample.problem.domain, **asdict(outcome)}
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


# What is printed


def _views(samples: Sequence[Sample], outcomes: Sequence[Outcome], slowest: int) -> Iterator[View | str]:
    pairs = list(zip(samples, outcomes, strict=True))
    yield _summary(pairs)
    trouble = [pair for pair in pairs if pair[1].kind in _TROUBLE]
    if trouble:
        yield _listing("in trouble", trouble[:_SHOWN])
        if len(trouble) > _SHOWN:
            yield f"  and {len(trouble) - _SHOWN} more; --out has all of them"
    if slowest:
        yield _listing("slowest", sorted(pairs, key=lambda pair: -pair[1].seconds)[:slowest])


def _summary(pairs: Sequence[tuple[Sample, Outcome]]) -> View:
    """Domains down, kinds of outcome across, the most frequent first."""
    kinds = [kind for kind, _ in Counter(outcome.kind for _, outcome in pairs).most_common()]
    domains = sorted({sample.problem.domain for sample, _ in pairs})
    table = View("domain", "completions", "mean score", *kinds, "seconds", box=SIMPLE_HEAD)
    for domain in [*domains, *([None] if len(domains) > 1 else [])]:
        own = [outcome for sample, outcome in pairs if domain in (None, sample.problem.domain)]
        counts = Counter(outcome.kind for outcome in own)
        mean = sum(outcome.score for outcome in own) / len(own)
        seconds = sum(outcome.seconds for outcome in own)
        cells = [str(len(own)), f"{mean:.3f}", *(str(counts[kind] or "") for kind in kinds), f"{seconds:.2f}"]
        table.add_row("all" if domain is None else escape(domain) or "(none)", *cells)
    return table


def _listing(title: str, pairs: Sequence[tuple[Sample, Outcome]]) -> View:
    table = View("line", "completion", "id", "kind", "score", "seconds", "detail", title=title, box=SIMPLE_HEAD)
    for sample, outcome in pairs:
        detail = outcome.detail if len(outcome.detail) <= _WIDTH else f"{outcome.detail[:_WIDTH]}…"
        figures = f"{outcome.score:.3g}", f"{outcome.seconds:.3f}"
        place = str(sample.line), str(sample.place), escape(sample.problem.id)
        table.add_row(*place, outcome.kind, *figures, escape(" ".join(detail.split())))
    return table
