"""`vibethinker fit|validate|test|predict`: LightningCLI over this library's modules, data modules and callbacks.

`--trainer.default_root_dir` is the run folder: `config.yaml`, TensorBoard's events, and `checkpoints/`. The same
command again resumes from `checkpoints/last.ckpt`; with other options it is an error.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import torch
import transformers
import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

import vibethinker.grpo
import vibethinker.sft  # noqa: F401  # short class names are those of imported classes
from vibethinker.callbacks import HuggingFaceExport, Progress
from vibethinker.cli.quiet import hush
from vibethinker.datamodules import DomainDataModule
from vibethinker.training.checkpoint import (
    LastCheckpoint,
    last_checkpoint,
    leave_last_checkpoint,
    model_folder,
    record_chosen,
)
from vibethinker.training.options import replacement
from vibethinker.training.policy_module import PolicyModule
from vibethinker.utils.atomic import locked, write_atomic
from vibethinker.utils.provenance import Provenance, leaves

DEFAULT_ROOT: Final = "runs/default"
CONFIG: Final = "config.yaml"
# What decides the weights a run ends with; anything else may change between two attempts.
_DECISIVE: Final = (
    *("model", "data", "seed_everything", "trainer.max_steps", "trainer.max_epochs", "trainer.precision"),
    *("trainer.gradient_clip_val", "trainer.gradient_clip_algorithm"),
)
_HARMLESS: Final = ("slots", "cache_gib", "row_tokens", "gradient_checkpointing", "fused_kernels", "compile")
_OPTION_OF_THE_MODEL: Final = re.compile(  # which is not accepted, and not one of a class within
    r"\A(?:(?!Problem with).)*Problem with given class_path '[^']+':\s+Option '(\w+)' is not accepted", re.DOTALL
)


class SaveConfig(SaveConfigCallback):
    """Saves the options of a fit in its run folder, atomically."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes `config.yaml`."""
        if stage == "fit":
            write_atomic(Path(trainer.default_root_dir) / CONFIG, _dump(self.parser, self.config))


