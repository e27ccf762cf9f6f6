"""Expert fusion at the end of a fit (arXiv 2511.06221, section 3.3)."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from vibethinker.callbacks.diversity_probe import MEAN
from vibethinker.callbacks.huggingface_export import HuggingFaceExport
from vibethinker.fusion import fuse
from vibethinker.fusion.average import RECORD
from vibethinker.training.checkpoint import link_folder, model_checkpoints, model_folder
from vibethinker.utils.atomic import locked, write_atomic

CHOICE = "choice.json"
_MONITOR = re.compile(r"probe/(?P<domain>.+)/[^/]+")


class ExpertFusion(Callback):
    """Averages the experts that the `ModelCheckpoint`s have chosen by the probe.

    Each `ModelCheckpoint(monitor="probe/<domain>/…")` names the expert of its domain: the Hugging Face folder beside
    its best checkpoint. A checkpoint that is the best of two domains counts twice.

    One fit on several domains has all experts and fuses them. With `experts`, several fits meet in that folder: each
    leaves its experts there as `<experts>/<domain>`, and the one that completes `domains` fuses. A fit that is run
    again replaces its expert and fuses again.

    Args:
        out: folder of the fused model.
        domains: whose experts are fused; by default those that this fit chooses.
        experts: folder shared with the fits of the other domains.
        weights: weight of each domain, non-negative, sum 1; equal by default.

    Raises:
        ValueError: before training, if a domain has no checkpoint that would choose its expert, there is no
            `HuggingFaceExport`, `weights` are not those of the domains, or `out` is something other than a fusion.
    """

    def __init__(
        self,
        out: str,
        domains: list[str] | None = None,
        experts: str | None = None,
        weights: dict[str, float] | None = None,
    ):
        if experts is not None and not domains:
            raise ValueError("ExpertFusion: experts needs domains, the ones to wait for")
        if weights is not None and (
            any(not w >= 0 for w in weights.values()) or not math.isclose(sum(weights.values()), 1, abs_tol=1e-6)
        ):
            raise ValueError(f"ExpertFusion: weights must be non-negative and sum to one, got {weights}")
        self.out, self.experts = Path(out), None if experts is None else Path(experts)
        self.domains, self.weights = domains or [], weights
        self._chosen: dict[str, ModelCheckpoint] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Finds the `ModelCheckpoint` of each domain, and checks the options against them."""
        if stage != "fit":
            return
        if not any(isinstance(c, HuggingFaceExport) for c in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError("ExpertFusion needs the HuggingFaceExport callback, whose folders it fuses")
        self._chosen = _choosers(trainer)
        self.domains = self.domains or list(self._chosen)
        here = set(self._chosen)
        if wrong := here - set(self.domains) if self.experts else set(self.domains) - here:
            what = "is not in domains" if self.experts else "has no ModelCheckpoint that monitors its probe"
            raise ValueError(f"ExpertFusion: {min(wrong)} {what}")
        if self.weights is not None and set(self.weights) != set(self.domains):
            raise ValueError(f"ExpertFusion: weights are of {sorted(self.weights)}, domains are {sorted(self.domains)}")
        if self.out.exists() and any(self.out.iterdir()) and not (self.out / RECORD).is_file():
            raise ValueError(f"ExpertFusion: out {self.out} exists and is not a fusion")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fuses the experts if all of them are there."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._gather()
        trainer.strategy.barrier("expert fusion")

    def _gather(self) -> None:
        if self.experts is None:
            self._fuse([self._expert(domain) for domain in self.domains])
            return
        with locked(self.experts):  # of two fits that end at the same time, one sees the complete set
            for domain in self._chosen:
                # The expert for other fits, with the record of its choice
                chosen, out = self._chosen[domain], self.experts / domain
                assert chosen.best_model_score is not None
                link_folder(self._expert(domain), out)
                choice = {"checkpoint": chosen.best_model_path, chosen.monitor: chosen.best_model_score.item()}
                write_atomic(out / CHOICE, json.dumps(choice))
            folders = [self.experts / domain for domain in self.domains]
            if all(folder.is_dir() for folder in folders):
                self._fuse(folders)

    def _expert(self, domain: str) -> Path:
        best = self._chosen[domain].best_model_path
        if not best or not model_folder(best).is_dir():
            raise ValueError(f"ExpertFusion: no checkpoint of {domain} was saved")
        return model_folder(best)

    def _fuse(self, folders: list[Path]) -> None:
        weights = None if self.weights is None else [self.weights[domain] for domain in self.domains]
        fuse(folders, self.out, weights, overwrite=True)


def _choosers(trainer: pl.Trainer) -> dict[str, ModelCheckpoint]:
    """The `ModelCheckpoint` of each domain."""
    chosen: dict[str, ModelCheckpoint] = {}
    for checkpoint in model_checkpoints(trainer):
        match = _MONITOR.fullmatch(checkpoint.monitor or "")
        if match is None or match["domain"] == MEAN:
            continue
        if match["domain"] in chosen:
            raise ValueError(f"ExpertFusion: two ModelCheckpoints choose the expert of {match['domain']}")
        chosen[match["domain"]] = checkpoint
    if not chosen:
        raise ValueError("ExpertFusion: no ModelCheckpoint monitors a probe/<domain>/… metric")
    return chosen
