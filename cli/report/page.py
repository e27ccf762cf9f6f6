"""report.html: the results of every stage of a run, in one self-contained file that anyone can open or send.

Everything is read from the output folder, so a report can be written again at any time, and stages of any name appear
in it. Sections without results are marked. No script, no external resource.
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

SCALARS: Final = {  # shown where a stage has logged them
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
    """Writes `report.html` from the other files of an output folder; returns its path.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: nothing in it is of a run, or a file is not valid JSON, named.
    """
    if not output.is_dir():
        raise FileNotFoundError(f"{output}: no such output folder")
    if not any(next(output.rglob(name), None) for name in _OF_A_RUN):
        raise ValueError(f"{output}: no run's output folder, it has none of {', '.join(_OF_A_RUN)}")
    output = output.resolve()
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # completions may hold any text
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
    ks = [int(row["metric"].removeprefix("pass@")) for row in shown if row["metric"].startswith("pass@")]
    wide = f"pass@{max(ks, default=1)}"
    runs = _ranked(_found(output, "stage.json"), stages)
    written = {run: stage["command"] for run, stage in runs.items() if stage.get("command")}
    commands = {run: text if isinstance(text, str) else shlex.join(text) for run, text in written.items()}
    probes = list(_probed(_ranked(_found(output, "probe.json"), stages), _found(output, "chosen.json")))
    return {
        "name": output.name,
        "summary": [*_describe_results(shown), *_describe_probes(probes)],
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
        "commands": commands,
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
    """A model's path relative to the output folder if it is inside; else its name as it is."""
    path = Path(model).resolve()
    return path.relative_to(output).as_posix() if output in path.parents else model


def _found(output: Path, name: str) -> dict[str, Any]:
    """Content of every file of this name by its run folder; the newest, where a folder has several."""
    newest_last = sorted(output.rglob(name), key=lambda path: path.stat().st_mtime_ns)
    return {_owner(output, path): _json(path) for path in newest_last}


def _owner(output: Path, path: Path) -> str:
    """A file's run folder, such as `specialist/algebra`: the nearest with a run's record, else the outermost."""
    folders = [folder for folder in path.parents if output in folder.parents] or [output]
    runs = (folder for folder in folders if any((folder / name).exists() for name in ("stage.json", "config.yaml")))
    return next(runs, folders[-1]).relative_to(output).as_posix()


def _ranked(by_run: Mapping[str, Any], stages: Sequence[str]) -> dict[str, Any]:
    """Sorted by the order of the recipe's stages; those that were never evaluated come last."""
    rank = {stage: index for index, stage in enumerate(stages)}
    return dict(sorted(by_run.items(), key=lambda item: (rank.get(item[0].split("/")[0], len(rank)), item[0])))


def _scalars(output: Path) -> dict[str, dict[str, Curve]]:
    """Run folder → tag → curve. Where a resumed run took a step again, the later value counts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[str, Any]] = {}
    for folder in sorted({path.parent for path in output.rglob("events.out.tfevents.*")}):
        log = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 1, "images": 1}).Reload()
        run = found.setdefault(_owner(output, folder / "events"), {})
        for tag in SCALARS.keys() & log.Tags()["scalars"]:
            run.setdefault(tag, []).extend(log.Scalars(tag))
    for run in found.values():
        for tag, events in run.items():
            run[tag] = sorted({e.step: e.value for e in sorted(events, key=lambda e: e.wall_time)}.items())
    return found


def _probed(probes: Mapping[str, Any], chosen: Mapping[str, Mapping[str, str]]) -> Iterator[Probed]:
    """One for each run and domain; without `chosen.json`, the first of the best checkpoints is the chosen one."""
    for run, probe in probes.items():
        steps = [checkpoint["step"] for checkpoint in probe["checkpoints"]]
        metric = f"pass@{probe['k']}"
        for domain in probe["checkpoints"][0]["figures"] if steps else ():
            values = [checkpoint["figures"][domain] for checkpoint in probe["checkpoints"]]
            wide = [value[metric] for value in values]
            match = re.search(r"step=(\d+)", chosen.get(run, {}).get(f"probe/{domain}/{metric}", ""))
            index = steps.index(int(match[1])) if match and int(match[1]) in steps else wide.index(max(wide))
            yield Probed(run, domain, probe["k"], steps, values, index)


def _pairs(output: Path, stages: Sequence[str], split: str) -> list[dict[str, Any]]:
    """The first problems of each domain that the first and the last stage have both answered, without selection."""
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


# Tables and panels


def _table(rows: Sequence[Row], metric: str = "pass@1") -> dict[tuple[str, str], Row]:
    """(stage, domain) → row; of a stage with one model per domain, that of the domain, and none for `all`."""
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
    narrow, wider = _table(rows), _table(rows, wide) if wide != "pass@1" else {}

    def of(domain: str, table: Mapping[tuple[str, str], Row]) -> dict[str, Row]:
        return {stage: row for (stage, d), row in table.items() if d == domain}

    domains = sorted({domain for _, domain in narrow}, key=lambda d: (d != "all", d))
    return [bar_panel(d, of(d, narrow), of(d, wider), colours) for d in domains]


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


# Sentences


def _describe_results(rows: Sequence[Row]) -> Iterator[str]:
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


def _describe_probes(probes: Sequence[Probed]) -> Iterator[str]:
    if probes:
        early = sum(probed.chosen < len(probed.steps) - 1 for probed in probes)
        parted = sum(probed.column("pass@1")[probed.chosen] < max(probed.column("pass@1")) for probed in probes)
        yield (
            f"The checkpoint that the diversity probe chose is not the last one in {early} of {len(probes)} cases, "
            f"and not the one with the best pass@1 in {parted}."
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _memory(size: float | None) -> str:
    return "–" if not size else f"{size / 2**30:.2f} GiB"
