"""`vibethinker prepare`: raw sets made into a folder of clean domain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as View

from vibethinker.cli.errors import one_line
from vibethinker.cli.recipe.definition import read_yaml
from vibethinker.datamodules.prepare import Prepared, Settings, output, prepare
from vibethinker.datamodules.prepare.solutions import RIGHT
from vibethinker.datamodules.reading.tables import check_file
from vibethinker.problems import SPLITS
from vibethinker.utils.provenance import Provenance

_SHOWN: Final = 3  # rows of a kind that somebody has to look at


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
    before = output.read_report(out)
    if before is not None and not overwrite:
        _check_same(out, before, made_from)
        print(f"{out}: already there, made from the same files with the same settings")
    else:
        prepared = prepare(settings)
        before = output.write(prepared, made_from, out)
        _show_unusable(prepared)
    for view in _views(before):
        console.print(view, soft_wrap=isinstance(view, str))
    print(out)


def load_settings(path: Path) -> Settings:
    """The settings of a configuration file; a file's path alone stands for its entry.

    Raises:
        FileNotFoundError, ValueError: one line that names the file and the key.
    """
    content = read_yaml(path)
    for key in ("sources", "benchmarks"):
        if isinstance(files := content.get(key), list):
            content[key] = [{"data": file} if isinstance(file, str) else file for file in files]
    _refuse_unknown(content, Settings, str(path))
    reads = ArgumentParser(exit_on_error=False)
    reads.add_class_arguments(Settings)
    try:
        return Settings(**vars(reads.instantiate(reads.parse_object(content))))
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def _refuse_unknown(entry: Any, kind: Any, where: str) -> None:
    """Keys that nothing reads, at any depth; jsonargparse passes over those that hold nothing."""
    known = get_type_hints(kind)
    for key, value in entry.items() if isinstance(entry, dict) else ():
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; there are {', '.join(known)}")
        if is_dataclass(known[key]):
            _refuse_unknown(value, known[key], f"{where}: {key}")
        elif isinstance(value, list) and is_dataclass(item := get_args(known[key])[0]):
            for number, one in enumerate(value, 1):
                _refuse_unknown(one, item, f"{where}: {key}, entry {number}")


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
        raise FileExistsError(f"{out}: is there already, but {what}; --overwrite makes it anew")


# What is printed


def _show_unusable(prepared: Prepared) -> None:
    for reason in ("no answer", "unusable"):
        for row in [row for row in prepared.removed if row.reason == reason][:_SHOWN]:
            print(f"{reason}: {row.source}, line {row.line}, {row.id}: {row.why['detail']}")


def _views(report: Mapping[str, Any]) -> Iterator[View | str]:
    yield _domains(report["domains"])
    if removed := report["removed"]:
        yield _removed(removed)
    if report["without_domain"]:
        listed = ", ".join(f"{value} {count}" for value, count in report["without_domain"].items())
        yield escape(f"no domain: {listed}")
    if report["benchmarks"]:
        yield _benchmarks(report["benchmarks"])
        by_count = ", ".join(f"{shared}: {rows}" for shared, rows in list(report["shared_ngrams"].items())[:10])
        yield f"removed rows by how many n-grams they share, the first ten: {by_count or 'none'}"
    kept, dropped = (
        ", ".join(f"{fate} {count}" for fate, count in report["solutions"].items() if (fate in RIGHT) == right)
        for right in (True, False)
    )
    yield f"solutions kept: {kept or 'none'}; dropped: {dropped or 'none'}"
    yield f"answers taken from a solution: {report['answers_from_solutions']}"


def _domains(domains: Mapping[str, Mapping[str, int]]) -> View:
    others = {"without_solution": "unsolved", "several_solutions": "several paths"}
    table = View("domain", *SPLITS, "all", *others.values(), box=SIMPLE_HEAD)
    total = {key: sum(own[key] for own in domains.values()) for key in (*SPLITS, *others)}
    for name, own in [*domains.items(), *([("all", total)] if len(domains) > 1 else [])]:
        figures = [
            *(own[split] for split in SPLITS),
            sum(own[split] for split in SPLITS),
            *(own[key] for key in others),
        ]
        table.add_row(escape(name), *map(str, figures))
    return table


def _removed(removed: Mapping[str, Mapping[str, int]]) -> View:
    """Domains down, reasons across."""
    table = View("removed", *removed, box=SIMPLE_HEAD)
    for domain in sorted({domain for own in removed.values() for domain in own}):
        table.add_row(escape(domain) or "(none)", *(str(own.get(domain, "")) for own in removed.values()))
    table.add_row("all", *(str(sum(own.values())) for own in removed.values()))
    return table


def _benchmarks(benchmarks: Mapping[str, Mapping[str, int]]) -> View:
    table = View("benchmark", "problems", "rows that match", box=SIMPLE_HEAD)
    for name, own in benchmarks.items():
        table.add_row(escape(name), str(own["rows"]), str(own["matched"]))
    return table
