"""The configuration file of `vibethinker prepare`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vibethinker.datamodules.reading.fields import COLUMNS


@dataclass(frozen=True)
class Benchmark:
    """A file whose problems must not be trained on."""

    data: str  # a JSONL or Parquet file
    fields: dict[str, str] = field(default_factory=dict)  # column of each field that is not under its usual name

    def __post_init__(self) -> None:
        if unknown := [name for name in self.fields if name not in COLUMNS]:
            raise ValueError(f"{self.data}: fields maps {unknown[0]!r}, which is none of {', '.join(COLUMNS)}")


@dataclass(frozen=True)
class Source(Benchmark):
    """A file of raw rows; in `fields`, `domain` is the column that `domains` maps."""

    domain: str | None = None  # of all its rows, in place of a column
    name: str | None = None  # prefix of its ids, for sources with equal ids

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.domain is not None and "domain" in self.fields:
            raise ValueError(f"{self.data}: either domain or a column for it in fields")


@dataclass(frozen=True)
class Decontamination:
    """When a problem counts as a benchmark problem (VibeThinker-1.5B, 2511.06221 §3.5: any common 10-gram)."""

    ngram: int = 10  # consecutive words that are compared; prompts of fewer words are compared whole
    min_shared: int = 1  # number of different n-grams that a prompt and a benchmark problem must share

    def __post_init__(self) -> None:
        for name in ("ngram", "min_shared"):
            if getattr(self, name) < 1:
                raise ValueError(f"decontamination.{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Duplicates:
    """When two problems count as duplicates, besides those that differ only in case and white space."""

    similarity: float = 0.8  # least Jaccard similarity of their shingles; numbers and answers must also be equal
    shingle: int = 3  # consecutive words and signs of a shingle

    def __post_init__(self) -> None:
        if not 0 < self.similarity <= 1:
            raise ValueError(f"duplicates.similarity must lie in (0, 1], not {self.similarity}")
        if self.shingle < 1:
            raise ValueError(f"duplicates.shingle must be at least 1, not {self.shingle}")


@dataclass(frozen=True)
class Solutions:
    """Changes to demonstrations before they are graded."""

    append_answer: bool = False  # add a last sentence with the box to a solution without one, if it ends in the answer
    strip_annotations: bool = False  # remove calculator annotations such as `<<48/2=24>>`


@dataclass(frozen=True)
class Settings:
    """The whole configuration. Paths are relative to the working directory."""

    sources: list[Source]  # of duplicates, the one of the earliest source and line is kept
    out: str | None = None  # the output folder
    domains: dict[str, list[str]] = field(default_factory=dict)  # values of the domain column; empty: they are domains
    rest: str | None = None  # domain of all other values; without it their rows are removed and counted by value
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
