"""The Pass@K diversity probe that checkpoints are chosen by (arXiv 2511.06221, section 3.3)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from vibethinker.callbacks.progress import Progress
from vibethinker.datamodules.loaders import chunk
from vibethinker.evaluation.grading import check_prompts
from vibethinker.evaluation.summary import distinct_counts
from vibethinker.metrics.functional import paired_difference, pass_at_k, standard_error
from vibethinker.models.prompts import prompt_ids
from vibethinker.problems import Problem
from vibethinker.rollout import Sampling
from vibethinker.training.policy_module import PolicyModule
from vibethinker.training.protocols import HeldOutData
from vibethinker.utils.atomic import write_atomic
from vibethinker.utils.provenance import Provenance, digest
from vibethinker.utils.seeding import stable_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD = "probe.json"
PREFIX = "probe/"
MEAN = "mean"  # the group of all problems, where there are several domains


class DiversityProbe(Callback):
    r"""Measures Pass@K of the live weights on held-out problems whenever a checkpoint is due.

    Logs for each domain, and for all problems together under `mean` where there are several domains:
    `probe/<domain>/pass@<k>`, `pass@1`, `distinct_solutions` (mean number of a problem's different correct solutions,
    every step checked, or correct programs) and `standard_error` (of pass@k, over problems); from the second probe on
    also `gain_low` and `gain_high`, the 95% interval of the paired difference in pass@k to the best checkpoint so far.

    Problems and seeds are the same every time, so checkpoints differ by their weights alone. The probe runs after the
    optimizer step and before a `ModelCheckpoint(monitor="probe/<domain>/pass@<k>", mode="max", every_n_train_steps=…)`
    saves. Steps that are no multiple of `every_n_steps`, the last one included, are not probed, just as
    `ModelCheckpoint` does not save there. Of checkpoints that tie, the earliest is kept.

    Args:
        every_n_steps: optimizer steps between probes; a `ModelCheckpoint` saves at a multiple of it.
        problems: number of problems from the data module's probe set, over all domains; at most what it has.
        n: samples of each problem.
        k: samples that Pass@K allows, at most `n`.
        temperature: of sampling.
        top_p: of sampling.
        max_new_tokens: longest completion; the model's own setting by default.
        seed: of the samples.

    Raises:
        ValueError: here if k > n; at setup if the data has no probe set, a prompt is too long, or a `ModelCheckpoint`
            monitors what the probe does not log when it saves.
    """

    def __init__(
        self,
        every_n_steps: int,
        problems: int = 64,
        n: int = 16,
        k: int = 8,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ):
        for name, value in (("every_n_steps", every_n_steps), ("problems", problems), ("n", n), ("k", k)):
            if value < 1:
                raise ValueError(f"DiversityProbe: {name} must be at least 1, got {value}")
        if k > n:
            raise ValueError(f"DiversityProbe: k={k} needs at least as many samples of each problem, got n={n}")
        Sampling(temperature=temperature, top_p=top_p)  # checks the two
        self.every_n_steps, self.count, self.n, self.k, self.seed = every_n_steps, problems, n, k, seed
        self.temperature, self.top_p, self.max_new_tokens = temperature, top_p, max_new_tokens
        self.problems: list[Problem] = []
        self.checkpoints: list[dict[str, Any]] = []
        self._sampling = Sampling()

    # Before training

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes the problems from the data module and checks them and the checkpoint callbacks."""
        if stage != "fit":
            return
        if not isinstance(pl_module, PolicyModule):
            raise ValueError(f"DiversityProbe needs a PolicyModule to sample from, not {type(pl_module).__name__}")
        if not isinstance(trainer.datamodule, HeldOutData):  # type: ignore[attr-defined]
            raise ValueError("DiversityProbe needs a data module with problems('probe'), such as DomainDataModule")
        self.problems = list(trainer.datamodule.problems("probe"))[: self.count]  # type: ignore[attr-defined]
        self._sampling = Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.max_new_tokens or pl_module.sampling.max_new_tokens,
        )
        prompts = prompt_ids(pl_module.tokenizer, self.problems, pl_module.instruction)
        check_prompts(self.problems, prompts, pl_module.max_length, self._sampling.max_new_tokens)
        self._check_monitors(trainer)

    def _check_monitors(self, trainer: pl.Trainer) -> None:
        if not trainer.fast_dev_run and 0 < trainer.max_steps < self.every_n_steps:  # type: ignore[attr-defined]
            raise ValueError(f"every_n_steps={self.every_n_steps} is never reached: max_steps={trainer.max_steps}")
        keys = self.keys
        for checkpoint in trainer.checkpoint_callbacks:
            monitor = getattr(checkpoint, "monitor", None)
            if not isinstance(checkpoint, ModelCheckpoint) or monitor is None or not monitor.startswith(PREFIX):
                continue
            if monitor not in keys:
                raise ValueError(f"ModelCheckpoint monitors {monitor!r}; the probe logs {', '.join(keys)}")
            if checkpoint.mode != "max" and not monitor.endswith("standard_error"):
                raise ValueError(f"ModelCheckpoint(monitor={monitor!r}) would keep the worst: set mode='max'")
            steps = checkpoint._every_n_train_steps
            if steps == 0 or steps % self.every_n_steps:
                raise ValueError(
                    f"ModelCheckpoint(monitor={monitor!r}): every_n_train_steps must be a multiple of the probe's "
                    f"every_n_steps={self.every_n_steps}, got {steps or None}"
                )

    @property
    def groups(self) -> dict[str, list[int]]:
        """Indices of each domain's problems, and of all under `mean` where there are several domains."""
        groups: dict[str, list[int]] = {}
        for index, problem in enumerate(self.problems):
            groups.setdefault(problem.domain, []).append(index)
        return groups if len(groups) == 1 else {**groups, MEAN: list(range(len(self.problems)))}

    @property
    def keys(self) -> list[str]:
        """The names that every probe logs."""
        names = dict.fromkeys((f"pass@{self.k}", "pass@1", "distinct_solutions", "standard_error"))
        return [f"{PREFIX}{group}/{name}" for group in self.groups for name in names]

    # At a checkpoint

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Probes if a checkpoint is due at this step."""
        step = trainer.global_step
        if step == 0 or step % self.every_n_steps or (self.checkpoints and self.checkpoints[-1]["step"] >= step):
            return
        assert isinstance(pl_module, PolicyModule)
        solved, distinct = self.measure(pl_module).T.tolist()
        metrics = {group: self.metrics(own, group, solved, distinct) for group, own in self.groups.items()}
        self.checkpoints.append({"step": step, "solved": solved, "distinct": distinct, "figures": metrics})
        values = {f"{PREFIX}{g}/{name}": value for g, named in metrics.items() for name, value in named.items()}
        for name, value in values.items():
            pl_module.log(name, value, logger=False)  # loggers would skip it between multiples of log_every_n_steps
        for logger in trainer.loggers:
            logger.log_metrics(values, step)
        folder = trainer.log_dir or trainer.default_root_dir  # a collective call
        if trainer.is_global_zero:
            write_atomic(Path(folder) / RECORD, json.dumps(self.record))
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    figure = diversity_figure(self.record)
                    logger.experiment.add_figure(f"probe/pass@{self.k} over checkpoints", figure, step)
        if isinstance(trainer.progress_bar_callback, Progress):
            trainer.progress_bar_callback.announce(trainer)

    def measure(self, module: PolicyModule) -> torch.Tensor:
        """int64 [P, 2]: correct samples and distinct correct solutions of each problem, over all ranks."""
        trainer = module.trainer
        own = chunk(len(self.problems), trainer.global_rank, trainer.world_size)
        problems = self.problems[own.start : own.stop]
        bar = trainer.progress_bar_callback
        samples = module.sample_and_grade(
            problems,
            self.n,
            [stable_seed(self.seed, p.id) for p in problems],
            sampling=self._sampling,
            progress=(lambda done, total: bar.show("probe", done, total)) if isinstance(bar, Progress) else None,
        )
        counts = torch.zeros(len(self.problems), 2, dtype=torch.long)
        distinct = torch.tensor(distinct_counts(samples), dtype=torch.long)
        counts[own.start : own.stop] = torch.stack([samples.correct.sum(1), distinct], 1)
        return module.all_reduce_sum(counts)  # the other ranks' rows are zero; a rank may have no problem at all

    def metrics(self, own: Sequence[int], group: str, solved: list[int], distinct: list[int]) -> dict[str, float]:
        """The metrics of one group of problems.

        Args:
            own: indices of the group's problems.
            group: its name.
            solved: number of correct samples of every problem.
            distinct: number of distinct correct solutions of every problem.
        """
        now = self._pass_at_k(solved, own, self.k)
        metrics = {
            f"pass@{self.k}": float(np.mean(now)),
            "pass@1": float(np.mean(self._pass_at_k(solved, own, 1))),
            "distinct_solutions": float(np.mean([distinct[i] for i in own])),
            "standard_error": standard_error(now) or 0.0,
        }
        if (best := best_checkpoint(self.checkpoints, group, self.k)) is not None:
            gain = paired_difference(now, self._pass_at_k(best["solved"], own, self.k))
            metrics |= {"gain_low": gain.low, "gain_high": gain.high}
        return metrics

    def _pass_at_k(self, solved: Sequence[int], own: Sequence[int], k: int) -> list[float]:
        return [pass_at_k(self.n, solved[i], k) for i in own]

    @property
    def record(self) -> dict[str, Any]:
        """Everything measured so far, the content of `probe.json`."""
        problems = {"id": [p.id for p in self.problems], "domain": [p.domain for p in self.problems]}
        return {"k": self.k, "n": self.n, "problems": problems, "checkpoints": self.checkpoints}

    # Resume

    def state_dict(self) -> dict[str, Any]:
        """The measurements so far, with the options that they depend on."""
        return {"setting": self._setting, "checkpoints": self.checkpoints}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the measurements of a checkpoint that was probed with the same options and problems."""
        difference = self._provenance(self._setting).difference(self._provenance(state_dict["setting"]))
        if self.problems and difference:
            raise ValueError(f"DiversityProbe: the checkpoint was made with {difference}; resume with the old value")
        self.checkpoints = list(state_dict["checkpoints"])

    @property
    def _setting(self) -> dict[str, Any]:
        numbers = {"k": self.k, "n": self.n, "seed": self.seed, "every_n_steps": self.every_n_steps}
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "max_new_tokens": self.max_new_tokens}
        return {**numbers, **sampling, "problems": [p.id for p in self.problems]}

    @staticmethod
    def _provenance(setting: Mapping[str, Any]) -> Provenance:
        options = {name: value for name, value in setting.items() if name != "problems"}
        return Provenance(options, {"the probe problems": digest(json.dumps(setting["problems"]))})


