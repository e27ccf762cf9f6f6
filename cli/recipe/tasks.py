"""What a recipe comes down to: commands, the order they need, and the record each leaves when it is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import vibethinker
from vibethinker.cli.recipe.definition import Recipe, Stage, read_yaml
from vibethinker.utils.atomic import write_atomic
from vibethinker.utils.provenance import Provenance, digest, file_digest, leaves

RECORD: Final = "stage.json"
LOG: Final = "log.txt"
EVALUATION: Final = "evaluation.json"
DATA: Final = "data"
_OF_SPLITS: Final = ("data", "split", "problems", "difficulty")  # options of an evaluation on domains
_INSIDE: Final = Path(vibethinker.__file__).parent


@dataclass(frozen=True)
class Task:
    """One command of a recipe.

    Attributes:
        name: of its folder below the output, such as `specialist/algebra/evaluation`.
        stage: it belongs to.
        kind: the command.
        output: of the recipe.
        options: of the command, without its models and places.
        needs: the tasks whose models it takes.
        data: the tasks whose data its options name.
        base: the model it takes when it needs none.
        config: of a fit, or of a preparation.
        choose: of a fit.
        places: what it filters, or the files it evaluates on.
    """

    name: str
    stage: str
    kind: Literal["prepare", "filter", "fit", "fuse", "evaluate"]
    output: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[Task, ...] = ()
    data: tuple[Task, ...] = ()
    base: str = ""
    config: Path | None = None
    choose: tuple[str, ...] = ()
    places: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.output / self.name

    @property
    def before(self) -> tuple[Task, ...]:
        """All tasks that have to be done first."""
        return (*self.needs, *self.data)

    # The command

    def command(self, models: Sequence[str]) -> list[str]:
        """As the user would type it."""
        if self.kind == "fit":
            places = ["--config", str(self.config), "--trainer.default_root_dir", str(self.folder)]
            options = [part for name, value in self.options.items() for part in (f"--{name}", _text(value))]
            return ["vibethinker", "fit", *places, "--model.model", models[0], *options]
        if self.kind == "fuse":
            return ["vibethinker", "fuse", *models, "--out", str(self.folder / "model"), *_flags(self.options)]
        if self.kind in ("prepare", "filter"):
            sources = [str(self.config)] if self.kind == "prepare" else [models[0], str(self.places[0])]
            return ["vibethinker", self.kind, *sources, "--out", str(self.folder / DATA), *_flags(self.options)]
        labels = ["--stage", self.stage, "--out", str(self.folder / EVALUATION)]
        return ["vibethinker", "evaluate", models[0], *self.places, *_flags(self.options), *labels]

    def inputs(self) -> list[str]:
        """The models it takes, as they are called on the command line."""
        return [str(self.output / model) for task in self.needs for model in task.made()] or [self.base]

    # The record

    def record(self) -> dict[str, Any] | None:
        """What the finished task has written about itself; `None` before."""
        file = self.folder / RECORD
        if not file.is_file():
            return None
        try:
            record: dict[str, Any] = json.loads(file.read_text("utf-8"))
            return {"model": record["model"], "provenance": record["provenance"], **record}
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{file}: damaged, or of another version of vibethinker: --redo {self.stage} makes it anew"
            ) from None

    def made(self) -> list[str]:
        """The model folders it leaves to later tasks, from the output folder."""
        record = self.record()
        if record is None:
            raise RuntimeError(f"{self.name} is not done yet")
        model = record["model"]
        return model if isinstance(model, list) else [model]

    def provenance(self) -> Provenance:
        """Everything that decides what it makes."""
        config = read_yaml(self.config) if self.config else {}
        named = {"model": self.base, **dict(leaves(config)), **self.options}
        named |= {f"{number}.data": path for number, path in enumerate(self.places)}
        options = {
            "kind": self.kind,
            "model": [model for task in self.needs for model in task.made()] or self.base,
            "options": {f"--{name}": value for name, value in self.options.items()},
            "config": config,
            "choose": self.choose,
            "places": self.places,
        }
        inputs = {f"stage {task.name}": digest(json.dumps((task.record() or {})["provenance"])) for task in self.before}
        return Provenance(options, dict(_contents(named)) | inputs)

    def is_done(self) -> bool:
        """True if it has finished, with these very options.

        Raises:
            ValueError: it has finished with others; names the first.
        """
        record = self.record()
        if record is None:
            return False
        if lost := [task.name for task in self.before if task.record() is None]:
            raise ValueError(f"stage {self.name} was made from {lost[0]}, which is not there: --redo {self.stage}")
        if difference := self.provenance().difference(Provenance(**record["provenance"])):
            raise ValueError(
                f"stage {self.name} was made with {difference}: "
                f"--redo {self.stage} to make it anew, or choose another --output"
            )
        return True

    def sign(self, provenance: Provenance, **metrics: Any) -> None:
        """Writes the record that makes it done.

        Args:
            provenance: from before it began: files may have changed since.
            metrics: further entries.
        """
        models = self._results()
        record = {
            "stage": self.stage,
            "command": self.command(self.inputs()),
            "model": models[0] if len(models) == 1 else models,
            **metrics,
            "provenance": asdict(provenance),
        }
        write_atomic(self.folder / RECORD, json.dumps(record, indent=1))

    def _results(self) -> list[str]:
        if self.kind == "evaluate":
            return []
        if self.kind in ("prepare", "filter"):
            if not (self.folder / DATA).is_dir():
                raise FileNotFoundError(f"{self.folder / DATA}: the stage has left no data")
            return []
        if self.kind == "fuse":
            return [f"{self.name}/model"]
        folders = ["checkpoints/last"]
        if self.choose:
            chosen = json.loads((self.folder / "chosen.json").read_text("utf-8"))
            if missing := [monitor for monitor in self.choose if monitor not in chosen]:
                there = ", ".join(chosen) or "nothing"
                raise ValueError(f"{self.config}: no ModelCheckpoint monitors {missing[0]!r}, only {there}")
            folders = [chosen[monitor] for monitor in self.choose]
        for folder in folders:
            if not (self.folder / folder / "config.json").is_file():
                raise FileNotFoundError(f"{self.folder / folder}: the chosen checkpoint has no model folder")
        return [f"{self.name}/{folder}" for folder in folders]

    def forget(self) -> None:
        """Removes it and what it made; the record first, so that half of it never counts as done."""
        (self.folder / RECORD).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def tasks_of(recipe: Recipe) -> list[Task]:
    """The tasks of a recipe, each after those it needs."""
    made: dict[str, list[Task]] = {}
    tasks: list[Task] = []
    for stage in recipe.stages:
        makers = list(_makers(recipe, stage, made))
        made[stage.name] = makers
        tasks += makers
        if stage.evaluate:
            judged = makers or made.get(stage.source or "", [])
            tasks += _evaluations(recipe, stage, judged, bool(makers), made)
    return tasks


def _makers(recipe: Recipe, stage: Stage, made: Mapping[str, list[Task]]) -> Iterator[Task]:
    for value in stage.each or ("",):
        task = Task(
            name=f"{stage.name}/{value}" if value else stage.name,
            stage=stage.name,
            kind="fit",
            output=recipe.output,
            options=_fill(dict(stage.options), value, made),
            needs=tuple(made[stage.source]) if stage.source else (),
            data=tuple(task for name in stage.references() for task in made.get(name, ())),
            base="" if stage.source else recipe.model,
        )
        if stage.prepare:
            yield replace(task, kind="prepare", config=stage.prepare, base="")
        elif stage.filter:
            yield replace(task, kind="filter", places=(_fill(stage.filter, value, made),))
        elif stage.fuse:
            yield replace(task, kind="fuse", needs=tuple(made[stage.fuse]), base="")
        elif stage.fit:
            yield replace(task, config=stage.fit, choose=tuple(_fill(list(stage.choose), value, made)))


def _evaluations(
    recipe: Recipe, stage: Stage, makers: Sequence[Task], below: bool, made: Mapping[str, list[Task]]
) -> Iterator[Task]:
    """One for each model; of a stage that makes none, in the stage's own folder."""
    named = [name for name, tasks in made.items() if tasks and f"{{{name}}}" in str(recipe.evaluation)]
    for index, maker in enumerate(makers or [None]):
        value = stage.each[index] if stage.each else ""
        options = _fill(dict(recipe.evaluation), value, made)
        asked = _fill(list(stage.evaluate), value, made)
        if stage.evaluates_files:
            options = {name: option for name, option in options.items() if name not in _OF_SPLITS}
        yield Task(
            name=f"{maker.name}/evaluation" if maker and below else stage.name,
            stage=stage.name,
            kind="evaluate",
            output=recipe.output,
            options=options if stage.evaluates_files else {"domains": asked, **options},
            needs=(maker,) if maker else (),
            data=() if stage.evaluates_files else tuple(task for name in named for task in made[name]),
            base="" if maker else recipe.model,
            places=tuple(asked) if stage.evaluates_files else (),
        )


