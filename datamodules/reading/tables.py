"""Raw rows, from where they are: JSONL and Parquet files, folders and patterns of them, data sets of the hub.

A set is read whole (`read`), or in shards that are opened at any row (`stream`).
"""

from __future__ import annotations

import glob
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, overload

from vibethinker.problems import SPLITS, Split
from vibethinker.utils.hub import ask_the_hub

SUFFIXES: Final = (".jsonl", ".parquet")
_SPLIT_NAMES: Final[dict[str, Split]] = {**{name: name for name in SPLITS}, "validation": "val"}
_STEM: Final = re.compile(r"([a-z]+)(-\d+(?:-of-(\d+))?)?")  # train, train-00000-of-00003
_HUB_NAME: Final = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?")

Numbered = tuple[int, Mapping[str, Any]]
Unit = Literal["line", "row"]


@dataclass(frozen=True)
class Table:
    """The raw rows of one file or hub split.

    Attributes:
        name: what an error calls it.
        unit: what its numbers count: lines of a text file, rows of a table; both from 1.
        rows: number and content of each.
        columns: their names; the keys of the rows when left out.
    """

    name: str
    unit: Unit
    rows: Sequence[Numbered]
    columns: Sequence[str] | None = None


@dataclass(frozen=True)
class Shard:
    """One file, or one part of a hub split, that is read from any row on without what stands before it.

    Attributes:
        name: what an error calls it.
        unit: as in `Table`.
        rows: given how many rows to pass over, number and content of the others.
    """

    name: str
    unit: Unit
    rows: Callable[[int], Iterator[Numbered]]

    def table(self, count: int | None = None) -> Table:
        """Its first `count` rows, all by default."""
        return Table(self.name, self.unit, list(islice(self.rows(0), count)))


def source_kind(data: str) -> Literal["file", "folder", "pattern", "hub"]:
    """What `data` names, without reading it.

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


def read(data: str) -> dict[Split, list[Table]]:
    """Every table of a set, by split.

    Raises:
        FileNotFoundError: if there is nothing under that name.
        ValueError: if a file cannot be read.
    """
    if source_kind(data) != "hub":
        return {split: [read_table(path) for path in paths] for split, paths in files_by_split(data).items()}
    return {
        split: [Table(name, "row", _Rows(part), part.column_names)]
        for split, (name, part) in _hub_parts(data, streaming=False).items()
    }


def stream(data: str) -> dict[Split, list[Shard]]:
    """Every shard of a set, by split; none is read yet. The errors are those of `read`."""
    if source_kind(data) != "hub":
        return {split: [_file_shard(path) for path in paths] for split, paths in files_by_split(data).items()}
    return {
        split: [
            Shard(f"{name} shard {i}", "row", partial(_rows_after, part.shard(part.num_shards, i)))
            for i in range(part.num_shards)
        ]
        for split, (name, part) in _hub_parts(data, streaming=True).items()
    }


# Files


def files_by_split(data: str) -> dict[Split, list[Path]]:
    """Which files make up each split. One file alone, and what a pattern finds under other names, is `train`."""
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


def _file_shard(path: Path) -> Shard:
    if path.suffix == ".jsonl":
        return Shard(str(path), "line", partial(_lines, path))
    return Shard(str(path), "row", partial(_parquet_rows, path))


def read_table(path: Path) -> Table:
    """The rows of a `.jsonl` or `.parquet` file."""
    if path.suffix == ".jsonl":
        return Table(str(path), "line", list(_lines(path)))
    from datasets import load_dataset  # takes seconds to import

    with _broken_parquet(path), tempfile.TemporaryDirectory() as cache:  # nothing is left behind, here or elsewhere
        rows = load_dataset("parquet", data_files=_literal(path), split="train", cache_dir=cache, keep_in_memory=True)
        return Table(str(path), "row", _Rows(rows), rows.column_names)


def _parquet_rows(path: Path, skip: int) -> Iterator[Numbered]:
    with _broken_parquet(path):
        yield from _rows_after(_parquet_stream(path), skip)


@lru_cache(maxsize=256)  # opening one takes a tenth of a second
def _parquet_stream(path: Path) -> Any:
    from datasets import load_dataset

    return load_dataset("parquet", data_files=_literal(path), split="train", streaming=True)


def _literal(path: Path) -> str:
    return glob.escape(str(path))


@contextmanager
def _broken_parquet(path: Path) -> Iterator[None]:
    from datasets.exceptions import DatasetGenerationError

    try:
        yield
    except (DatasetGenerationError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a Parquet file that can be read ({error.__cause__ or error})") from error


def _rows_after(rows: Any, skip: int) -> Iterator[Numbered]:
    """Rows of an `IterableDataset`; whole groups of those before are passed over."""
    return enumerate(rows.skip(skip) if skip else rows, start=skip + 1)


def _lines(path: Path, skip: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
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


class _Rows(Sequence[Numbered]):
    """Numbered rows of a `datasets.Dataset`, made as they are read: the set stays on the disk it is mapped from."""

    def __init__(self, rows: Any) -> None:
        self._set = rows

    def __len__(self) -> int:
        return len(self._set)

    def __iter__(self) -> Iterator[Numbered]:
        return enumerate(self._set, start=1)

    @overload
    def __getitem__(self, index: int) -> Numbered: ...
    @overload
    def __getitem__(self, index: slice) -> list[Numbered]: ...
    def __getitem__(self, index: int | slice) -> Numbered | list[Numbered]:
        picked = range(len(self))[index]
        if isinstance(picked, int):
            return picked + 1, self._set[picked]
        return [(i + 1, self._set[i]) for i in picked]


# The hub


def _hub_parts(data: str, streaming: bool) -> dict[Split, tuple[str, Any]]:
    """Name and content of each part that is named after a split."""
    from datasets import load_dataset

    name, _, configuration = data.partition(":")
    try:
        ask_the_hub("dataset", name)
        parts = load_dataset(name, configuration or None, streaming=streaming)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"data: {data} is no file or folder, and as a hub data set: {reason}") from error
    named = {_SPLIT_NAMES[part]: (f"{data} {part}", parts[part]) for part in parts if part in _SPLIT_NAMES}
    if not named:
        raise ValueError(f"{data}: none of its parts ({', '.join(parts)}) is named {', '.join(_SPLIT_NAMES)}")
    return named
