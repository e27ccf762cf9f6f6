"""The configuration file of `vibethinker prepare`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vibethinker.datamodules.reading.fields import COLUMNS


@dataclass(frozen=True)
class Benchmark:
    """A file whose problems must not be trained on.

    Args:
        data: a JSONL or Parquet file.
        fields: column name for each field that is not under its usual name: `prompt`, `id`.
    """

    data: str
    fields: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.fields if name not in COLUMNS]:
            raise ValueError(f"{self.data}: fields maps {unknown[0]!r}, which is none of {', '.join(COLUMNS)}")


@dataclass(frozen=True)
class Source(Benchmark):
    """A file of raw rows.

    Args:
        data: a JSONL or Parquet file.
        fields: column name for each field that is not under its usual name; `domain` is the column that `domains` maps.
        domain: domain of all its rows, in place of a column.
        name: prefix of its ids, for sources with equal ids.
    """

    domain: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.domain is not None and "domain" in self.fields:
            raise ValueError(f"{self.data}: either domain or a column for it in fields")


@dataclass(frozen=True)
class Decontamination:
    """When a problem counts as a benchmark problem (VibeThinker-1.5B, 2511.06221 §3.5: any common 10-gram).

    Args:
        ngram: consecutive words that are compared. Prompts of fewer words are compared whole.
        min_shared: number of different n-grams that a prompt and a benchmark problem must share.
    """

    ngram: int = 10
    min_shared: int = 1

    def __post_init__(self) -> None:
        for name in ("ngram", "min_shared"):
            if getattr(self, name) < 1:
                raise ValueError(f"decontamination.{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Duplicates:
    """When two problems count as duplicates, besides those that differ only in case and white space.

    Args:
        similarity: least Jaccard similarity of their shingles; numbers and answers must also be equal.
        shingle: consecutive words and signs of a shingle.
    """

    similarity: float = 0.8
    shingle: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.similarity <= 1:
            raise ValueError(f"duplicates.similarity must lie in (0, 1], not {self.similarity}")
        if self.shingle < 1:
            raise ValueError(f"duplicates.shingle must be at least 1, not {self.shingle}")


@dataclass(frozen=True)
class Solutions:
    """Changes to demonstrations before they are graded.

    Args:
        append_answer: add a last sentence with the box to a solution without one that ends in the right number.
        strip_annotations: remove calculator annotations such as `<<48/2=24>>`.
    """

    append_answer: bool = False
    strip_annotations: bool = False


@dataclass(frozen=True)
class Settings:
    """The whole configuration. Paths are relative to the working directory.

    Args:
        sources: files of raw rows; of duplicates, the one of the earliest source and line is kept.
        out: the output folder.
        domains: for each domain, the values of the domain column that belong to it; without any, the values are the
            domains.
        rest: domain of rows whose value belongs to no domain; without it they are removed and counted by value.
        benchmarks: files whose problems must not be trained on.
        decontamination: when a problem counts as a benchmark problem.
        duplicates: when two problems count as duplicates.
        solutions: changes to demonstrations.
    """

    sources: list[Source]
    out: str | None = None
    domains: dict[str, list[str]] = field(default_factory=dict)
    rest: str | None = None
    benchmarks: list[Benchmark] = field(default_factory=list)
    decontamination: Decontamination = field(default_factory=Decontamination)
    duplicates: Duplicates = field(default_factory=Duplicates)
    solutions: Solutions = field(default_factory=Solutions)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources: there must be at least one")
        values = Counter(value for mapped in self.domains.values() for value in mapped)
        if twice := [value for value, count in values.items() if count > 1]:
            raise ValueError(f"domains: {twice[0]!r} is mapped twice")
        files = Counter(file.data for file in [*self.sources, *self.benchmarks])
        if twice := [data for data, count in files.items() if count > 1]:
            raise ValueError(f"{twice[0]} is named twice among sources and benchmarks")
