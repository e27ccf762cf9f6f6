"""report.html: what every stage of a run brought, in one self-contained file that anyone can open or send.

Everything is read back from the output folder, so a report can be written again at any time, and stages that this file
has never heard of show up by themselves. Whatever is missing is said in its section. No script, no external resource.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vibethinker.cli.report.figures import PALETTE, STAGES, Curve, Panel, Probed, bar_panel, curve_panel, probe_panel
from vibethinker.utils.atomic import write_atomic

Row = dict[str, Any]

SCALARS: Final = {  # what is drawn, where a stage logged it
    "train/reward": "Reward",
    "train/pass_rate": "Pass rate",
    "train/kl": "KL to the reference",
    "rollout/length": "Length in tokens",
    "train/entropy": "Entropy in nats",
    "train/loss": "Loss",
}
_OF_A_RUN: Final = ("results.json", "timings.json", "stage.json", "probe.json", "events.out.tfevents.*")
PROBLEMS_SHOWN: Final = 2  # of each domain


def write_report(output: Path) -> Path:
    """Writes `report.html` from what a run left in its output folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: nothing in it is of a run, or a file is not valid JSON, named.
    """
    if not Path(output).is_dir():
        raise FileNotFoundError(f"{output}: no such output folder")
    if not any(next(Path(output).rglob(name), None) for name in _OF_A_RUN):
        raise ValueError(f"{output}: no run's output folder, it has none of {', '.join(_OF_A_RUN)}")
    output = Path(output).resolve()
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # completions are whatever a model says
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": _duration, "memory": _memory, "number": "{:.2f}".format}
    html = environment.get_template("report.html.jinja").render(_content(output))
    write_atomic(output / "report.html", html.encode("utf-8", "replace"))  # half a surrogate pair is no UTF-8
    return output / "report.html"


def _content(output: Path) -> dict[str, Any]:
    rows = [{**row, "model": _inside(output, row["model"])} for row in _json(output / "results.json", [])]
    split = next((row["split"] for row in sorted(rows, key=lambda row: row["split"] != "test")), "")
    shown = [row for row in rows if row["split"] == split]
    stages = list(dict.fromkeys(row["stage"] for row in shown))
    colours = dict(zip(stages, STAGES * len(stages), strict=False))
    wide = max((row["metric"] for row in shown if row["metric"].startswith("pass@")), key=_k, default="pass@1")
    runs = _ranked(_found(output, "stage.json"), stages)
    probes = list(_probed(_ranked(_found(output, "probe.json"), stages), _found(output, "chosen.json")))
    return {
        "name": output.name,
        "summary": [*_results_in_words(shown), *_probes_in_words(probes)],
        "ladder": _ladder(shown),
        "colours": colours,
        "probes": [probe_panel(probed) for probed in probes],
        "probed": " / ".join(f"pass@{k}" for k in sorted({probed.k for probed in probes})),
        "bars": _bars(shown, wide, colours),
        "wide": wide,
        "split": split,
        "curves": _training_curves(_ranked(_scalars(output), stages)),
        "pairs": _pairs(output, stages, split),
        "timings": _json(output / "timings.json", {}),
        "commands": {run: _command(stage) for run, stage in runs.items() if stage.get("command")},
        "rows": rows,
    }


# Reading


def _json(path: Path, missing: Any = None) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return missing
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error


def _inside(output: Path, model: str) -> str:
    """A model's path from the output folder where it lies there; else its name as it is."""
    path = Path(model).resolve()
    return path.relative_to(output).as_posix() if output in path.parents else model


def _found(output: Path, name: str) -> dict[str, Any]:
    """Content of every file of this name, by the stage it belongs to; the newest, where a stage has several."""
    newest_last = sorted(output.rglob(name), key=lambda path: path.stat().st_mtime_ns)
    return {_owner(output, path): _json(path) for path in newest_last}


def _owner(output: Path, path: Path) -> str:
    """A file's run folder, as in `specialist/algebra`: the nearest that a run has signed, else the outermost."""
    folders = [folder for folder in path.parents if output in folder.parents] or [output]
    signed = (folder for folder in folders if any((folder / name).exists() for name in ("stage.json", "config.yaml")))
    return next(signed, folders[-1]).relative_to(output).as_posix()


