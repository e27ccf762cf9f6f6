"""Raw rows of JSONL and Parquet files, folders and patterns of them, and data sets of the hub.

Every table can be read from any row on.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow.parquet as pq

from vibethinker.problems import SPLITS, Split
from vibethinker.utils.hub import ask_the_hub

SUFFIXES: Final = (".jsonl", ".parquet")
_BATCH: Final = 1000  # rows of a Parquet file that are decoded together
_SPLIT_NAMES: Final[dict[str, Split]] = {**{name: name for name in SPLITS}, "validation": "val"}
_STEM: Final = re.compile(r"([a-z]+)(-\d+(?:-of-(\d+))?)?")  # train, train-00000-of-00003
_HUB_NAME: Final = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?")

Numbered = tuple[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Table:
    """The raw rows of one file, or of one part or shard of a hub data set."""

    name: str  # in error messages
    unit: Literal["line", "row"]  # what row numbers count, from 1
    rows: Callable[[int], Iterator[Numbered]]  # skips so many rows, and yields number and content of the others
    columns: Sequence[str] = ()  # none before the table has been opened
    size: int | None = None  # number of rows; `None` before the table has been opened

    def head(self, count: int | None = None) -> Table:
        """The first `count` rows, all by default, read into memory."""
        rows = list(islice(self.rows(0), count))
        columns = list(dict.fromkeys(column for _, row in rows for column in row))
        return Table(self.name, self.unit, lambda skip: islice(rows, skip, None), columns, len(rows))


def source_kind(data: str) -> Literal["file", "folder", "pattern", "hub"]:
    """The kind of source that `data` names, without reading it.

    Raises:
        FileNotFoundError: if it can be neither a path nor a hub name.
        ValueError: if it is a file of a kind that is not read here.
    """
    path = Path(data)
    if path.is_dir():
        return "folder"
    if path.exists():
        if path.suffix not in SUFFIXES:
            raise ValueError(f"data: {data} is not one of the kinds that can be read: {', '.join(SUFFIXES)}")
        return "file"
    if glob.has_magic(data):
        return "pattern"
    if path.suffix in SUFFIXES or not _HUB_NAME.fullmatch(data):
        raise FileNotFoundError(f"data: there is no file or folder {data}")
    return "hub"


def open_set(data: str, *, streaming: bool = False) -> dict[Split, list[Table]]:
    """Every table of a file, a folder, a pattern of file names, or a hub data set, by split.

    With `streaming`, nothing is opened before its rows are read, and shards of a hub set one by one.

    Raises:
        FileNotFoundError: if there is nothing under that name.
        ValueError: if a file cannot be read.
    """
    if source_kind(data) == "hub":
        return _hub_tables(data, streaming)
    open_table = _table if streaming else read_table
    return {split: [open_table(path) for path in paths] for split, paths in files_by_split(data).items()}


# Files


def files_by_split(data: str) -> dict[Split, list[Path]]:
    """The files of each split. A single file, and files of a pattern that are not named after a split, are `train`."""
    kind = source_kind(data)
    if kind == "file":
        return {"train": [Path(data)]}
    if kind == "pattern":
        paths = sorted(glob.glob(data, recursive=True))  # noqa: PTH207  # Path.glob takes no absolute pattern
        found = _named_after_splits(data, map(Path, paths), otherwise="train")
        if not found:
            raise FileNotFoundError(f"data: {data} matches no .jsonl nor .parquet file")
        return found
    for folder in (Path(data), Path(data) / "data"):  # the second is where copies of hub sets keep theirs
        found = _named_after_splits(data, sorted(folder.iterdir()) if folder.is_dir() else ())
        if found:
            return found
    names = ", ".join(f"{name}.jsonl" for name in SPLITS)
    raise FileNotFoundError(f"data: {data} holds none of {names}, nor .parquet, nor shards of them")


def _named_after_splits(data: str, paths: Iterable[Path], otherwise: Split | None = None) -> dict[Split, list[Path]]:
    """Files by the split that their names begin with: one file for each, or the shards of one table."""
    found: dict[Split, list[Path]] = {}
    tables: dict[Split, tuple[str, ...]] = {}
    for path in paths:
        match = _STEM.fullmatch(path.stem)
        named = _SPLIT_NAMES.get(match[1]) if match else None
        split = named or otherwise
        if split is None or path.suffix not in SUFFIXES:
            continue
        table: tuple[str, ...] = ()
        if match and named:
            table = (match[1], match[3] or "", path.suffix, "" if match[2] else path.name)
        if tables.setdefault(split, table) != table:
            raise ValueError(f"{data}: {found[split][0]} and {path} are both the {split} split")
        found.setdefault(split, []).append(path)
    for split, table in tables.items():
        if table and table[1] and int(table[1]) != len(found[split]):
            raise ValueError(f"{data}: {len(found[split])} of the {int(table[1])} shards of {split} are there")
    return found


def check_file(path: Path) -> None:
    """Checks that a file is there and of a kind that can be read.

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: is not one of the kinds that can be read: {', '.join(SUFFIXES)}")


