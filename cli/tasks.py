"""What a recipe comes down to: commands, the order they need, and the record each leaves when it is done."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import vibethinker
from vibethinker.cli.options import first_difference, leaves
from vibethinker.cli.recipe import Recipe, Stage, read_yaml
from vibethinker.files import write_atomic

RECORD: Final = "stage.json"
LOG: Final = "log.txt"
EVALUATION: Final = "evaluation.json"
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
        base: the model it takes when it needs none.
        config: of a fit.
        choose: of a fit.
    """

    name: str
    stage: str
    kind: Literal["fit", "fuse", "evaluate"]
    output: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[Task, ...] = ()
    base: str = ""
    config: Path | None = None
    choose: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.output / self.name

    # The command

    def command(self, models: Sequence[str]) -> list[str]:
        """As the user would type it."""
        if self.kind == "fit":
            places = ["--config", str(self.config), "--trainer.default_root_dir", str(self.folder)]
            options = [part for name, value in self.options.items() for part in (f"--{name}", _text(value))]
            return ["vibethinker", "fit", *places, "--model.model", models[0], *options]
        if self.kind == "fuse":
            return ["vibethinker", "fuse", *models, "--out", str(self.folder / "model"), *_flags(self.options)]
        labels = ["--stage", self.stage, "--out", str(self.folder / EVALUATION)]
        return ["vibethinker", "evaluate", models[0], *_flags(self.options), *labels]

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
            return {"model": record["model"], "fingerprint": record["fingerprint"], **record}
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{file}: not a record of a stage") from None

    def made(self) -> list[str]:
        """The model folders it leaves to later tasks, from the output folder."""
        record = self.record()
        if record is None:
            raise RuntimeError(f"{self.name} is not done yet")
        model = record["model"]
        return model if isinstance(model, list) else [model]

    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides what it makes, option by option so that a difference can be named."""
        config = read_yaml(self.config) if self.config else {}
        named = {"model": self.base, **dict(leaves(config)), **self.options}
        parts = {
            "kind": self.kind,
            "model": [model for task in self.needs for model in task.made()] or self.base,
            "options": {f"--{name}": value for name, value in self.options.items()},
            "config": config,
            "choose": list(self.choose),
            "contents": dict(_contents(named)),
            "inputs": {task.name: _digest(json.dumps((task.record() or {})["fingerprint"])) for task in self.needs},
        }
        plain: dict[str, Any] = json.loads(json.dumps(parts, default=str, sort_keys=True))
        return plain

    def is_done(self) -> bool:
        """Whether it has finished, with these very options.

        Raises:
            ValueError: it has finished with others; names the first.
        """
        record = self.record()
        if record is None:
            return False
        if lost := [task.name for task in self.needs if task.record() is None]:
            raise ValueError(f"stage {self.name} was made from {lost[0]}, which is not there: --redo {self.stage}")
        if difference := first_difference(record["fingerprint"], self.fingerprint()):
            option, was, now = difference
            raise ValueError(
                f"stage {self.name} was made with {option}={was!r}, now it is {now!r}: "
                f"--redo {self.stage} to make it anew, or choose another --output"
            )
        return True

    def sign(self, fingerprint: Mapping[str, Any], **figures: Any) -> None:
        """Writes the record that makes it done.

        Args:
            fingerprint: from before it began: files may have changed since.
            figures: further entries.
        """
        models = self._results()
        record = {
            "stage": self.stage,
            "command": self.command(self.inputs()),
            "model": models[0] if len(models) == 1 else models,
            **figures,
            "fingerprint": fingerprint,
        }
        write_atomic(self.folder / RECORD, json.dumps(record, indent=1))

    def _results(self) -> list[str]:
        if self.kind == "evaluate":
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
            tasks += _evaluations(recipe, stage, makers or made.get(stage.source or "", []), bool(makers))
    return tasks


def _makers(recipe: Recipe, stage: Stage, made: Mapping[str, list[Task]]) -> Iterator[Task]:
    if stage.fuse:
        needs = tuple(made[stage.fuse])
        yield Task(stage.name, stage.name, "fuse", recipe.output, stage.options, needs)
    elif stage.fit:
        for value in stage.each or ("",):
            yield Task(
                name=f"{stage.name}/{value}" if value else stage.name,
                stage=stage.name,
                kind="fit",
                output=recipe.output,
                options={name: _fill(option, value) for name, option in stage.options.items()},
                needs=tuple(made[stage.source]) if stage.source else (),
                base="" if stage.source else recipe.model,
                config=stage.fit,
                choose=tuple(_fill(list(stage.choose), value)),
            )


def _evaluations(recipe: Recipe, stage: Stage, makers: Sequence[Task], below: bool) -> Iterator[Task]:
    """One for each model; of a stage that makes none, in the stage's own folder."""
    for index, maker in enumerate(makers or [None]):
        value = stage.each[index] if stage.each else ""
        yield Task(
            name=f"{maker.name}/evaluation" if maker and below else stage.name,
            stage=stage.name,
            kind="evaluate",
            output=recipe.output,
            options={"domains": _fill(list(stage.evaluate), value), **recipe.evaluation},
            needs=(maker,) if maker else (),
            base="" if maker else recipe.model,
        )


def _fill(value: Any, each: str) -> Any:
    if isinstance(value, list):
        return [_fill(item, each) for item in value]
    return value.replace("{each}", each) if isinstance(value, str) else value


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
                with file.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                yield f"{value}/{file.name}" if holds else value, digest[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
