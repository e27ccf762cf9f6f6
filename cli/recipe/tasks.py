"""Tasks: the commands of a recipe, the order they need, and the record that each leaves when it is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import vibethinker
from vibethinker.cli.recipe.definition import Kind, Recipe, Stage, read_yaml, references
from vibethinker.utils.atomic import write_atomic
from vibethinker.utils.provenance import Provenance, digest, file_digest, leaves

RECORD: Final = "stage.json"
LOG: Final = "log.txt"
EVALUATION: Final = "evaluation.json"
DATA: Final = "data"
_OUT: Final = {"prepare": DATA, "filter": DATA, "fuse": "model", "evaluate": EVALUATION}
_OF_SPLITS: Final = ("data", "split", "problems", "difficulty")  # options of an evaluation on domains
_PACKAGE: Final = Path(vibethinker.__file__).parent


@dataclass(frozen=True)
class Task:
    """One command of a recipe."""

    name: str  # of its folder below the output, such as `specialist/algebra/evaluation`
    stage: str  # name of its stage
    kind: Kind  # the command
    output: Path  # output folder of the recipe
    options: Mapping[str, Any] = field(default_factory=dict)  # of the command, without models, inputs and output
    inputs: tuple[str, ...] = ()  # configuration of a fit or a preparation, data to filter, or files to evaluate on
    needs: tuple[Task, ...] = ()  # the tasks whose models it takes
    data: tuple[Task, ...] = ()  # the tasks whose data its options name
    base: str = ""  # the model it takes when it needs none
    choose: tuple[str, ...] = ()  # metrics that choose the models of a fit

    @property
    def folder(self) -> Path:
        """Folder of its results."""
        return self.output / self.name

    @property
    def before(self) -> tuple[Task, ...]:
        """All tasks that have to be done first."""
        return (*self.needs, *self.data)

    # The command

    def command(self, models: Sequence[str]) -> list[str]:
        """The command line, as a user would type it."""
        if self.kind == "fit":
            paths = {"config": self.inputs[0], "trainer.default_root_dir": str(self.folder), "model.model": models[0]}
            options = {**paths, **self.options}.items()
            return ["vibethinker", "fit", *(part for name, value in options for part in (f"--{name}", _text(value)))]
        options = {"out": str(self.folder / _OUT[self.kind]), **self.options}.items()
        return ["vibethinker", self.kind, *models, *self.inputs, *(part for item in options for part in _flag(*item))]

    def models(self) -> list[str]:
        """The models it takes, as they are called on the command line."""
        made = [str(self.output / model) for task in self.needs for model in task.made()]
        return made or [self.base] * bool(self.base)

    # The record

    def record(self) -> dict[str, Any] | None:
        """The record that the finished task has written; `None` before.

        Raises:
            ValueError: it is damaged, or of an earlier version of this library.
        """
        file = self.folder / RECORD
        if not file.is_file():
            return None
        try:
            record: dict[str, Any] = json.loads(file.read_text("utf-8"))
            return {"model": record["model"], "provenance": record["provenance"], **record}
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{file}: damaged, or of another version of vibethinker; --redo {self.stage} runs it again"
            ) from None

    def made(self) -> list[str]:
        """The model folders it leaves to later tasks, relative to the output folder."""
        record = self.record()
        if record is None:
            raise RuntimeError(f"{self.name} is not done yet")
        model = record["model"]
        return model if isinstance(model, list) else [model]

    def provenance(self) -> Provenance:
        """Everything that decides its result."""
        configured = self.kind in ("fit", "prepare")  # the options in their input count, not its comments or its path
        config = read_yaml(Path(self.inputs[0])) if configured else {}
        inputs = () if configured else self.inputs
        paths = {"model": self.base, **dict(leaves(config)), **self.options}
        paths |= {f"{number}.data": path for number, path in enumerate(inputs)}
        options = {
            "kind": self.kind,
            "model": [model for task in self.needs for model in task.made()] or self.base,
            "options": {f"--{name}": value for name, value in self.options.items()},
            "config": config,
            "choose": self.choose,
            "inputs": inputs,
        }
        stages = {f"stage {task.name}": digest(json.dumps((task.record() or {})["provenance"])) for task in self.before}
        return Provenance(options, dict(_contents(paths)) | stages)

    def is_done(self) -> bool:
        """True if it has finished, with these very options.

        Raises:
            ValueError: it has finished with others; names the first.
        """
        record = self.record()
        if record is None:
            return False
        if lost := [task.name for task in self.before if task.record() is None]:
            raise ValueError(f"stage {self.name} was made from {lost[0]}, which is gone: --redo {self.stage}")
        if difference := self.provenance().difference(Provenance(**record["provenance"])):
            raise ValueError(
                f"stage {self.name} was made with {difference}: "
                f"--redo {self.stage} to run it again, or choose another --output"
            )
        return True

    def sign(self, provenance: Provenance, **metrics: Any) -> None:
        """Writes the record that makes it done, with its provenance from before it began: files may have changed since.

        Raises:
            FileNotFoundError, ValueError: the command has not left what it should have.
        """
        models = self._results()
        record = {
            "stage": self.stage,
            "command": self.command(self.models()),
            "model": models[0] if len(models) == 1 else models,
            **metrics,
            "provenance": asdict(provenance),
        }
        write_atomic(self.folder / RECORD, json.dumps(record, indent=1))

    def _results(self) -> list[str]:
        if self.kind == "fuse":
            return [f"{self.name}/model"]
        if self.kind != "fit":
            if self.kind != "evaluate" and not (self.folder / DATA).is_dir():
                raise FileNotFoundError(f"{self.folder / DATA}: the stage has left no data")
            return []
        folders = ["checkpoints/last"]
        if self.choose:
            chosen = json.loads((self.folder / "chosen.json").read_text("utf-8"))
            if missing := [monitor for monitor in self.choose if monitor not in chosen]:
                there = ", ".join(chosen) or "nothing"
                raise ValueError(f"{self.inputs[0]}: no ModelCheckpoint monitors {missing[0]!r}, only {there}")
            folders = [chosen[monitor] for monitor in self.choose]
        for folder in folders:
            if not (self.folder / folder / "config.json").is_file():
                raise FileNotFoundError(f"{self.folder / folder}: the chosen checkpoint has no model folder")
        return [f"{self.name}/{folder}" for folder in folders]

    def forget(self) -> None:
        """Removes it and its results; the record first, so that half of it never counts as done."""
        (self.folder / RECORD).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def tasks_of(recipe: Recipe) -> list[Task]:
    """The tasks of a recipe, each after those it needs."""
    made: dict[str, list[Task]] = {}
    tasks: list[Task] = []
    for stage in recipe.stages:
        makers = list(_makers(recipe, stage, made)) if stage.kind != "evaluate" else []
        made[stage.name] = makers
        tasks += makers
        if stage.evaluate:
            tasks += _evaluations(recipe, stage, makers or made.get(stage.source or "", []), made)
    return tasks


def _makers(recipe: Recipe, stage: Stage, made: Mapping[str, list[Task]]) -> Iterator[Task]:
    named = references([stage.options, stage.target])
    sources = made.get(stage.target if stage.kind == "fuse" else stage.source or "", [])
    for value in stage.each or ("",):
        yield Task(
            name=f"{stage.name}/{value}" if value else stage.name,
            stage=stage.name,
            kind=stage.kind,
            output=recipe.output,
            options=_fill(stage.options, value, made),
            inputs=() if stage.kind == "fuse" else (_fill(stage.target, value, made),),
            needs=tuple(sources),
            data=tuple(task for name in named for task in made.get(name, ())),
            base="" if sources or stage.kind == "prepare" else recipe.model,
            choose=tuple(_fill(stage.choose, value, made)),
        )


def _evaluations(
    recipe: Recipe, stage: Stage, evaluated: Sequence[Task], made: Mapping[str, list[Task]]
) -> Iterator[Task]:
    """One for each model; that of a stage that makes none is in the stage's own folder."""
    for index, maker in enumerate(evaluated or [None]):
        value = stage.each[index] if stage.each else ""
        options = _fill(recipe.evaluation, value, made)
        targets = _fill(stage.evaluate, value, made)
        if stage.evaluates_files:
            options = {name: option for name, option in options.items() if name not in _OF_SPLITS}
        else:
            options = {"domains": targets, **options}
        data = () if stage.evaluates_files else references(recipe.evaluation)
        yield Task(
            name=stage.name if maker is None or stage.kind == "evaluate" else f"{maker.name}/evaluation",
            stage=stage.name,
            kind="evaluate",
            output=recipe.output,
            options={**options, "stage": stage.name},
            inputs=tuple(targets) if stage.evaluates_files else (),
            needs=(maker,) if maker else (),
            data=tuple(task for name in data for task in made.get(name, ())),
            base="" if maker else recipe.model,
        )