def _ranked(by_run: Mapping[str, Any], stages: Sequence[str]) -> dict[str, Any]:
    """In the order of the recipe's stages; those that were never evaluated come last."""
    place = {stage: index for index, stage in enumerate(stages)}
    return dict(sorted(by_run.items(), key=lambda item: (place.get(item[0].split("/")[0], len(place)), item[0])))


def _scalars(output: Path) -> dict[str, dict[str, Curve]]:
    """Stage folder → tag → curve. Where a resumed run took a step again, the later value counts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[str, list[Any]]] = {}
    for folder in sorted({path.parent for path in output.rglob("events.out.tfevents.*")}):
        log = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 1, "images": 1}).Reload()
        stage = found.setdefault(_owner(output, folder / "events"), {})
        for tag in log.Tags()["scalars"]:
            stage.setdefault(tag, []).extend(log.Scalars(tag))
    return {
        label: {
            tag: sorted({e.step: e.value for e in sorted(events, key=lambda e: e.wall_time)}.items())
            for tag, events in stage.items()
        }
        for label, stage in found.items()
    }


def _probed(probes: Mapping[str, Any], chosen: Mapping[str, Mapping[str, str]]) -> Iterator[Probed]:
    """One for each run and domain. Where the run has not said what it chose, that is the first of the best."""
    for run, probe in probes.items():
        steps = [checkpoint["step"] for checkpoint in probe["checkpoints"]]
        for domain in probe["checkpoints"][0]["figures"] if steps else ():
            figures = [checkpoint["figures"][domain] for checkpoint in probe["checkpoints"]]
            wide = [figure[f"pass@{probe['k']}"] for figure in figures]
            said = re.search(r"step=(\d+)", chosen.get(run, {}).get(f"probe/{domain}/pass@{probe['k']}", ""))
            place = steps.index(int(said[1])) if said and int(said[1]) in steps else wide.index(max(wide))
            yield Probed(run, domain, probe["k"], steps, figures, place)


def _pairs(output: Path, stages: Sequence[str], split: str) -> list[dict[str, Any]]:
    """The first problems of each domain that the first and the last stage both answered: no choice is made by hand."""
    answers: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(output.rglob("evaluation.json")):
        evaluation = _json(path)
        label: Row = next(iter(evaluation["rows"]), {})
        for sample in evaluation.get("samples", []) if label.get("split") == split else []:
            stage = sample.get("stage") or label["stage"] or _owner(output, path)
            answers.setdefault((sample["domain"], sample["prompt"]), {})[stage] = sample
    pairs: dict[str, list[dict[str, Any]]] = {}
    for (domain, _), by_stage in answers.items():
        known = [stage for stage in stages if stage in by_stage]
        if len(known) > 1:
            sides = [(stage, by_stage[stage]["completions"][0]) for stage in (known[0], known[-1])]
            pairs.setdefault(domain, []).append({**by_stage[known[0]], "sides": sides})
    return [pair for domain in pairs.values() for pair in domain[:PROBLEMS_SHOWN]]


# Choosing


def _k(metric: str) -> int:
    return int(metric.rpartition("@")[2])


def _table(rows: Sequence[Row], metric: str = "pass@1") -> dict[tuple[str, str], Row]:
    """(stage, domain) → row; of a stage with several models, the one in the domain's folder, and none for `all`."""
    models: dict[str, set[str]] = {}
    for row in rows:
        models.setdefault(row["stage"], set()).add(row["model"])
    table: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = row["stage"], row["domain"]
        if row["metric"] != metric or (row["domain"] == "all" and len(models[row["stage"]]) > 1):
            continue
        if key not in table or row["domain"] in Path(row["model"]).parts:
            table[key] = row
    return table


