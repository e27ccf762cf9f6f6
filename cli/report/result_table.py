"""Tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

_HARDEST: Final = 5  # problems
_WIDTH: Final = 24  # characters of an answer


def plain_table(*header: str, rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """A table of rows of values, which are shown as they are."""
    table = Table(*header, title=title, box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row))
    return table


def results_table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """Domains down, stages across; each cell the mean and its 95% interval."""
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    table = Table("domain", *stages, title=title, box=SIMPLE_HEAD)
    for domain in sorted({row["domain"] for row in rows}, key=lambda domain: (domain == "all", domain)):
        cells = {row["stage"]: row for row in rows if row["domain"] == domain}
        shown = {s: f"{row['mean']:.2f} [dim]{row['low']:.2f}–{row['high']:.2f}[/]" for s, row in cells.items()}
        table.add_row(domain, *(shown.get(stage, "") for stage in stages))
    return table


def metrics_table(rows: Sequence[dict[str, Any]], title: str = "") -> Table:
    """Domains down, below the name of their file, metrics across; each cell the mean, and its standard error below."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    table = Table(title=escape(title), box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("domain", no_wrap=True)
    for metric in metrics:
        table.add_column(metric.replace("@", "\n@"), no_wrap=True)  # eight of them fit into 80 characters
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        lines.setdefault((row.get("file", ""), row["domain"]), {})[row["metric"]] = _metric(row)
    last = ""
    for (file, domain), cells in lines.items():
        if file != last:
            table.add_row(f"[bold]{escape(file)}[/]")
        last = file
        table.add_row(f"{' ' if file else ''}{escape(domain)}", *(cells.get(metric, "") for metric in metrics))
    return table


def hardest_table(problems: Sequence[Mapping[str, Any]]) -> Table:
    """The problems that are solved least often, with the wrong answer that is given most."""
    table = Table("file", "hardest", "solved", "expected", "most frequent wrong answer", box=SIMPLE_HEAD)
    for problem in islice(problems, _HARDEST):
        wrong = next((a for a in problem.get("answers", []) if not a["right"]), None)
        answer = f"{_short(wrong['answer'])} [dim]×{wrong['samples']}[/]" if wrong else ""
        solved = f"{problem['pass_rate']:.2f}"
        table.add_row(escape(problem["file"]), escape(problem["id"]), solved, _short(problem["expected"]), answer)
    return table


def _metric(row: dict[str, Any]) -> str:
    digits = 0 if row["mean"] >= 10 else 2  # a length in tokens, or a fraction
    error = "" if row["standard_error"] is None else f"\n[dim]±{row['standard_error']:.{digits}f}[/]"
    return f"{row['mean']:.{digits}f}{error}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return escape(line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…")
