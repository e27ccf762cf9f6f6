"""Expert fusion at the end of a fit (arXiv 2511.06221, section 3.3)."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from vibethinker.callbacks.checkpoint_export import HuggingFaceExport
from vibethinker.callbacks.diversity_probe import MEAN
from vibethinker.fusion import fuse
from vibethinker.fusion.average import RECORD
from vibethinker.training.checkpoint import link_folder, model_checkpoints, model_folder
from vibethinker.utils.atomic import locked, write_atomic

CHOICE = "choice.json"
_MONITOR = re.compile(r"probe/(?P<domain>.+)/[^/]+")


class ExpertFusion(Callback):
    """Averages the experts that the checkpoints chose by the probe.

    Each `ModelCheckpoint(monitor="probe/<domain>/…")` names the expert of its domain: the Hugging Face folder beside
    its best checkpoint. A checkpoint that is the best of two domains counts twice.

    One fit on several domains has all experts and fuses them. With `experts`, several fits meet in that folder: each
    leaves its experts there as `<experts>/<domain>`, and the one that completes `domains` fuses. A fit that is run
    again replaces its expert and fuses anew.

    Args:
        out: folder of the fused model.
        domains: whose experts are fused; by default those that this fit chooses.
        experts: folder shared with the fits of the other domains.
        weights: share of each domain, non-negative, sum 1; equal by default.

    Raises:
        ValueError: before training, if a domain has no checkpoint that would choose its expert, there is no
            `HuggingFaceExport`, `weights` are no shares of the domains, or `out` is something other than a fusion.
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
        if stage != "fit":
            return
        if not any(isinstance(c, HuggingFaceExport) for c in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError("ExpertFusion needs the HuggingFaceExport callback, whose folders it fuses")
        self._chosen = _choosers(trainer)
        self.domains = self.domains or list(self._chosen)
        here = set(self._chosen)
        strange = here - set(self.domains) if self.experts else set(self.domains) - here
        if strange:
            what = "is not in domains" if self.experts else "has no ModelCheckpoint that monitors its probe"
            raise ValueError(f"ExpertFusion: {min(strange)} {what}")
        if self.weights is not None and set(self.weights) != set(self.domains):
            raise ValueError(f"ExpertFusion: weights are of {sorted(self.weights)}, domains are {sorted(self.domains)}")
        if self.out.exists() and any(self.out.iterdir()) and not (self.out / RECORD).is_file():
            raise ValueError(f"ExpertFusion: out {self.out} exists and is not a fusion")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._gather()
        trainer.strategy.barrier("expert fusion")

    def _gather(self) -> None:
        folders = {domain: self._expert(domain) for domain in self._chosen}
        if self.experts is None:
            self._fuse(folders)
            return
        with locked(self.experts):  # of two fits that end together one sees the complete set
            for domain, folder in folders.items():
                self._leave(domain, folder, self.experts / domain)
            there = {d: self.experts / d for d in self.domains if (self.experts / d).is_dir()}
            if len(there) == len(self.domains):
                self._fuse(there)

    def _expert(self, domain: str) -> Path:
        folder = model_folder(self._chosen[domain].best_model_path)
        if not self._chosen[domain].best_model_path or not folder.is_dir():
            raise ValueError(f"ExpertFusion: no checkpoint of {domain} was saved")
        return folder

    def _leave(self, domain: str, folder: Path, place: Path) -> None:
        chooser = self._chosen[domain]
        assert chooser.best_model_score is not None
        link_folder(folder, place)
        choice = {"checkpoint": chooser.best_model_path, chooser.monitor: chooser.best_model_score.item()}
        write_atomic(place / CHOICE, json.dumps(choice))

    def _fuse(self, folders: dict[str, Path]) -> None:
        weights = None if self.weights is None else [self.weights[d] for d in self.domains]
        fuse([folders[d] for d in self.domains], self.out, weights, overwrite=True)


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