def best_checkpoint(checkpoints: Sequence[dict[str, Any]], group: str, k: int) -> dict[str, Any] | None:
    """The checkpoint that `ModelCheckpoint` keeps: highest pass@k in float32, the earliest of those that tie."""
    return max(checkpoints, key=lambda c: np.float32(c["figures"][group][f"pass@{k}"]), default=None)


def diversity_figure(record: Mapping[str, Any]) -> Figure:
    """Plots `probe.json`: Pass@K of every domain, a band of one standard error around it, the best point marked."""
    from matplotlib.figure import Figure  # takes half a second, needed only with TensorBoard

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    k, checkpoints = record["k"], record["checkpoints"]
    steps = [c["step"] for c in checkpoints]
    for group in dict.fromkeys(record["problems"]["domain"]):
        values = np.array([c["figures"][group][f"pass@{k}"] for c in checkpoints])
        error = np.array([c["figures"][group]["standard_error"] for c in checkpoints])
        (line,) = axes.plot(steps, values, marker=".", label=group)
        axes.fill_between(steps, values - error, values + error, color=line.get_color(), alpha=0.15, linewidth=0)
        if best := best_checkpoint(checkpoints, group, k):
            axes.plot(best["step"], best["figures"][group][f"pass@{k}"], "*", markersize=14, color=line.get_color())
    axes.set(xlabel="optimizer step", ylabel=f"pass@{k}", ylim=(-0.02, 1.02))
    axes.legend(loc="lower right")
    return figure
