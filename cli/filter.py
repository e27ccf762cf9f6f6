"""`vibethinker filter`: training problems that a checkpoint solves sometimes, or seldom."""

from __future__ import annotations

import argparse
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vibethinker.cli.evaluate import reward_of, settings_of
from vibethinker.cli.noise import hush
from vibethinker.datamodules.difficulty import Criteria, filter_by_difficulty
from vibethinker.utils.meter import Meter


def run(**given: Any) -> None:
    """Samples, filters, writes a data folder, prints what became of the problems.

    Raises:
        ValueError, OSError: before sampling, naming the option, file or row at fault.
    """
    hush()
    options = argparse.Namespace(**given)
    criteria = Criteria(options.min_error_rate, options.max_error_rate, options.min_solution_tokens)
    settings, reward = settings_of(options), reward_of(options.reward)
    bar = Meter()
    try:
        manifest = filter_by_difficulty(
            options.model,
            options.data,
            options.out,
            criteria,
            settings=settings,
            reward=reward,
            fields=options.fields,
            skip_long=options.skip_long,
            slots=options.slots,
            overwrite=options.overwrite,
            progress=lambda done, total: bar.show("filter", done, total),
        )
    finally:
        bar.close()
    Console().print(_table(manifest, settings.samples))
    for count, what in (
        (manifest["held_out"], "held out, kept as they are"),
        (manifest["prompt_too_long"], "too long"),
    ):
        if count:
            print(f"{count} rows {what}")
    print(options.out)


def _table(manifest: dict[str, Any], samples: int) -> Table:
    table = Table(title=f"problems by how many of {samples} samples are right", box=SIMPLE_HEAD)
    names = ("problems", "never", "between", "always", "short", "kept")
    for name in ("domain", *names):
        table.add_column(name, justify="left" if name == "domain" else "right")
    for domain, counts in manifest["domains"].items():
        table.add_row(escape(domain), *(str(counts[name]) for name in names))
    return table
