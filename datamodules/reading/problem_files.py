"""Problems from JSONL and Parquet files, folders of them, and data sets of the hub.

Every row is checked before training begins. An unusable row is reported with file, line and field and left out; too
many of them are an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vibethinker.datamodules.reading.fields import Row, RowError, read_rows
from vibethinker.datamodules.reading.tables import Table, open_set, read_table
from vibethinker.datamodules.reading.unusable import MAX_UNUSABLE, Unusable
from vibethinker.problems import SPLITS, Problem, Split, normalized_prompt, split_of
from vibethinker.utils.meter import tracked

_QUICK: Final = 20_000  # rows that are read well within two seconds


@dataclass(frozen=True)
class Reader:
    """Turns the rows of one source into problems."""

    data: str  # a file, a folder, a pattern of file names, or a hub data set
    domains: Sequence[str]  # to keep; rows without a domain belong to the only one asked for
    fields: Mapping[str, str]  # column name for each field that is not under its usual name (`COLUMNS`)
    tests_needed: bool = False  # a row without tests is unusable, even if it has an answer
    max_unusable: float = MAX_UNUSABLE  # largest fraction of the rows of a split that may be unusable
    check_answers: bool = True  # an answer that cannot be read as mathematics makes a row unusable

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
        """The problems of one split, and all domains of its rows.

        Raises:
            ValueError: a table is empty or lacks a column, or too many rows are unusable.
        """
        problems: dict[str, Problem] = {}
        found: set[str] = set()
        unusable = Unusable(self.max_unusable)
        for table in tables:
            rows, quiet = read_rows(table, self.fields), (table.size or 0) < _QUICK
            if not quiet:
                from lightning.pytorch.utilities import rank_zero_only  # takes seconds to import

                quiet = getattr(rank_zero_only, "rank", 0) != 0
            for row in tracked(rows, f"Reading {table.name}", total=table.size, disable=quiet):
                try:
                    domain, problem = self.problem(row)
                    found.add(domain)
                    if problem is None:
                        continue
                    _add(problems, row, problem)
                except RowError as error:
                    unusable.add(error.reason, str(error))
                unusable.seen += 1
        unusable.check(self.data)
        return list(problems.values()), found


def _add(problems: dict[str, Problem], row: Row, problem: Problem) -> None:
    if problem.id in problems:
        what = f"is the id of an earlier {row.table.unit} too"
        raise row.error("id", f"{problem.id!r} {what}", what)
    problems[problem.id] = problem


def read_problems(path: Path, fields: Mapping[str, str]) -> list[tuple[Row, Problem]]:
    """Every row of a file with its problem, in order. The domain of a row without one is the name of the file.

    `fields` has the column of each field that is not under its usual name (`COLUMNS`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file and, of a bad row, its line and field.
    """
    rows: list[tuple[Row, Problem]] = []
    problems: dict[str, Problem] = {}
    for row in read_rows(read_table(path), fields):
        problem = row.problem(row.text("domain") or path.stem, tests_needed=False)
        _add(problems, row, problem)
        rows.append((row, problem))
    return rows


def readers(
    data: str | Mapping[str, str], domains: Sequence[str], fields: Mapping[str, str], **options: Any
) -> list[Reader]:
    """One reader for a single source, else one for the source of each domain.

    Args:
        data: a source, or one for each domain.
        domains: the domains to keep.
        fields: as of `Reader`. With a source for each domain, `domain.field` maps a field of that source alone.
        options: other options of every `Reader`.
    """
    if isinstance(data, str):
        return [Reader(data, domains, fields, **options)]
    everywhere = {field: column for field, column in fields.items() if "." not in field}
    own = {
        domain: {f.removeprefix(f"{domain}."): column for f, column in fields.items() if f.startswith(f"{domain}.")}
        for domain in domains
    }
    return [Reader(data[domain], [domain], everywhere | own[domain], **options) for domain in domains]


def load_problems(readers: Sequence[Reader], *, held_out_only: bool = False) -> dict[Split, list[Problem]]:
    """All problems of the given readers, by split.

    A folder's files and a hub set's parts are named after their split. A split without a file or part of its own is cut
    from the training rows by `split_of`, unless `held_out_only` leaves these unread. A prompt that is in a held-out
    split is left out of every other one.

    Raises:
        FileNotFoundError: if there is nothing under the name of a source.
        ValueError: if a file or a column is not as it should be, or too many rows are unusable.
    """
    splits: dict[Split, list[Problem]] = {name: [] for name in SPLITS}
    for reader in readers:
        tables = open_set(reader.data, streaming=held_out_only)
        if held_out_only:
            tables = {split: [table.head() for table in part] for split, part in tables.items() if split != "train"}
        parsed = {split: reader.read(part) for split, part in tables.items()}
        known = set().union(*(domains for _, domains in parsed.values()))
        for domain in reader.domains:
            if domain not in known and not held_out_only:
                raise ValueError(
                    f"{reader.data}: no problem of domain {domain!r}; there are {', '.join(sorted(known))}"
                )
        for name, (problems, _) in parsed.items():
            for problem in problems:  # of training, by its prompt where a held-out split has no table of its own
                split = split_of(problem.prompt) if name == "train" else name
                splits["train" if name == "train" and split in parsed else split].append(problem)
    return _disjoint(", ".join(reader.data for reader in readers), splits)


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
