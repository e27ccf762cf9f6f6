"""What a model said, kept so that it can be judged again and never has to be said twice.

A store is a folder: `options.json` with everything that decides the samples, and Parquet files with a row for each
sample (`SCHEMA`). A file holds whole problems and appears whole or not at all, so whatever moment a run is killed at,
the next one goes on from the problems that are finished.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from vibethinker.problems import Problem
from vibethinker.utils.atomic import atomic_file, locked, staged_folder, write_atomic

OPTIONS: Final = "options.json"
SCHEMA: Final = pa.schema(
    {
        "file": pa.string(),  # name of the benchmark; empty for other data
        "id": pa.string(),
        "domain": pa.string(),
        "prompt": pa.string(),
        "answer": pa.string(),  # the right one; null where tests judge
        "tests": pa.string(),  # JSON; null where an answer judges
        "source": pa.string(),
        "sample": pa.int32(),  # 0 … n − 1
        "seed": pa.int64(),  # of the problem
        "completion": pa.string(),
        "tokens": pa.int32(),  # of the completion, its stop token included
        "finished": pa.bool_(),  # false where it was cut at the length limit
        "outcome": pa.float32(),
        "kind": pa.string(),  # of the outcome, as `vibethinker.rewards.Outcome` has it
        "given": pa.string(),  # the final answer; null where there is none, and for programs
        "unboxed": pa.bool_(),  # no final answer, or no program
    }
)
_SAMPLE: Final = SCHEMA.names[7:]


@dataclass(frozen=True)
class Said:
    """The `n` completions of one problem and what became of them; lists are [n].

    Attributes:
        file: benchmark that the problem is of; empty for other data.
        problem: without demonstrations once it has been stored.
        seed: of its samples.
        completions: texts; fewer or none where nobody needs them.
        tokens: length of each.
        finished: false where a completion was cut at its length limit.
        outcomes: in [0, 1].
        kinds: of the outcomes.
        given: final answers.
        unboxed: whether a completion has neither a final answer nor a program.
    """

    file: str
    problem: Problem
    seed: int
    completions: Sequence[str]
    tokens: Sequence[int]
    finished: Sequence[bool]
    outcomes: Sequence[float]
    kinds: Sequence[str]
    given: Sequence[str | None]
    unboxed: Sequence[bool]

    @property
    def correct(self) -> list[bool]:
        """A partial score is not a solution."""
        return [outcome == 1 for outcome in self.outcomes]

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from every other problem of a store."""
        return self.file, self.problem.id


