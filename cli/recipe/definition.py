"""The recipe file: a list of stages, each of which starts from the model of an earlier one.

    output: runs/nano                 # overridden by --output
    model: nano                       # starting point of every stage without `from`
    evaluation: {problems: 256}       # options of `vibethinker evaluate`
    stages:
      - name: specialist
        each: [algebra, geometry]     # one fit for each; its name replaces {each} below
        fit: sft.yaml                 # beside the recipe
        with: {data.domain: "{each}"} # further options of the command
        choose: probe/{each}/pass@8   # what a ModelCheckpoint monitors; the last checkpoint by default
        evaluate: ["{each}"]          # domains
      - {name: fused, fuse: specialist, evaluate: [algebra, geometry]}
      - {name: signal, fit: mgpo.yaml, from: fused, evaluate: [algebra, geometry]}

A stage fits, or fuses, or only evaluates. `choose` may be a list: a fit on several domains chooses one checkpoint for
each. Stages evaluate on domains or on files of problems.

Two further kinds of stages write data, which any option refers to as `{stage}`:

      - {name: problems, prepare: ../data/math.yaml}
      - {name: specialist, each: [algebra], fit: sft.yaml, with: {data.data: "{problems}", data.domain: "{each}"}}
      - {name: pool, filter: "{problems}", from: specialist}    # problems that this model solves only sometimes
      - {name: signal, fit: mgpo.yaml, from: specialist, with: {data.data: "{pool}"}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from vibethinker.utils.provenance import leaves

Kind = Literal["prepare", "filter", "fit", "fuse", "evaluate"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RECIPE_KEYS: Final = ("output", "model", "evaluation", "stages")
_KINDS: Final[tuple[Kind, ...]] = ("prepare", "filter", "fit", "fuse", "evaluate")
_STAGE_KEYS: Final = ("name", "each", *_KINDS, "from", "with", "choose")
_REFERENCE: Final = re.compile(r"\{([A-Za-z0-9_.-]+)\}")
_FILES: Final = (".jsonl", ".parquet")


@dataclass(frozen=True)
class Stage:
    """One entry of a recipe.

    Raises:
        ValueError, FileNotFoundError: naming the key, for entries that contradict one another, or a missing file.
    """

    name: str  # of its folder
    kind: Kind  # its command
    target: str = ""  # value of the key `kind`: a configuration, data, or the stage whose models are averaged
    source: str | None = None  # the stage whose model it starts from; the recipe's model when `None`
    each: tuple[str, ...] = ()  # values of `{each}`; empty for a stage that runs once
    options: Mapping[str, Any] = field(default_factory=dict)  # of the command, by their names there
    choose: tuple[str, ...] = ()  # metrics monitored by the checkpoints that later stages take; empty: the last one
    evaluate: tuple[str, ...] = ()  # domains, or files

    def __post_init__(self) -> None:
        if self.kind in ("fit", "prepare") and not Path(self.target).is_file():
            raise FileNotFoundError(f"{self.kind}: there is no file {self.target}")
        for key, value in (("choose", self.choose), ("each", self.each)):
            if value and self.kind != "fit":
                raise ValueError(f"{key} needs fit")
        if bad := [value for value in self.each if not _NAME.fullmatch(value)]:
            raise ValueError(f"each: {bad[0]!r} cannot name a folder")
        if self.source and self.kind in ("fuse", "prepare"):
            raise ValueError("from belongs to fit, filter and evaluate; fuse names its stage itself")
        if self.evaluate and self.makes_data:
            raise ValueError("evaluate: it makes data, not a model")
        if self.evaluate and len(self.choose) > 1:
            raise ValueError(f"evaluate: it chooses {len(self.choose)} models; evaluate what is made of them")
        if self.evaluates_files and not all(name.endswith(_FILES) for name in self.evaluate):
            raise ValueError("evaluate: domains or files, not both; a second stage may have the others")
        if not self.each and "{each}" in f"{self.options}{self.choose}{self.evaluate}":
            raise ValueError("{each} has no values: each is missing")

    @property
    def models(self) -> int:
        """Number of models that it leaves for later stages."""
        return max(len(self.each), 1) * max(len(self.choose), 1) if self.kind in ("fit", "fuse") else 0

    @property
    def makes_data(self) -> bool:
        """True for a stage whose result is a data folder."""
        return self.kind in ("prepare", "filter")

    @property
    def evaluates_files(self) -> bool:
        """True for benchmark files, false for domains."""
        return any(name.endswith(_FILES) for name in self.evaluate)


@dataclass(frozen=True)
class Recipe:
    """A recipe file, checked."""

    path: Path
    output: Path  # folder of all results
    model: str  # folder, hub name, or `nano`
    stages: tuple[Stage, ...]  # each after the ones it needs
    evaluation: Mapping[str, Any]  # options of `vibethinker evaluate`


def load_recipe(path: Path, output: Path | None = None) -> Recipe:
    """Reads and checks a recipe.

    Raises:
        FileNotFoundError, ValueError: one line that names the file, the stage and the key.
    """
    content = read_yaml(path)
    _check_keys(content, _RECIPE_KEYS, str(path))
    output = output or content.get("output")
    if output is None:
        raise ValueError(f"{path}: output is missing; name a folder there, or with --output")
    entries = content.get("stages")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: stages must be a list of one stage or more")
    stages: dict[str, Stage] = {}
    for number, entry in enumerate(entries, 1):
        entry = _mapping(entry, f"{path}: stage {number}")
        name = str(entry.get("name", ""))
        if not _NAME.fullmatch(name) or name in stages:
            raise ValueError(f"{path}: stage {number} needs a unique name of letters, digits, '-', '_', not {name!r}")
        _check_keys(entry, _STAGE_KEYS, f"{path}: stage {name!r}")
        try:
            stages[name] = _stage(path, name, entry, stages)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{path}: stage {name!r}: {error}") from None
    evaluation = _mapping(content.get("evaluation"), f"{path}: evaluation")
    for name in references(evaluation):
        if name not in stages or not stages[name].makes_data:
            raise ValueError(f"{path}: evaluation: {{{name}}}: no stage {name!r} makes data")
    return Recipe(path, Path(output), str(content.get("model", "nano")), tuple(stages.values()), evaluation)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, or one line that names the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return _mapping(content, str(path))


def references(value: Any) -> list[str]:
    """The names that stand in braces anywhere in a value, but `{each}`."""
    return [name for name in dict.fromkeys(_REFERENCE.findall(str(value))) if name != "each"]


def _stage(path: Path, name: str, entry: Mapping[str, Any], before: Mapping[str, Stage]) -> Stage:
    kinds = [kind for kind in _KINDS if entry.get(kind)]
    if len(kinds) > 1 and kinds[1] != "evaluate":
        raise ValueError(f"either {' or '.join(kind for kind in kinds if kind != 'evaluate')}")
    if not kinds:
        raise ValueError(f"nothing to do; it needs {', '.join(_KINDS[:-1])} or evaluate")
    kind = kinds[0]
    target = "" if kind == "evaluate" else str(entry[kind])
    stage = Stage(
        name=name,
        kind=kind,
        target=str(path.parent / target) if kind in ("fit", "prepare") else target,
        source=entry.get("from"),
        each=_texts(entry.get("each"), "each"),
        options=_mapping(entry.get("with"), "with"),
        choose=_texts(entry.get("choose"), "choose"),
        evaluate=_texts(entry.get("evaluate"), "evaluate"),
    )
    _check_references(stage, before)
    return stage


def _check_references(stage: Stage, before: Mapping[str, Stage]) -> None:
    """Checks that the stages it refers to come earlier and make what it takes."""
    for key, source in (("from", stage.source), ("fuse", stage.target if stage.kind == "fuse" else None)):
        if source is not None and (source not in before or not before[source].models):
            raise ValueError(f"{key}: no earlier stage {source!r} makes a model")
    if stage.source and before[stage.source].models > 1:
        raise ValueError(f"from: stage {stage.source!r} makes {before[stage.source].models} models; fuse them")
    for option, value in [*leaves(stage.options), ("data", stage.target if stage.kind == "filter" else "")]:
        for name in references(value):
            is_data = option.rpartition(".")[2] == "data"  # in other options, such as a file name, braces are no stage
            if (is_data or name in before) and not (name in before and before[name].makes_data):
                raise ValueError(f"{{{name}}}: no earlier stage {name!r} makes data")


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


def _check_keys(entry: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := [key for key in entry if key not in known]:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; there are {', '.join(known)}")