class VibeThinkerCLI(LightningCLI):
    """LightningCLI with one run folder: resumed by default, with a progress bar and a checkpoint to resume from."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds `--progress.*`, `--resume.*` and `--dry_run`."""
        parser.add_lightning_class_args(Progress, "progress")
        parser.add_lightning_class_args(LastCheckpoint, "resume")
        parser.add_argument(
            "--dry_run",
            type=float | None,
            nargs="?",
            const=0.0,
            default=None,
            metavar="GIB",
            help="only print what is trained, the memory it needs, and what to change if the GPU (or GIB) has less",
        )

    def instantiate_classes(self) -> None:
        """Instantiates everything, or for a dry run the model alone, without its weights."""
        if self.subcommand == "fit" and self.config.fit.dry_run is not None:
            from vibethinker.cli.dry_run import describe

            config = self.config.fit
            with torch.device("meta"):
                model = self._parser("fit").instantiate_classes(Namespace(model=config.model)).model
            describe(model, config, config.dry_run)
            raise SystemExit(0)
        super().instantiate_classes()

    def before_instantiate_classes(self) -> None:
        """Checks that the options are those that the run in the folder began with."""
        if self.subcommand != "fit":
            return
        root = Path(self.config.fit.trainer.default_root_dir)
        if not (root / CONFIG).is_file() or not last_checkpoint(root).exists():
            return
        earlier = yaml.safe_load((root / CONFIG).read_text("utf-8"))
        if moved := replacement(earlier["model"].get("init_args") or ()):
            raise ValueError(
                f"{root} holds a run of an older version, {moved}: choose another trainer.default_root_dir"
            )
        now = yaml.safe_load(_dump(self._parser("fit"), self.config.fit))
        if difference := Provenance(_decisive(now)).difference(Provenance(_decisive(earlier))):
            raise ValueError(
                f"{root} holds a run with {difference}: use the old value, or choose another trainer.default_root_dir"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds TensorBoard and `HuggingFaceExport`, and leaves out callbacks that the configuration rules out."""
        config = self._get(self.config_init, "trainer")
        if config.logger in (None, True):
            fitting = self.subcommand == "fit"
            kwargs["logger"] = fitting and TensorBoardLogger(config.default_root_dir, name="", version="")
        callbacks = (
            config.callbacks if isinstance(config.callbacks, list) else [config.callbacks] if config.callbacks else []
        )
        keys = self._parser(self.subcommand).callback_keys
        if config.enable_progress_bar is False or any(isinstance(c, ProgressBar) for c in callbacks):
            keys.remove("progress")
        if config.enable_checkpointing is False:
            keys.remove("resume")
        elif not any(isinstance(c, HuggingFaceExport) for c in callbacks):
            kwargs["callbacks"] = [*callbacks, HuggingFaceExport()]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Sets up data and model, so that their errors come before anything is written."""
        self.trainer.datamodule = self.datamodule  # type: ignore[attr-defined]
        for part in (self.datamodule, self.model):
            part.trainer = self.trainer
            part.setup("fit")
        transformers.utils.logging.disable_progress_bar()  # its bars for saving would break ours
        leave_last_checkpoint(self.trainer)

    def fit(self, ckpt_path: str | None, weights_only: bool | None, **options: Any) -> None:
        """Resumes from the last checkpoint of the run folder unless another one is given."""
        root = Path(self.trainer.default_root_dir)
        alone = locked(root, f"{root}: another fit is running there") if self.trainer.is_global_zero else nullcontext()
        with alone:
            if ckpt_path in (None, "last"):
                ckpt_path = str(last_checkpoint(root)) if last_checkpoint(root).is_file() else None
            if ckpt_path is not None:
                rank_zero_only(print)(f"resuming from {ckpt_path}", flush=True)
            self.trainer.fit(ckpt_path=ckpt_path, weights_only=weights_only is not False, **options)

    def after_fit(self) -> None:
        """Records the best model of every `ModelCheckpoint`, and prints where the models are."""
        if not self.trainer.is_global_zero or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        chosen = record_chosen(self.trainer)
        if (last := model_folder(last_checkpoint(self.trainer.default_root_dir))).is_dir():
            print(f"model of step {self.trainer.global_step}: {last}")
        for monitor, folder in chosen.items():
            print(f"best {monitor}: {folder}", flush=True)

    def before_validate(self) -> None:
        """Checks that there is a batch to validate on."""
        if not self.trainer.limit_val_batches:
            raise ValueError("trainer.limit_val_batches is 0: there is nothing to validate")

    def before_predict(self) -> None:
        """Warns where the completions would be lost."""
        if not any(isinstance(callback, BasePredictionWriter) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            rank_zero_warn(
                "predict hands completions to callbacks alone, and trainer.callbacks has no BasePredictionWriter; "
                "`vibethinker evaluate` keeps them"
            )


def _dump(parser: LightningArgumentParser, config: Namespace) -> str:
    return str(parser.dump(config, skip_unset=False, format="yaml"))


def _decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide the weights, named as on the command line."""
    options = {option.replace(".init_args", ""): value for option, value in leaves(config)}
    return {
        option: value
        for option, value in options.items()
        if any(option == key or option.startswith(f"{key}.") for key in _DECISIVE)
        and not (option.startswith("model.") and option.rpartition(".")[2] in _HARMLESS)
    }


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The complete configuration of a command line; instantiates nothing."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        run([*arguments, "--print_config"])
    config: dict[str, Any] = yaml.safe_load(text.getvalue())
    return config


@contextmanager
def _honest_exit() -> Iterator[None]:
    """Exits with 143 after SIGTERM: Lightning exits with 0, which a recipe and a shell would take for success."""
    try:
        yield
    except SIGTERMException:
        print("vibethinker: terminated", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM) from None
    except argparse.ArgumentError as error:
        if line := replacement(_OPTION_OF_THE_MODEL.findall(str(error))):
            raise argparse.ArgumentError(None, line) from error
        raise
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


def run(arguments: Sequence[str]) -> VibeThinkerCLI:
    """Parses and runs one of LightningCLI's subcommands."""
    hush()
    options = {"exit_on_error": False}
    command = arguments[0]

    class OneCommand(VibeThinkerCLI):  # building the parsers of the other three takes half a second
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {command: LightningCLI.subcommands()[command]}

    with _honest_exit():
        return OneCommand(
            PolicyModule,
            DomainDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults={
                "default_root_dir": DEFAULT_ROOT,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
            },
            parser_kwargs={**options, command: dict(options)},
            args=list(arguments),
        )