def _fill(value: Any, each: str, made: Mapping[str, list[Task]]) -> Any:
    """`{each}` and the `{stage}` of data, wherever they stand."""
    if isinstance(value, list):
        return [_fill(item, each, made) for item in value]
    if isinstance(value, Mapping):
        return {name: _fill(item, each, made) for name, item in value.items()}
    if not isinstance(value, str):
        return value
    for name, tasks in made.items():
        if f"{{{name}}}" in value:
            value = value.replace(f"{{{name}}}", str(tasks[0].folder / DATA))
    return value.replace("{each}", each)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _flags(options: Mapping[str, Any]) -> Iterator[str]:
    """argparse's way: `--k 1 8`, `--distinct`, `--no-distinct`."""
    for name, value in options.items():
        name = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no-{name}"
        else:
            yield f"--{name}"
            yield from (map(_text, value) if isinstance(value, list) else [_text(value)])


def _contents(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The model, every folder of data and every file that is named, with a hash of what is in it.

    Of models only the base counts: a configuration's own gives way to the command line's.
    """
    for option, value in options.items():
        if not isinstance(value, str) or not value or "\n" in value or option.endswith(".model"):
            continue
        path = _INSIDE / "nano" if value == "nano" and not Path(value).exists() else Path(value)
        holds = path.is_dir() and option.rpartition(".")[2] in ("model", "data")
        for file in sorted(path.iterdir()) if holds else [path]:
            if file.is_file():
                yield f"{value}/{file.name}" if holds else value, file_digest(file)