def _ladder(rows: Sequence[Row]) -> list[Row]:
    """Pass@1 over all domains, of every stage that has one model and was evaluated on the domains of the first."""
    table = _table(rows)
    domains: dict[str, set[str]] = {}
    for stage, domain in table:
        domains.setdefault(stage, set()).add(domain)
    every = {row["domain"] for row in rows}
    overall = every.pop() if len(every) == 1 else "all"
    ladder = [row for (_, domain), row in table.items() if domain == overall]
    return [row for row in ladder if domains[row["stage"]] == domains[ladder[0]["stage"]]]


def _bars(rows: Sequence[Row], wide: str, colours: Mapping[str, str]) -> list[Panel]:
    def of(domain: str, metric: str) -> dict[str, Row]:
        return {stage: row for (stage, d), row in _table(rows, metric).items() if d == domain}

    domains = sorted({domain for _, domain in _table(rows)}, key=lambda d: (d != "all", d))
    return [bar_panel(d, of(d, "pass@1"), of(d, wide) if wide != "pass@1" else {}, colours) for d in domains]


def _training_curves(scalars: Mapping[str, Mapping[str, Curve]]) -> dict[str, dict[str, Any]]:
    """Stage → its runs and its panels; `specialist/algebra` is the run `algebra` of the stage `specialist`."""
    stages: dict[str, dict[str, Mapping[str, Curve]]] = {}
    for label, tags in scalars.items():
        stage, _, run = label.partition("/")
        stages.setdefault(stage, {})[run] = tags
    return {
        stage: {
            "runs": dict(zip(runs, PALETTE * len(runs), strict=False)),
            "panels": [
                curve_panel(title, {run: tags[tag] for run, tags in runs.items() if tag in tags})
                for tag, title in SCALARS.items()
                if any(tag in tags for tags in runs.values())
            ],
        }
        for stage, runs in stages.items()
    }


# Words


def _results_in_words(rows: Sequence[Row]) -> Iterator[str]:
    ladder, table = _ladder(rows), _table(rows)
    if not ladder:
        yield "No stage has been evaluated over all domains yet."
        return
    first, last = ladder[0], ladder[-1]
    words = [f"{_interval(first)} for {first['stage']}"]
    for before, after in pairwise(ladder):
        apart = after["low"] > before["high"] or after["high"] < before["low"]
        verdict = "the intervals do not overlap" if apart else "the intervals overlap"
        words.append(f"{_interval(after)} for {after['stage']} ({after['mean'] - before['mean']:+.2f}; {verdict})")
    where = f"{first['problems']} {first['split']} problems with {first['samples']} samples each"
    yield f"On {where}, mean pass@1 and its 95% interval are {', then '.join(words)}."
    for stage in dict.fromkeys(stage for stage, _ in table):
        gains = {
            domain: row["mean"] - table[first["stage"], domain]["mean"]
            for (s, domain), row in table.items()
            if s == stage and domain != "all" and (first["stage"], domain) in table
        }
        apart = stage not in {row["stage"] for row in ladder}
        if gains and stage != first["stage"] and (apart or stage == last["stage"]):
            better, least = sum(gain > 0 for gain in gains.values()), min(gains, key=lambda domain: gains[domain])
            several = len({row["model"] for row in rows if row["stage"] == stage}) > 1
            who = f"the domain's own {stage} model" if several else stage
            yield (
                f"In {better} of {len(gains)} domains {who} beats {first['stage']}; "
                f"the smallest difference is {gains[least]:+.2f}, in {least}."
            )


def _interval(row: Row) -> str:
    return f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _probes_in_words(probes: Sequence[Probed]) -> Iterator[str]:
    if probes:
        early = sum(probed.chosen < len(probed.steps) - 1 for probed in probes)
        parted = sum(probed.column("pass@1")[probed.chosen] < max(probed.column("pass@1")) for probed in probes)
        yield (
            f"The checkpoint that the diversity probe chose is not the last one in {early} of {len(probes)} cases, "
            f"and not the one with the best pass@1 in {parted}."
        )


def _command(stage: Mapping[str, Any]) -> str:
    command = stage["command"]
    return command if isinstance(command, str) else shlex.join(command)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _memory(size: float | None) -> str:
    return "–" if not size else f"{size / 2**30:.2f} GiB"
