"""`vibethinker run RECIPE.yaml`: runs a recipe from its first stage to the report, or resumes it."""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from vibethinker.cli.recipe.definition import Recipe, load_recipe, read_yaml
from vibethinker.cli.recipe.processes import Scheduler, spawn, stop
from vibethinker.cli.recipe.tasks import EVALUATION, Task, tasks_of
from vibethinker.cli.report.result_table import results_table
from vibethinker.utils.atomic import locked, write_atomic

RECIPE: Final = "recipe.yaml"
RESULTS: Final = "results.json"
TIMINGS: Final = "timings.json"
REPORT: Final = "report.html"


def run(path: Path, output: Path | None, jobs: int, redo: Sequence[str], dry_run: bool) -> int:
    """Runs the tasks of a recipe that are not done; returns the exit code.

    Args:
        path: of the recipe.
        output: output folder; the recipe's own by default.
        jobs: processes at a time.
        redo: stages to run again, with all that build on them.
        dry_run: only prints the commands, and checks the options of every fit.

    Raises:
        ValueError, OSError: before anything is written, one line that names what is wrong.
        RuntimeError: a stage failed.
    """
    console = Console(soft_wrap=True, highlight=False)
    recipe = load_recipe(path, output)
    tasks = tasks_of(recipe)
    again = _tasks_again(tasks, redo)
    _check_output(recipe)
    if dry_run:
        _describe(tasks, again, console)
        _check_fits(tasks)
        return 0
    start = time.monotonic()
    with locked(recipe.output, f"{recipe.output}: another run is running there"):
        done = {task.name for task in tasks if task not in again and task.is_done()}
        for task in again:
            task.forget()
        write_atomic(recipe.output / RECIPE, path.read_bytes())
        if len(done) < len(tasks):
            for name in (RESULTS, TIMINGS, REPORT):  # out of date from here on
                (recipe.output / name).unlink(missing_ok=True)
            with _checked_ahead(recipe, tasks, done) as watch:
                Scheduler(tasks, done, jobs, console).run(watch)
        elif (recipe.output / REPORT).is_file():
            console.print(f"all {len(tasks)} stages of {recipe.output} are done")
        _conclude(recipe, tasks, console)
    console.print(f"{recipe.output / REPORT}  after {time.monotonic() - start:.0f} s")
    return 0


def _tasks_again(tasks: Sequence[Task], redo: Sequence[str]) -> list[Task]:
    """The tasks of `redo`, and all that build on them."""
    again: list[Task] = []
    unknown = set(redo)
    for task in tasks:
        named = {name for name in redo if task.name == name or task.name.startswith(f"{name}/")}
        unknown -= named
        if named or any(need in again for need in task.before):
            again.append(task)
    if unknown:
        names = ", ".join(task.name for task in tasks)
        raise ValueError(f"--redo {min(unknown)}: there is no such stage, only {names}")
    return again


def _check_output(recipe: Recipe) -> None:
    """Checks that the output folder is new, or of this recipe."""
    output, earlier = recipe.output, recipe.output / RECIPE
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: output is a file, not a folder")
    if earlier.is_file():
        names = {stage.name for stage in recipe.stages}
        before = [str(stage.get("name")) for stage in read_yaml(earlier).get("stages", [])]
        if others := [name for name in before if name not in names]:
            raise ValueError(
                f"{output} is of another recipe, with a stage {others[0]!r} that {recipe.path} does not have; "
                "choose another --output"
            )
    elif output.is_dir() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty and not of a recipe; choose another --output")


def _describe(tasks: Sequence[Task], again: Sequence[Task], console: Console) -> None:
    done: set[str] = set()
    for task in tasks:
        if task not in again and task.is_done():
            done.add(task.name)
        known = all(need.name in done for need in task.needs)
        models = task.models() if known else [f"<{need.name}>" for need in task.needs]
        state = "done" if task.name in done else "to do"
        console.print(f"{state:5}  {task.name}  {shlex.join(task.command(models))}", markup=False)


def _check_fits(tasks: Sequence[Task]) -> None:
    """Parses the options of one fit of each stage, and checks that a checkpoint monitors what the stage chooses by."""
    from vibethinker.cli.fit import parse

    for task in {task.stage: task for task in tasks if task.kind == "fit"}.values():
        callbacks = parse(task.command(["model"])[1:])["trainer"]["callbacks"] or []
        monitors = [callback.get("init_args", {}).get("monitor") for callback in callbacks]
        if missing := [monitor for monitor in task.choose if monitor not in monitors]:
            raise ValueError(
                f"{task.inputs[0]}: no ModelCheckpoint monitors {missing[0]!r}, which stage {task.stage} chooses by"
            )


@contextmanager
def _checked_ahead(recipe: Recipe, tasks: Sequence[Task], done: set[str]) -> Iterator[Callable[[], None]]:
    """Checks later stages by a dry run beside the first: a typo in the last should not cost the hours before it."""
    if not any(task.kind == "fit" and any(need.name not in done for need in task.before) for task in tasks):
        yield lambda: None
        return
    with tempfile.TemporaryFile() as log:
        process = spawn(["vibethinker", "run", str(recipe.path), "--output", str(recipe.output), "--dry-run"], log, 1)

        def watch() -> None:
            if process.poll():
                log.seek(0)
                raise ValueError(log.read().decode().strip().rpartition("\n")[2].removeprefix("vibethinker: "))

        try:
            yield watch
        finally:
            stop(process)


def _conclude(recipe: Recipe, tasks: Sequence[Task], console: Console) -> None:
    """Writes results, timings and report, and prints pass@k of every stage."""
    evaluations = [task.folder / EVALUATION for task in tasks if task.kind == "evaluate"]
    rows = [row for file in evaluations for row in json.loads(file.read_text("utf-8"))["rows"]]
    write_atomic(recipe.output / RESULTS, json.dumps(rows, indent=1))
    timings: dict[str, Any] = {}  # of each stage: the sum of its seconds, and the peak memory of its largest process
    for task in tasks:
        part = {key: (task.record() or {})[key] for key in ("seconds", "peak_memory_bytes")}
        stage = timings.setdefault(task.stage, {"seconds": 0.0, "peak_memory_bytes": 0, "parts": {}})
        stage["seconds"] = round(stage["seconds"] + part["seconds"], 2)
        stage["peak_memory_bytes"] = max(stage["peak_memory_bytes"], part["peak_memory_bytes"])
        stage["parts"][task.name] = part
    write_atomic(recipe.output / TIMINGS, json.dumps(timings, indent=1))
    from vibethinker.cli.report.page import write_report

    write_report(recipe.output)
    for metric in dict.fromkeys(row["metric"] for row in rows if row["metric"].startswith("pass@")):
        table = results_table([row for row in rows if row["metric"] == metric], metric)
        console.print(table, soft_wrap=False)
