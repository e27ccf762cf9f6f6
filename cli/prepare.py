"""`vibethinker prepare`: a folder of clean domain data from raw data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vibethinker.cli.errors import one_line
from vibethinker.cli.recipe.definition import read_yaml
from vibethinker.cli.report.result_table import plain_table
from vibethinker.datamodules.prepare import Settings, output, prepare
from vibethinker.datamodules.prepare.solutions import RIGHT
from vibethinker.datamodules.reading.tables import check_file
from vibethinker.problems import SPLITS
from vibethinker.utils.provenance import Provenance

_SHOWN: Final = 3  # rows of each kind that a person has to look at


def run(config: Path, out: Path | None, overwrite: bool) -> None:
    """Reads the configuration, prepares, writes, prints.

    Raises:
        FileExistsError: the folder holds what other settings or inputs made, or is none of ours.
        ValueError, OSError: naming file, and key, or line and field.
    """
    settings = load_settings(config)
    if out is None and settings.out is None:
        raise ValueError(f"{config}: out is missing; name a folder there, or with --out")
    out = out or Path(str(settings.out))
    for file in [*settings.sources, *settings.benchmarks]:
        check_file(Path(file.data))
        if out.resolve() in Path(file.data).resolve().parents:
            raise ValueError(f"{file.data}: lies in {out}, which would be replaced; name another folder")
    made_from = output.identity(settings)
    console = Console()
    report = output.read_report(out)
    if report is not None and not overwrite:
        _check_same(out, report, made_from)
        print(f"{out}: already there, made from the same files with the same settings")
    else:
        prepared = prepare(settings)
        report = output.write(prepared, made_from, out)
        for reason in ("no answer", "unusable"):
            for row in [row for row in prepared.removed if row.reason == reason][:_SHOWN]:
                print(f"{reason}: {row.source}, line {row.line}, {row.id}: {row.why['detail']}")
    for view in _views(report):
        console.print(view, soft_wrap=isinstance(view, str))
    print(out)


def load_settings(path: Path) -> Settings:
    """The settings of a configuration file; a path alone is short for an entry.

    Raises:
        FileNotFoundError, ValueError: one line that names the file and the key.
    """
    content = read_yaml(path)
    for key in ("sources", "benchmarks"):
        if isinstance(files := content.get(key), list):
            content[key] = [{"data": file} if isinstance(file, str) else file for file in files]
    _check_keys(content, Settings, str(path))
    reads = ArgumentParser(exit_on_error=False)
    reads.add_class_arguments(Settings)
    try:
        return Settings(**vars(reads.instantiate(reads.parse_object(content))))
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def _check_keys(entry: Any, kind: Any, where: str) -> None:
    """Checks the keys at any depth: jsonargparse ignores unknown ones without a value."""
    known = get_type_hints(kind)
    for key, value in entry.items() if isinstance(entry, dict) else ():
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; there are {', '.join(known)}")
        if is_dataclass(known[key]):
            _check_keys(value, known[key], f"{where}: {key}")
        elif isinstance(value, list) and is_dataclass(item := get_args(known[key])[0]):
            for number, one in enumerate(value, 1):
                _check_keys(one, item, f"{where}: {key}, entry {number}")


def _check_same(out: Path, report: Mapping[str, Any], made_from: Mapping[str, Any]) -> None:
    saved, now = (Provenance(record["settings"], record["inputs"]) for record in (report, made_from))
    what: str | None = None
    if report["format"] != made_from["format"]:
        what = "it is of another version of prepare"
    elif difference := now.difference(saved):
        what = f"it was made with {difference}"
    elif changed := output.first_changed(out, report):
        what = f"{changed} is not as it was written"
    if what:
        raise FileExistsError(f"{out}: exists already, but {what}; --overwrite replaces it")


# What is printed


def _views(report: Mapping[str, Any]) -> Iterator[Table | str]:
    yield _domains(report["domains"])
    if removed := report["removed"]:
        domains = sorted({domain for own in removed.values() for domain in own})
        rows = [(domain or "(none)", *(own.get(domain, "") for own in removed.values())) for domain in domains]
        totals = ("all", *(sum(own.values()) for own in removed.values()))
        yield plain_table("removed", *removed, rows=[*rows, totals])
    if report["without_domain"]:
        listed = ", ".join(f"{value} {count}" for value, count in report["without_domain"].items())
        yield escape(f"no domain: {listed}")
    if report["benchmarks"]:
        files = [(name, own["rows"], own["matched"]) for name, own in report["benchmarks"].items()]
        yield plain_table("benchmark", "problems", "rows that match", rows=files)
        by_count = ", ".join(f"{shared}: {rows}" for shared, rows in list(report["shared_ngrams"].items())[:10])
        yield f"removed rows by how many n-grams they share, the first ten: {by_count or 'none'}"
    kept, dropped = (
        ", ".join(f"{fate} {count}" for fate, count in report["solutions"].items() if (fate in RIGHT) == right)
        for right in (True, False)
    )
    yield f"solutions kept: {kept or 'none'}; dropped: {dropped or 'none'}"
    yield f"answers taken from a solution: {report['answers_from_solutions']}"


def _domains(domains: Mapping[str, Mapping[str, int]]) -> Table:
    columns = {split: split for split in (*SPLITS, "all")}
    columns |= {"without_solution": "unsolved", "several_solutions": "several paths"}
    counts = {name: {**own, "all": sum(own[split] for split in SPLITS)} for name, own in domains.items()}
    if len(counts) > 1:
        counts["all"] = {key: sum(own[key] for own in counts.values()) for key in columns}
    rows = ((name, *(own[key] for key in columns)) for name, own in counts.items())
    return plain_table("domain", *columns.values(), rows=rows)