def read_table(path: Path) -> Table:
    """Opens a `.jsonl` or `.parquet` file; only the first kind is read into memory.

    Raises:
        FileNotFoundError, ValueError: naming the file, and the line that is not valid JSON.
    """
    check_file(path)
    if path.suffix == ".jsonl":
        return _table(path).head()
    with _open_parquet(path) as file:
        return replace(_table(path), columns=file.schema_arrow.names, size=file.metadata.num_rows)


def _table(path: Path) -> Table:
    if path.suffix == ".jsonl":
        return Table(str(path), "line", partial(_lines, path))
    return Table(str(path), "row", partial(_parquet_rows, path))


@contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a Parquet file that can be read ({error})") from error


def _parquet_rows(path: Path, skip: int) -> Iterator[Numbered]:
    with _open_parquet(path) as file:
        number = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if number + size <= skip:
                number += size
                continue
            for batch in file.iter_batches(_BATCH, row_groups=[group]):
                first = max(skip - number, 0)
                yield from enumerate(batch.slice(first).to_pylist(), start=number + first + 1)
                number += len(batch)


def _lines(path: Path, skip: int) -> Iterator[Numbered]:
    # Parsed here because `datasets` does not say which line is broken.
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            if skip:
                skip -= 1
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not valid JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
            yield number, row


# The hub


def _hub_tables(data: str, streaming: bool) -> dict[Split, list[Table]]:
    """The parts of a hub data set that are named after a split, each as one table, or as its shards if streaming."""
    from datasets import load_dataset  # takes seconds to import

    name, _, configuration = data.partition(":")
    try:
        ask_the_hub("dataset", name)
        parts = load_dataset(name, configuration or None, streaming=streaming)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"data: {data} is no file or folder, and as a hub data set: {reason}") from error
    named = {part: split for part, split in _SPLIT_NAMES.items() if part in parts}
    if not named:
        raise ValueError(f"{data}: none of its parts ({', '.join(parts)}) is named {', '.join(_SPLIT_NAMES)}")
    tables: dict[Split, list[Table]] = {}
    for part, split in named.items():
        title, rows = f"{data} {part}", parts[part]
        if streaming:
            shards = [rows.shard(rows.num_shards, i) for i in range(rows.num_shards)]
            tables[split] = [
                Table(f"{title} shard {i}", "row", partial(_hub_rows, shard)) for i, shard in enumerate(shards)
            ]
        else:
            tables[split] = [Table(title, "row", partial(_hub_rows, rows), rows.column_names, len(rows))]
    return tables


def _hub_rows(rows: Any, skip: int) -> Iterator[Numbered]:
    return enumerate(rows.skip(skip) if skip else rows, start=skip + 1)
