"""Result rows as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table


def results_table(rows: Sequence[dict[str, Any]], columns: str, title: str = "") -> Table:
    """Domains down, the values of one key (`metric`, `stage`) across; each cell the mean and its 95% interval."""
    names = list(dict.fromkeys(row[columns] for row in rows))
    domains = sorted({row["domain"] for row in rows}, key=lambda domain: (domain == "all", domain))
    table = Table("domain", *names, title=title, box=SIMPLE_HEAD)
    for domain in domains:
        cells = {row[columns]: _cell(row) for row in rows if row["domain"] == domain}
        table.add_row(domain, *(cells.get(name, "") for name in names))
    return table


def _cell(row: dict[str, Any]) -> str:
    return f"{row['mean']:.2f} [dim]{row['low']:.2f}–{row['high']:.2f}[/]"