class SampleStore:
    """The samples of one model on one set of problems.

    Args:
        folder: made on first use.
        options: what decides the samples, by the names that a user knows.

    Raises:
        ValueError: the folder's samples were made with another option; names the first, with both values.
    """

    def __init__(self, folder: str | Path, options: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.options: dict[str, Any] = json.loads(json.dumps(options))
        if self.folder.exists():
            self._check()

    @classmethod
    def open(cls, folder: str | Path) -> SampleStore:
        """A store that is there, with the options it was made with.

        Raises:
            FileNotFoundError: there is none.
        """
        if not (Path(folder) / OPTIONS).is_file():
            raise FileNotFoundError(f"{folder}: no samples are kept there")
        return cls(folder, json.loads((Path(folder) / OPTIONS).read_text("utf-8")))

    def _check(self) -> None:
        file = self.folder / OPTIONS
        if not file.is_file():
            if any(self.folder.glob("*.parquet")):
                raise ValueError(f"{self.folder}: holds files but no {OPTIONS}: not a folder of samples")
            return
        before = json.loads(file.read_text("utf-8"))
        for name in sorted(before.keys() | self.options.keys()):
            was, now = before.get(name), self.options.get(name)
            if was != now:
                raise ValueError(
                    f"{self.folder} holds samples made with {name} = {was!r}, now it is {now!r}: "
                    "choose another --out, or --overwrite"
                )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Makes the folder and holds it; a kill lets go of it.

        Raises:
            FileExistsError: another process is writing there.
        """
        with locked(self.folder, f"{self.folder}: another process is writing samples there"):
            write_atomic(self.folder / OPTIONS, json.dumps(self.options, indent=1))
            yield

    @contextmanager
    def replacing(self, options: Mapping[str, Any]) -> Iterator[Callable[[str, Iterable[Said]], None]]:
        """Gives what writes a file of the store that takes this one's place when the block ends well."""
        with self.writing(), staged_folder(self.folder) as scratch:
            self.options |= options
            write_atomic(scratch / OPTIONS, json.dumps(self.options, indent=1))
            yield lambda name, said: write_part(scratch / name, said)

    @property
    def parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def finished(self) -> set[tuple[str, str]]:
        """`Said.key` of every problem whose samples are there."""
        tables = [_table(part, ["file", "id"]) for part in self.parts]
        return {pair for table in tables for pair in zip(*(table[c].to_pylist() for c in ("file", "id")), strict=True)}

    def solved(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Of each problem how many samples are right, and how many there are; without reading their texts."""
        counts: dict[tuple[str, str], tuple[int, int]] = {}
        for part in self.parts:
            table = _table(part, ["file", "id", "outcome"])
            for file, problem, outcome in zip(*(column.to_pylist() for column in table.columns), strict=True):
                right, samples = counts.get((file, problem), (0, 0))
                counts[file, problem] = right + (outcome == 1), samples + 1
        return counts

    def add(self, said: Iterable[Said]) -> None:
        """Writes the samples of some problems; for one process at a time (`writing`)."""
        place = int(self.parts[-1].stem.removeprefix("part-")) + 1 if self.parts else 0
        write_part(self.folder / f"part-{place:05}.parquet", said)

    def read(self) -> Iterator[Said]:
        """Everything that is there, a problem at a time and a file in memory."""
        for part in self.parts:
            yield from read_part(part)


def write_part(path: Path, said: Iterable[Said]) -> None:
    """Writes a Parquet file of whole problems; it appears whole or not at all."""
    table = pa.Table.from_pylist([row for one in said for row in _rows(one)], schema=SCHEMA)
    with atomic_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_part(path: Path) -> Iterator[Said]:
    """The problems of one file.

    Raises:
        ValueError: it is damaged, or not of this form; names it.
    """
    rows = _table(path, SCHEMA.names).to_pylist()
    for _, group in groupby(rows, key=lambda row: (row["file"], row["id"])):
        yield _said(list(group))


def _table(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(columns)).select(list(columns))
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ValueError(f"{path}: not a file of samples that can be read ({error})") from error


def _rows(said: Said) -> Iterator[dict[str, Any]]:
    p = said.problem
    facts = {"id": p.id, "domain": p.domain, "prompt": p.prompt, "answer": p.answer, "source": p.source}
    tests = None if p.tests is None else json.dumps(p.tests)
    shared = {"file": said.file, **facts, "tests": tests, "seed": said.seed}
    lists = said.completions, said.tokens, said.finished, said.outcomes, said.kinds, said.given, said.unboxed
    names = [name for name in _SAMPLE if name not in ("sample", "seed")]
    for place, values in enumerate(zip(*lists, strict=True)):
        yield {**shared, "sample": place, **dict(zip(names, values, strict=True))}


def _said(rows: Sequence[Mapping[str, Any]]) -> Said:
    first = rows[0]
    tests = None if first["tests"] is None else tuple(json.loads(first["tests"]))
    facts = {name: first[name] for name in ("id", "domain", "prompt", "answer", "source")}
    columns = {name: [row[name] for row in rows] for name in _SAMPLE}
    return Said(
        file=first["file"],
        problem=Problem(tests=tests, **facts),
        seed=first["seed"],
        completions=columns["completion"],
        tokens=columns["tokens"],
        finished=columns["finished"],
        outcomes=columns["outcome"],
        kinds=columns["kind"],
        given=columns["given"],
        unboxed=columns["unboxed"],
    )


# What decides the samples


def problems_digest(problems: Iterable[Problem]) -> str:
    """Hash of what is asked and of what is right; demonstrations do not count."""
    total = xxhash.xxh3_128()
    for problem in problems:
        facts = {k: v for k, v in asdict(problem).items() if k not in ("solutions", "source")}
        total.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return f"xxh3_128:{total.hexdigest()}"