def _fill(value: Any, each: str, made: Mapping[str, list[Task]]) -> Any:
    """Replaces `{each}`, and the `{stage}` of data by its folder, wherever they stand in the texts of a value."""
    names = {"each": each, **{name: str(tasks[0].folder / DATA) for name, tasks in made.items() if tasks}}
    text = json.dumps(value, default=str)
    for name, replacement in names.items():
        text = text.replace(f"{{{name}}}", json.dumps(replacement)[1:-1])
    return json.loads(text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _flag(name: str, value: Any) -> list[str]:
    """One option in argparse's form: `--k 1 8`, `--distinct`, `--no-distinct`."""
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *map(_text, value if isinstance(value, list) else [value])]


def _contents(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Digest of each file of the model and of data folders, and of every other file that an option names."""
    for option, value in options.items():
        if not isinstance(value, str) or not value or "\n" in value or option.endswith(".model"):
            continue  # of models only the base counts: the command line's replaces a configuration's own
        path = _PACKAGE / "nano" if value == "nano" and not Path(value).exists() else Path(value)
        is_folder = path.is_dir() and option.rpartition(".")[2] in ("model", "data")
        for file in sorted(path.iterdir()) if is_folder else [path]:
            if file.is_file():
                yield f"{value}/{file.name}" if is_folder else value, file_digest(file)
