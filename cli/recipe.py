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

A stage fits, or fuses, or only evaluates. `choose` may be a list: a fit on several domains chooses one for each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RECIPE_KEYS: Final = ("output", "model", "evaluation", "stages")
_STAGE_KEYS: Final = ("name", "each", "fit", "fuse", "from", "with", "choose", "evaluate")


@dataclass(frozen=True)
class Stage:
    """One entry of a recipe.

    Attributes:
        name: names its folder.
        each: what `{each}` stands for in turn; empty for a stage that happens once.
        fit: configuration file.
        fuse: the stage whose models are averaged.
        source: the stage whose model it starts from; the recipe's model when `None`.
        options: of the command, by their names there.
        choose: what is monitored by the checkpoints that later stages take; the last checkpoint when empty.
        evaluate: domains.
    """

    name: str
    each: tuple[str, ...] = ()
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
    if stage.fit and stage.fuse:
        raise ValueError(f"{where}: either fit or fuse")
    if not (stage.fit or stage.fuse or stage.evaluate):
        raise ValueError(f"{where}: nothing to do; it needs fit, fuse or evaluate")
    if stage.fit and not stage.fit.is_file():
        raise FileNotFoundError(f"{where}: fit: there is no file {stage.fit}")
    for key, value in (("choose", stage.choose), ("each", stage.each)):
        if value and not stage.fit:
            raise ValueError(f"{where}: {key} needs fit")
    if bad := [value for value in stage.each if not _NAME.fullmatch(value)]:
        raise ValueError(f"{where}: each: {bad[0]!r} cannot name a folder")
    if stage.fuse and stage.source:
        raise ValueError(f"{where}: from belongs to fit; fuse names its stage itself")
    for key, source in (("from", stage.source), ("fuse", stage.fuse)):
        if source is not None and (source not in before or not before[source].models):
            raise ValueError(f"{where}: {key}: no earlier stage {source!r} makes a model")
    if stage.source and before[stage.source].models > 1:
        raise ValueError(f"{where}: from: stage {stage.source!r} makes {before[stage.source].models} models; fuse them")
    if stage.evaluate and len(stage.choose) > 1:
        raise ValueError(f"{where}: evaluate: it chooses {len(stage.choose)} models; evaluate what is made of them")
    if not stage.each and "{each}" in f"{stage.options}{stage.choose}{stage.evaluate}":
        raise ValueError(f"{where}: {{each}} stands for nothing: each is missing")


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
