"""Problems from JSONL and Parquet files, folders of them, and data sets of the hub.

Every row is checked before training begins. A bad one is told with file, line and field and left out; too many of them
are an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vibethinker.datamodules.reading.fields import COLUMNS, Row, RowError, find_columns
from vibethinker.datamodules.reading.tables import SUFFIXES, Table, read, read_table, source_kind, stream
from vibethinker.datamodules.reading.unusable import Unusable
from vibethinker.problems import SPLITS, Problem, Split, normalized_prompt, split_of
from vibethinker.utils.meter import tracked

__all__ = [
    "COLUMNS",
    "MAX_UNUSABLE",
    "SUFFIXES",
    "Reader",
    "Row",
    "RowError",
    "Table",
    "find_columns",
    "load_problems",
    "read_table",
    "readers",
    "source_kind",
]

MAX_UNUSABLE: Final = 0.01
_QUICK: Final = 20_000  # rows that are read well within two seconds


@dataclass(frozen=True)
class Reader:
    """How the rows of one source become problems.

    Attributes:
        data: the source: a file, a folder, a pattern of file names, or a hub data set.
        domains: the domains to keep. Rows without a domain belong to the only one asked for.
        fields: column name for each field that is not under its usual name (`COLUMNS`).
        tests_needed: whether a row without tests is unusable, even if it has an answer.
        max_unusable: share of the rows of a split that may be unusable.
        check_answers: whether an answer that the verifier of mathematics cannot read makes a row unusable.
    """

    data: str
    domains: Sequence[str]
    fields: Mapping[str, str]
    tests_needed: bool = False
    max_unusable: float = MAX_UNUSABLE
    check_answers: bool = True

    def problem(self, row: Row) -> tuple[str, Problem | None]:
        """The domain of a row, and its problem if that domain is asked for.

        Raises:
            RowError: when the row cannot be used.
        """
        domain = row.text("domain") or (self.domains[0] if len(self.domains) == 1 else None)
        if domain is None:
            asked = ", ".join(self.domains)
            raise row.error("domain", f"missing, and more than one is asked for ({asked})", "missing")
        return domain, row.problem(domain, self.tests_needed, self.check_answers) if domain in self.domains else None

    def read(self, tables: Sequence[Table]) -> tuple[list[Problem], set[str]]:
        """The problems of one split, and all domains that there are.

        Raises:
            ValueError: a table is empty or lacks a column, or too many rows are unusable.
        """
        problems: dict[str, Problem] = {}
        known: set[str] = set()
        unusable = Unusable(self.max_unusable)
        for row in self._rows(tables):
            try:
                domain, problem = self.problem(row)
                known.add(domain)
                if problem is None:
                    continue
                if problem.id in problems:
                    what = f"is the id of an earlier {row.table.unit} too"
                    raise row.error("id", f"{problem.id!r} {what}", what)
                problems[problem.id] = problem
            except RowError as error:
                unusable.add(error.reason, str(error))
            unusable.seen += 1
        unusable.check(self.data)
        return list(problems.values()), known

    def _rows(self, tables: Sequence[Table]) -> Iterator[Row]:
        for table in tables:
            if not table.rows:
                raise ValueError(f"{table.name}: is empty")
            columns = find_columns(table, self.fields)
            for number, raw in tracked(table.rows, f"Reading {table.name}", disable=_is_quiet(table)):
                yield Row(table, columns, number, raw)


def _is_quiet(table: Table) -> bool:
    if len(table.rows) < _QUICK:
        return True
    from lightning.pytorch.utilities import rank_zero_only  # seconds that a reader of a short table should not pay

    return getattr(rank_zero_only, "rank", 0) != 0


def readers(
    data: str | Mapping[str, str], domains: Sequence[str], fields: Mapping[str, str], **options: Any
) -> list[Reader]:
    """One for a single source, else one for the source of each domain.

    Args:
        data: as of `load_problems`.
        domains: in this order.
        fields: with a source for each domain, `domain.field` maps a field of that source alone.
        options: of every `Reader`.
    """
    if isinstance(data, str):
        return [Reader(data, domains, fields, **options)]
    everywhere = {field: column for field, column in fields.items() if "." not in field}
    return [
        Reader(
            data[domain],
            [domain],
            everywhere | {f.removeprefix(f"{domain}."): c for f, c in fields.items() if f.startswith(f"{domain}.")},
            **options,
        )
        for domain in domains
    ]


def load_problems(
    data: str | Mapping[str, str],
    domains: Sequence[str],
    fields: Mapping[str, str],
    *,
    held_out_only: bool = False,
    **options: Any,
) -> dict[Split, list[Problem]]:
    """All problems of the given domains, by split.

    A folder's files and a hub set's parts say with their names which split they are. What they leave unnamed (a single
    file names nothing) is cut from the training rows by `split_of`. A prompt that stands in a held-out split is left
    out of every other one.

    Args:
        data: a `.jsonl` or `.parquet` file, a pattern of such names, a folder that holds `train`, `probe`, `val` and
            `test` files of these kinds or shards of them, or the name of a hub data set (`owner/name`, or
            `owner/name:configuration`). Or one of these for each domain.
        domains: the domains to keep. Rows without a domain belong to the only one asked for.
        fields: column name for each field that is not under its usual name (`COLUMNS`).
        held_out_only: leave the training rows unread; then nothing is cut from them.
        options: `tests_needed`, `max_unusable` and `check_answers` of `Reader`.

    Raises:
        FileNotFoundError: if there is nothing under that name.
        ValueError: if the data, a column or too many rows are not as they should be.
    """
    splits: dict[Split, list[Problem]] = {name: [] for name in SPLITS}
    for reader in readers(data, domains, fields, **options):
        tables = _held_out(reader.data) if held_out_only else read(reader.data)
        parsed = {split: reader.read(part) for split, part in tables.items()}
        known = set().union(*(domains for _, domains in parsed.values()))
        for domain in reader.domains:
            if domain not in known and not held_out_only:
                raise ValueError(
                    f"{reader.data}: no problem of domain {domain!r}; there are {', '.join(sorted(known))}"
                )
        for split, problems in _homes({split: problems for split, (problems, _) in parsed.items()}):
            splits[split] += problems
    return _disjoint(data if isinstance(data, str) else ", ".join(data.values()), splits)


def _held_out(data: str) -> dict[Split, list[Table]]:
    return {split: [shard.table() for shard in shards] for split, shards in stream(data).items() if split != "train"}


def _homes(parsed: Mapping[Split, Sequence[Problem]]) -> Iterator[tuple[Split, list[Problem]]]:
    """Training problems that belong to a split that has no table of its own move there."""
    for name, problems in parsed.items():
        homes = [split_of(problem.prompt) if name == "train" else name for problem in problems]
        homes = ["train" if name == "train" and home in parsed else home for home in homes]
        for split in SPLITS:
            yield split, [problem for problem, home in zip(problems, homes, strict=True) if home == split]


def _disjoint(name: str, splits: dict[Split, list[Problem]]) -> dict[Split, list[Problem]]:
    owner: dict[str, Split] = {}
    left_out = 0
    for split in reversed(SPLITS):  # test first, train last
        kept = [p for p in splits[split] if owner.setdefault(normalized_prompt(p.prompt), split) == split]
        left_out += len(splits[split]) - len(kept)
        splits[split] = kept
    if left_out:
        from lightning.pytorch.utilities import rank_zero_warn

        rank_zero_warn(f"{name}: {left_out} problems are left out because their prompt is also in a later split")
    return splits
