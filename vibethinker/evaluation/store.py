"""Samples on disk, to be continued after a kill and graded anew without a model.

A store is a folder: `options.json` with everything that decides the samples, and Parquet files with a row for each
sample (`SCHEMA`). A file holds whole problems and is written atomically, so a run that was killed at any moment
continues after the problems that are finished.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vibethinker.evaluation.grading import GradedSamples, extract_answers
from vibethinker.problems import Problem
from vibethinker.utils.atomic import atomic_file, locked, staged_folder, write_atomic
from vibethinker.utils.provenance import Provenance, digest

OPTIONS: Final = "options.json"
SCHEMA: Final = pa.schema(
    {
        "file": pa.string(),  # name of the benchmark; empty for other data
        "id": pa.string(),
        "domain": pa.string(),
        "prompt": pa.string(),
        "answer": pa.string(),  # the right one; null for programs
        "tests": pa.string(),  # JSON; null where there is an answer
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
_FACTS: Final = ("id", "domain", "prompt", "answer", "source")
_OF_PROBLEM: Final = ("file", *_FACTS, "tests", "seed")  # the same for all of its samples


class SampleStore:
    """The samples of one model on one set of problems.

    Args:
        folder: created on first use.
        options: everything that decides the samples, by the names that a user knows.

    Raises:
        ValueError: the folder's samples were made with another option; names the first, with both values.
    """

    def __init__(self, folder: str | Path, options: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        now = Provenance(options)
        self.options = dict(now.options)
        file = self.folder / OPTIONS
        if not file.is_file():
            if any(self.folder.glob("*.parquet")):
                raise ValueError(f"{self.folder}: holds files but no {OPTIONS}: not a folder of samples")
            return
        if change := now.difference(Provenance(json.loads(file.read_text("utf-8")))):
            raise ValueError(f"{self.folder} holds samples made with {change}: choose another --out, or --overwrite")

    @classmethod
    def open(cls, folder: str | Path) -> SampleStore:
        """An existing store, with the options that it was made with.

        Raises:
            FileNotFoundError: there is none.
        """
        if not (Path(folder) / OPTIONS).is_file():
            raise FileNotFoundError(f"{folder}: no samples are kept there")
        return cls(folder, json.loads((Path(folder) / OPTIONS).read_text("utf-8")))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Creates the folder and locks it; the lock ends with the process.

        Raises:
            FileExistsError: another process is writing there.
        """
        with locked(self.folder, f"{self.folder}: another process is writing samples there"):
            write_atomic(self.folder / OPTIONS, json.dumps(self.options, indent=1))
            yield

    @contextmanager
    def replacing(self, options: Mapping[str, Any]) -> Iterator[Callable[[str, GradedSamples], None]]:
        """Gives a function that writes a file of the store that replaces this one when the block ends well."""
        with self.writing(), staged_folder(self.folder) as scratch:
            self.options |= options
            write_atomic(scratch / OPTIONS, json.dumps(self.options, indent=1))
            yield lambda name, samples: write_part(scratch / name, samples)

    @property
    def parts(self) -> list[Path]:
        """The Parquet files in order."""
        return sorted(self.folder.glob("part-*.parquet"))

    def solved(self) -> dict[tuple[str, str], tuple[int, int]]:
        """By file and id of a problem: how many samples are correct, and how many there are."""
        counts: dict[tuple[str, str], tuple[int, int]] = {}
        for part in self.parts:
            table = _load(part, ["file", "id", "outcome"])
            for file, problem, outcome in zip(*(column.to_pylist() for column in table.columns), strict=True):
                correct, samples = counts.get((file, problem), (0, 0))
                counts[file, problem] = correct + (outcome == 1), samples + 1
        return counts

    def add(self, samples: GradedSamples) -> None:
        """Writes the samples of some problems; for one process at a time (`writing`)."""
        number = int(self.parts[-1].stem.removeprefix("part-")) + 1 if self.parts else 0
        write_part(self.folder / f"part-{number:05}.parquet", samples)

    def read(self, *, texts: bool = True) -> GradedSamples:
        """Everything that is there, without token ids; without `texts` also without completions, to save memory.

        Raises:
            ValueError: a file is damaged; names it.
        """
        names = [name for name in SCHEMA.names if texts or name != "completion"]
        tables = [pa.schema([SCHEMA.field(name) for name in names]).empty_table()]
        return _samples(pa.concat_tables(tables + [_load(part, names) for part in self.parts]), self.folder)


def write_part(path: Path, samples: GradedSamples) -> None:
    """Writes a Parquet file of whole problems atomically."""
    with atomic_file(path) as file:
        pq.write_table(_table(extract_answers(samples)), file, compression="zstd")


def read_part(path: Path) -> GradedSamples:
    """The samples of one file.

    Raises:
        ValueError: it is damaged, or has other columns; names it.
    """
    return _samples(_load(path, SCHEMA.names), path)


def _load(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(columns)).select(list(columns))
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ValueError(f"{path}: not a file of samples that can be read ({error})") from error


def _table(samples: GradedSamples) -> pa.Table:
    """A row for each sample."""
    count, n = len(samples.problems), samples.n
    shared = {
        "file": samples.files or [""] * count,
        **{name: [getattr(p, name) for p in samples.problems] for name in _FACTS},
        "tests": [None if p.tests is None else json.dumps(p.tests) for p in samples.problems],
        "seed": samples.seeds,
    }
    columns = {name: [value for value in column for _ in range(n)] for name, column in shared.items()} | {
        "sample": list(range(n)) * count,
        "completion": samples.completions,
        "tokens": samples.lengths.flatten().tolist(),
        "finished": samples.finished.flatten().tolist(),
        "outcome": samples.scores.flatten().tolist(),
        "kind": samples.kinds,
        "given": samples.answers,
        "unboxed": samples.unboxed,
    }
    return pa.table({name: columns[name] for name in SCHEMA.names}, SCHEMA)


def _samples(table: pa.Table, path: Path) -> GradedSamples:
    numbers = table["sample"].to_pylist()
    n = max(numbers, default=0) + 1
    if numbers != list(range(n)) * (len(numbers) // n):
        raise ValueError(f"{path}: not a file of samples that can be read (a problem has fewer than {n})")
    own = {name: table[name].to_pylist() for name in table.column_names if name not in _OF_PROBLEM}
    shared = table.select([*_OF_PROBLEM]).take(pa.array(range(0, len(table), n), pa.int64())).to_pydict()
    tests = [text and tuple(json.loads(text)) for text in shared["tests"]]
    facts = zip(*(shared[name] for name in _FACTS), tests, strict=True)
    return GradedSamples(
        problems=[Problem(**dict(zip((*_FACTS, "tests"), values, strict=True))) for values in facts],
        n=n,
        completions=own.get("completion", []),
        lengths=torch.tensor(own["tokens"], dtype=torch.long).view(-1, n),
        finished=torch.tensor(own["finished"], dtype=torch.bool).view(-1, n),
        seeds=shared["seed"],
        scores=torch.tensor(own["outcome"], dtype=torch.float32).view(-1, n),
        kinds=own["kind"],
        answers=own["given"],
        unboxed=own["unboxed"],
        files=shared["file"],
    )


def problems_digest(problems: Iterable[Problem]) -> str:
    """Hash of prompts and answers, or tests; demonstrations do not count."""
    every = ({k: v for k, v in asdict(problem).items() if k not in ("solutions", "source")} for problem in problems)
    return digest("".join(json.dumps(facts, sort_keys=True, default=str) for facts in every))
