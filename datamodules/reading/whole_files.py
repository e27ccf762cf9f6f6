"""Whole files of problems, whatever their domains and splits: benchmarks to evaluate on, training data to filter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vibethinker.datamodules.reading.files import COLUMNS, SUFFIXES, Row, find_columns, read_table
from vibethinker.problems import Problem


def read_rows(path: Path, fields: Mapping[str, str]) -> list[tuple[Row, Problem]]:
    """Every row of a file with its problem, in order. A row without a domain is of one with the file's name.

    Args:
        path: a `.jsonl` or `.parquet` file.
        fields: as in `vibethinker.datamodules.reading.files.load_problems`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file and, of a bad row, its line and field.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: is not one of the kinds that can be read: {', '.join(SUFFIXES)}")
    table = read_table(path)
    if not table.rows:
        raise ValueError(f"{path}: is empty")
    if unknown := [name for name in fields if name not in COLUMNS]:
        raise ValueError(f"fields maps {unknown[0]!r}, which is none of {', '.join(COLUMNS)}")
    columns = find_columns(table, fields)
    rows: dict[str, tuple[Row, Problem]] = {}
    for number, raw in table.rows:
        row = Row(table, columns, number, raw)
        problem = row.problem(row.text("domain") or path.stem, tests_needed=False)
        if problem.id in rows:
            raise row.error("id", f"{problem.id!r} is the id of an earlier {table.unit} too")
        rows[problem.id] = row, problem
    return list(rows.values())
