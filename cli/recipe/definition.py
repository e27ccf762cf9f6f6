"""The recipe file: a list of stages, each taking its model from an earlier one.

    output: runs/nano                 # overridden by --output
    model: nano                       # where every stage starts that does not say `from`
    evaluation: {problems: 256}       # options of `vibethinker evaluate`
    stages:
      - name: specialist
        each: [algebra, geometry]     # one fit for each; {each} stands for it below
        fit: sft.yaml                 # beside the recipe
        with: {data.domain: "{each}"} # further options of the command
        choose: probe/{each}/pass@8   # what a ModelCheckpoint monitors; the last checkpoint by default
        evaluate: ["{each}"]          # domains
      - {name: fused, fuse: specialist, evaluate: [algebra, geometry]}
      - {name: signal, fit: mgpo.yaml, from: fused, evaluate: [algebra, geometry]}

A stage fits, or fuses, or only evaluates. `choose` may be a list: a fit on several domains chooses one for each. What
is evaluated are domains, or files of problems.

Two further kinds of stages make data, which any option names as `{stage}`:

      - {name: problems, prepare: ../data/math.yaml}
      - {name: specialist, each: [algebra], fit: sft.yaml, with: {data.data: "{problems}", data.domain: "{each}"}}
      - {name: pool, filter: "{problems}", from: specialist}    # what this model solves now and then
      - {name: signal, fit: mgpo.yaml, from: specialist, with: {data.data: "{pool}"}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from vibethinker.utils.provenance import leaves

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RECIPE_KEYS: Final = ("output", "model", "evaluation", "stages")
_KINDS: Final = ("prepare", "filter", "fit", "fuse")
_STAGE_KEYS: Final = ("name", "each", *_KINDS, "from", "with", "choose", "evaluate")
_REFERENCE: Final = re.compile(r"\{([A-Za-z0-9_.-]+)\}")
_FILES: Final = (".jsonl", ".parquet")


@dataclass(frozen=True)
class Stage:
    """One entry of a recipe.

    Attributes:
        name: names its folder.
        each: what `{each}` stands for in turn; empty for a stage that happens once.
        prepare: configuration file of data.
        filter: data, as a path or a reference.
        fit: configuration file.
        fuse: the stage whose models are averaged.
        source: the stage whose model it starts from; the recipe's model when `None`.
        options: of the command, by their names there.
        choose: what is monitored by the checkpoints that later stages take; the last checkpoint when empty.
        evaluate: domains, or files.
    """

    name: str
    each: tuple[str, ...] = ()
    prepare: Path | None = None
    filter: str | None = None
    fit: Path | None = None
    fuse: str | None = None
    source: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    choose: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()

    @property
    def models(self) -> int:
        """How many models it leaves for later stages."""
        return max(len(self.each), 1) * max(len(self.choose), 1) if self.fit or self.fuse else 0

    @property
    def makes_data(self) -> bool:
        return bool(self.prepare or self.filter)

    @property
    def evaluates_files(self) -> bool:
        return any(name.endswith(_FILES) for name in self.evaluate)

    def references(self) -> list[str]:
        """What may be stages whose data it names."""
        text = f"{dict(self.options)}{self.filter}"
        return [name for name in dict.fromkeys(_REFERENCE.findall(text)) if name != "each"]


@dataclass(frozen=True)
class Recipe:
    """A recipe file, checked.

    Attributes:
        path: the file.
        output: folder of everything that is made.
        model: folder, hub name, or `nano`.
        stages: in an order in which each comes after what it needs.
        evaluation: options of `vibethinker evaluate`.
    """

    path: Path
    output: Path
    model: str
    stages: tuple[Stage, ...]
    evaluation: Mapping[str, Any]


def load_recipe(path: Path, output: Path | None = None) -> Recipe:
    """Reads and checks a recipe.

    Raises:
        FileNotFoundError, ValueError: one line that names the file, the stage and the key.
    """
    content = read_yaml(path)
    _refuse_unknown(content, _RECIPE_KEYS, str(path))
    where = output or content.get("output")
    if where is None:
        raise ValueError(f"{path}: output is missing; name a folder there, or with --output")
    entries = content.get("stages")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: stages must be a list of one stage or more")
    stages: dict[str, Stage] = {}
    for number, entry in enumerate(entries, 1):
        stage = _stage(path, number, entry, stages)
        stages[stage.name] = stage
    evaluation = _mapping(content.get("evaluation"), f"{path}: evaluation")
    for name in _REFERENCE.findall(str(evaluation)):
        if name not in stages or not stages[name].makes_data:
            raise ValueError(f"{path}: evaluation: {{{name}}}: no stage {name!r} makes data")
    return Recipe(path, Path(where), str(content.get("model", "nano")), tuple(stages.values()), evaluation)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, or one line that names the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return _mapping(content, str(path))


def _stage(path: Path, number: int, entry: Any, before: Mapping[str, Stage]) -> Stage:
    entry = _mapping(entry, f"{path}: stage {number}")
    name = str(entry.get("name", ""))
    if not _NAME.fullmatch(name) or name in before:
        raise ValueError(f"{path}: stage {number} needs a name of its own of letters, digits, '-', '_', not {name!r}")
    where = f"{path}: stage {name!r}"
    _refuse_unknown(entry, _STAGE_KEYS, where)
    stage = Stage(
        name=name,
        each=_texts(entry.get("each"), f"{where}: each"),
        prepare=path.parent / str(entry["prepare"]) if "prepare" in entry else None,
        filter=None if entry.get("filter") is None else str(entry["filter"]),
        fit=path.parent / str(entry["fit"]) if "fit" in entry else None,
        fuse=entry.get("fuse"),
        source=entry.get("from"),
        options=_mapping(entry.get("with"), f"{where}: with"),
        choose=_texts(entry.get("choose"), f"{where}: choose"),
        evaluate=_texts(entry.get("evaluate"), f"{where}: evaluate"),
    )
    _check(stage, where, before)
    return stage


def _check(stage: Stage, where: str, before: Mapping[str, Stage]) -> None:
    kinds = [kind for kind in _KINDS if getattr(stage, kind)]
    if len(kinds) > 1:
        raise ValueError(f"{where}: either {' or '.join(kinds)}")
    if not (kinds or stage.evaluate):
        raise ValueError(f"{where}: nothing to do; it needs {', '.join(_KINDS)} or evaluate")
    for key, file in (("fit", stage.fit), ("prepare", stage.prepare)):
        if file and not file.is_file():
            raise FileNotFoundError(f"{where}: {key}: there is no file {file}")
    for key, value in (("choose", stage.choose), ("each", stage.each)):
        if value and not stage.fit:
            raise ValueError(f"{where}: {key} needs fit")
    if bad := [value for value in stage.each if not _NAME.fullmatch(value)]:
        raise ValueError(f"{where}: each: {bad[0]!r} cannot name a folder")
    _check_sources(stage, where, before)
    _check_evaluation(stage, where)
    if not stage.each and "{each}" in f"{stage.options}{stage.choose}{stage.evaluate}":
        raise ValueError(f"{where}: {{each}} stands for nothing: each is missing")


def _check_sources(stage: Stage, where: str, before: Mapping[str, Stage]) -> None:
    if stage.source and (stage.fuse or stage.prepare):
        raise ValueError(f"{where}: from belongs to fit, filter and evaluate; fuse names its stage itself")
    for key, source in (("from", stage.source), ("fuse", stage.fuse)):
        if source is not None and (source not in before or not before[source].models):
            raise ValueError(f"{where}: {key}: no earlier stage {source!r} makes a model")
    if stage.source and before[stage.source].models > 1:
        raise ValueError(f"{where}: from: stage {stage.source!r} makes {before[stage.source].models} models; fuse them")
    for option, value in [*leaves(stage.options), ("data", stage.filter)]:
        for name in _REFERENCE.findall(str(value)):
            data = option.rpartition(".")[2] == "data"  # elsewhere braces may be something else, as in a file name
            if name != "each" and (data or name in before) and not (name in before and before[name].makes_data):
                raise ValueError(f"{where}: {{{name}}}: no earlier stage {name!r} makes data")


def _check_evaluation(stage: Stage, where: str) -> None:
    if stage.evaluate and stage.makes_data:
        raise ValueError(f"{where}: evaluate: it makes data, not a model")
    if stage.evaluate and len(stage.choose) > 1:
        raise ValueError(f"{where}: evaluate: it chooses {len(stage.choose)} models; evaluate what is made of them")
    if stage.evaluates_files and not all(name.endswith(_FILES) for name in stage.evaluate):
        raise ValueError(f"{where}: evaluate: domains or files, not both; a second stage may have the others")


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{where}: must be a mapping, not {value!r}")
    return {str(key): item for key, item in value.items()}


def _texts(value: Any, where: str) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(item, str) and item for item in items) or len(set(items)) < len(items):
        raise ValueError(f"{where}: must be one or more different texts, not {value!r}")
    return tuple(items)


def _refuse_unknown(entry: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := [key for key in entry if key not in known]:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; there are {', '.join(known)}")
