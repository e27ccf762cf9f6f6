"""`vibethinker filter`: training problems that a checkpoint solves sometimes, or seldom."""

from __future__ import annotations

import argparse
from contextlib import closing
from functools import partial
from typing import Any

from rich.console import Console

from vibethinker.cli.evaluate import reward_of, settings_of
from vibethinker.cli.quiet import hush
from vibethinker.cli.report.result_table import plain_table
from vibethinker.datamodules.pass_rate_filter import Criteria, filter_by_difficulty
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
    with closing(Meter()) as bar:
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
            progress=partial(bar.show, "filter"),
        )
    names = ("problems", "never", "between", "always", "short", "kept")
    rows = ((domain, *(counts[name] for name in names)) for domain, counts in manifest["domains"].items())
    title = f"problems by how many of {settings.samples} samples are right"
    Console().print(plain_table("domain", *names, rows=rows, title=title))
    for name, what in (("held_out", "held out, kept as they are"), ("prompt_too_long", "too long")):
        if manifest[name]:
            print(f"{manifest[name]} rows {what}")
    print(options.out)
