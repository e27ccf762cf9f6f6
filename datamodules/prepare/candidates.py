"""Reads raw rows: each becomes a candidate with its domain, or is removed for a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from vibethinker.datamodules.prepare.decontamination import BenchmarkIndex
from vibethinker.datamodules.prepare.settings import Settings, Source
from vibethinker.datamodules.reading.fields import Row, read_rows
from vibethinker.datamodules.reading.tables import read_table
from vibethinker.problems import Problem, normalized_prompt
from vibethinker.utils.meter import tracked

NO_VALUE: Final = "(none)"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A usable problem and its line, or row of a table."""

    problem: Problem
    line: int  # of its source, from 1
    boxed: bool = False  # True if its answer was taken from a solution

    def removed(self, reason: str, **why: Any) -> Removed:
        """The record of its removal; `why` are details of the reason."""
        return Removed(self.problem.id, self.problem.source, self.line, self.problem.domain, reason, why)


@dataclass(frozen=True, slots=True)
class Removed:
    """A row that is not in the result.

    Its reason is `no domain`, `unusable`, `no answer`, `contaminated`, `duplicate`, `near duplicate` or
    `answers differ`.
    """

    id: str  # of the problem
    source: str  # file of the row
    line: int  # of the source, from 1
    domain: str | None  # `None` if the row has none
    reason: str
    why: Mapping[str, Any] = field(default_factory=dict)  # the id of the row it duplicates, the n-gram it shares, …


def read_sources(settings: Settings) -> tuple[list[Candidate], list[Removed], dict[str, int]]:
    """The candidates and the removed rows of all sources, in order, and the number of rows of each file.

    Raises:
        FileNotFoundError, ValueError: naming the file or the option.
    """
    domain_of = {value: domain for domain, values in settings.domains.items() for value in values}
    candidates: list[Candidate] = []
    removed: list[Removed] = []
    sizes: dict[str, int] = {}
    values: Counter[str] = Counter()
    for source in tracked(settings.sources, "Reading sources"):
        rows = list(read_rows(read_table(Path(source.data)), source.fields))
        if source.domain is None and "domain" not in rows[0].columns:
            raise ValueError(
                f"{source.data}: no column for field 'domain'; name it in fields, or give the domain of all rows"
            )
        sizes[source.data] = len(rows)
        for row in rows:
            own = [] if source.domain is not None else _values(row)
            values.update(own)
            named = own if not domain_of else [domain_of[value] for value in own if value in domain_of]
            domain = source.domain or next((name for name in named if name != NO_VALUE), settings.rest)
            read = _read(row, source, domain, own)
            candidates.append(read) if isinstance(read, Candidate) else removed.append(read)
    if unknown := [value for value in domain_of if value not in values]:
        domain = domain_of[unknown[0]]
        raise ValueError(f"domains: {domain}: no row has {unknown[0]!r}; there are {', '.join(sorted(values))}")
    seen: dict[str, Candidate] = {}  # rows with one id may hold several solutions of one problem, not several problems
    for candidate in candidates:
        problem, first = candidate.problem, seen.setdefault(candidate.problem.id, candidate)
        if first is not candidate and normalized_prompt(problem.prompt) != normalized_prompt(first.problem.prompt):
            raise ValueError(
                f"{problem.source}, line {candidate.line}: the id {problem.id!r} is that of another problem, "
                f"{first.problem.source}, line {first.line}; give one of the sources a name, or map another column"
            )
    return candidates, removed, sizes


def read_benchmarks(settings: Settings) -> tuple[BenchmarkIndex, dict[str, int]]:
    """The index of all benchmark problems, and the number of rows of each file.

    Raises:
        FileNotFoundError, ValueError: naming the file, and the line of a row without a prompt.
    """
    index = BenchmarkIndex(settings.decontamination.ngram, settings.decontamination.min_shared)
    sizes: dict[str, int] = {}
    for benchmark in tracked(settings.benchmarks, "Reading benchmarks"):
        rows = list(read_rows(read_table(Path(benchmark.data)), benchmark.fields))
        sizes[benchmark.data] = len(rows)
        for row in rows:
            prompt = row.text("prompt")
            if prompt is None:
                raise row.error("prompt", "missing")
            index.add(benchmark.data, row.text("id") or row.position, prompt)
    return index, sizes


def _values(row: Row) -> list[str]:
    """The values in the domain column, which holds a text or a list of texts."""
    value = row.value("domain")
    found = [str(item).strip() for item in (value if isinstance(value, list) else [value]) if item is not None]
    return [item for item in found if item] or [NO_VALUE]


def _read(row: Row, source: Source, domain: str | None, values: Sequence[str]) -> Candidate | Removed:
    where = str(row.value("id") or row.position), row.table.name, row.number
    if domain is None:
        return Removed(*where, None, "no domain", {"value": ", ".join(values)})
    if isinstance(answer := row.value("answer"), str) and not answer.strip():
        row = replace(row, raw={**row.raw, row.columns["answer"]: None})  # it is then taken from a solution
    try:
        problem = row.partial_problem(domain)
        if not problem.prompt:
            raise row.error("prompt", "missing")
    except ValueError as error:
        return Removed(*where, domain, "unusable", {"detail": str(error)})
    if source.name:
        problem = replace(problem, id=f"{source.name}/{problem.id}")
    candidate = Candidate(problem, row.number, problem.answer is not None and row.value("answer") is None)
    if problem.answer is None and problem.tests is None:
        return candidate.removed("no answer", detail="missing, and no solution holds a \\boxed{…} to take it from")
    return candidate
