"""The base of supervised and reinforcement training: a policy that is sampled from, and trained update by update.

One batch of problems is one rollout batch: `prepare` makes an `Update` of it, on which the policy takes
`updates_per_rollout` optimizer steps. An update is a list of packed rows. `training_step` does forward and backward of
all rows but the last and returns the loss of the last to Lightning, whose strategy then exchanges gradients once.
Precision, strategies, schedulers and checkpoints are Lightning's own; gradients are zeroed here, before the rollout,
and clipped here unless they are scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vibethinker.logprobs import linear_logprobs
from vibethinker.models.loading import with_checkpointing
from vibethinker.models.reference import AdapterOff, FrozenCopy
from vibethinker.packed.attention import PackedAttention, hidden_states
from vibethinker.packed.model_support import incompatibility
from vibethinker.packed.packing import PackedRow
from vibethinker.packed.patching import compile_, fuse_
from vibethinker.problems import Problem
from vibethinker.training.distributed import gather, random_state, set_random_state
from vibethinker.training.fit_memory import settle_rows_
from vibethinker.training.optim import adamw, clip_, schedule
from vibethinker.training.options import Optimizer, Packing, options
from vibethinker.training.protocols import ProblemData
from vibethinker.training.sampled_policy import SampledPolicy
from vibethinker.training.trainer_checks import check_trainer, steps_of_epochs
from vibethinker.training.update import Update, UpdateRow
from vibethinker.training.update_stats import UpdateStats
from vibethinker.utils.async_copy import moved

_IN_PROGRESS_BAR = ("train/pass_rate", "train/kl", "rollout/length")


class PolicyModule(SampledPolicy):
    """A policy that trains on updates of packed rows and can be sampled from.

    Args:
        model: Hugging Face folder or hub name; `nano` is the model inside this package.
        optimizer: AdamW and the schedule of its learning rate.
        packing: packed rows of an update.
        gradient_checkpointing: recompute activations in backward to save memory; `auto` does where an update is
            estimated not to fit into the GPU without, and never on a CPU.
        fused_kernels: run the decoder layers of Qwen2, Qwen3 and Llama on this library's own kernels on CUDA; not
            together with `compile`.
        compile: compile the decoder layers with `torch.compile`, which takes a minute at the first step.
        **kwargs: options of `SampledPolicy`.
    """

    updates_per_rollout = 1  # optimizer steps on each batch of problems
    group_size = 1  # sequences of each problem
    reference: FrozenCopy | AdapterOff | None = None

    def __init__(
        self,
        model: str,
        optimizer: Optimizer = Optimizer(),
        packing: Packing = Packing(),
        gradient_checkpointing: bool | Literal["auto"] = "auto",
        fused_kernels: bool = True,
        compile: bool = False,
        **kwargs: Any,
    ):
        if gradient_checkpointing != "auto" and not isinstance(gradient_checkpointing, bool):
            raise ValueError(f"gradient_checkpointing must be true, false or auto, got {gradient_checkpointing!r}")
        optimizer, packing = options(Optimizer, optimizer), options(Packing, packing)
        super().__init__(model, **kwargs)
        self.optimizer, self.packing = optimizer, packing
        self.gradient_checkpointing = gradient_checkpointing
        self.fused_kernels, self.compiled = fused_kernels and not compile, compile
        if gradient_checkpointing is True:
            with_checkpointing(self.policy)
        self.strict_loading = False  # checkpoints hold trainable weights only
        self.stats = UpdateStats(self.device)
        self.data: ProblemData | None = None  # of the fit, if its data module is one
        self.row_tokens = 0  # longest packed row, settled when a fit starts
        self._update: Update | None = None
        self._used = 0  # optimizer steps on the current update
        self._by_epochs = False
        self._random_state: dict[str, Any] | None = None

    # Defined by subclasses

    @property
    def temperature(self) -> float:
        """Of the distribution whose log-probs are trained."""
        return 1.0

    def prepare(self, problems: list[Problem]) -> Update:
        """Makes an update of this rank's problems."""
        raise NotImplementedError("a PolicyModule subclass defines prepare")

    def token_loss(self, logp: Tensor, entropy: Tensor, per_token: dict[str, Tensor]) -> Tensor:
        """The loss of each target [N], before weighting; may add to `stats`."""
        raise NotImplementedError("a PolicyModule subclass defines token_loss")

    # For the data module

    def unusable_demonstrations(self, problems: Sequence[Problem]) -> list[list[str]] | None:
        """`None`: only a subclass trains on demonstrations."""
        return None

    def export(self, folder: str | Path, dtype: torch.dtype | None = None, *, adapter_only: bool = False) -> Path:
        """As of any policy, but never after a gradient that was not finite."""
        self.stats.check_gradient()
        return super().export(folder, dtype, adapter_only=adapter_only)

    # Before training

    def setup(self, stage: str) -> None:
        """Checks the trainer's settings, and sets the horizon where epochs give it."""
        if stage != "fit":
            return
        trainer: Any = self.trainer
        check_trainer(trainer)
        self._update = None
        self.data = trainer.datamodule if isinstance(trainer.datamodule, ProblemData) else None
        if trainer.max_steps < 1 or self._by_epochs:  # set up twice, the second time with usable problems alone
            self._by_epochs = True
            trainer.fit_loop.epoch_loop.max_steps = steps_of_epochs(trainer, self.data) * self.updates_per_rollout

    def teardown(self, stage: str) -> None:
        """Forgets that epochs gave the horizon: the next fit may count steps."""
        self._by_epochs = False

    def configure_optimizers(self) -> Any:
        """AdamW with a linear warm-up and a cosine."""
        fused = self.device.type == "cuda" and self._clips_by_norm
        optimizer = adamw([p for p in self.policy.parameters() if p.requires_grad], self.optimizer, fused=fused)
        scheduler = schedule(optimizer, self.optimizer, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Checks that the model computes in packed rows what it computes alone, and settles how long rows are."""
        with self.trainer.precision_plugin.forward_context():
            reason = incompatibility(self.policy)
        if reason:
            raise ValueError(f"model {self.source.name!r} cannot be trained in packed rows: {reason}")
        self.stats = UpdateStats(self.device)
        settle_rows_(self)
        self.speed_up_(self.policy)

    def speed_up_(self, model: Any) -> None:
        """Fuses or compiles the layers of a model that updates run, the policy or its reference."""
        if self.fused_kernels:
            fuse_(model)
        if self.compiled:
            compile_(model)

    # An optimizer step

    def on_train_batch_start(self, batch: list[Problem], batch_idx: int) -> None:
        """Makes the next update of a batch, unless steps on the last one remain."""
        if self._random_state is not None:  # not in on_train_start: building the iterator consumes random numbers too
            set_random_state(self._random_state)
            self._random_state = None
        self.policy.zero_grad()  # before the rollout, which needs the memory
        if self._update is None or self._used == self.updates_per_rollout:
            self._update, self._used = self.prepare(batch), 0
        self.stats.start()

    def training_step(self, batch: list[Problem], batch_idx: int) -> Tensor:
        """Forward and backward of all rows but the last, whose loss goes through Lightning and the strategy."""
        assert self._update is not None
        *rows, last = self._update.rows
        for row in rows:
            loss = self.row_loss(row)
            with torch.autocast(self.device.type, enabled=False):  # as Lightning's own backward
                self.trainer.strategy.backward(loss, optimizer=None)  # no exchange: not in the strategy's forward
        loss = self.row_loss(last)
        self.stats.reduce(self.all_reduce_sum)
        self._used += 1
        return loss

    def row_loss(self, row: UpdateRow) -> Tensor:
        """A row's part of the update's loss, times the ranks that its gradient is averaged over."""
        row = row.to(self.device)
        logp, entropy = self.logprobs(self.policy, row.row)
        loss = (row.per_token["weight"] * self.token_loss(logp, entropy, row.per_token)).sum()
        self.stats.add(loss=loss.detach(), tokens=float(len(row.row.input_ids)))  # a shared prompt counts once
        return loss * self.trainer.world_size  # the weights count the tokens of all ranks already

    def logprobs(self, model: Any, row: PackedRow) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies [N] of a packed row's targets, in nats."""
        hidden = hidden_states(model, row.input_ids, row.position_ids, PackedAttention(row))
        head = model.get_output_embeddings().weight
        predicting = hidden.index_select(0, row.predictors)  # its backward adds; that of [...] sorts first
        return linear_logprobs(predicting, head, row.targets, self.temperature)

    def optimizer_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: Lightning calls it when all rows but the last have left their gradients."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Logs the update, after a last look at the gradient of the step before."""
        self.stats.check_gradient()
        self.log_update(self.stats.totals)

    def log_update(self, totals: dict[str, Tensor]) -> None:
        """Logs an update's sums over its rows and ranks, and the metrics of its batch.

        Raises:
            FloatingPointError: the loss is not finite; names the step.
        """
        assert self._update is not None
        if not torch.isfinite(loss := totals["loss"]):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.trainer.global_step}")
        self.log("train/loss", loss, prog_bar=True)
        metrics = self._update.metrics
        means = self.all_reduce_sum(torch.tensor(list(metrics.values()))) / self.trainer.world_size
        for name, mean in zip(metrics, means, strict=True):
            self.log(name, mean, prog_bar=name in _IN_PROGRESS_BAR)

    @property
    def _clips_by_norm(self) -> bool:
        """True where gradients are neither scaled nor clipped one by one."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return scaler is None and self.trainer.gradient_clip_algorithm in (None, "norm")

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips and logs the norm. Lightning clips for no fused optimizer, where only scaled gradients forbid it."""
        if not self._clips_by_norm:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        norm = clip_(optimizer, gradient_clip_val)
        self.log("train/gradient_norm", norm)
        self.stats.watch_norm(norm, self.trainer.global_step)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes Lightning's step, and logs the tokens per second of updates that have ended."""
        super().optimizer_step(*args, **kwargs)
        self.stats.stop()
        for rate in self.stats.rates():
            self.log("train/tokens_per_second", rate)

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """The sum over ranks; a single one keeps what it has, where it is."""
        if self.trainer.world_size == 1:
            return value
        total = moved(value.clone(), self.device)
        torch.distributed.all_reduce(total)  # Lightning's own has a barrier before it, at which the host waits
        return total

    # Checkpoints: trainable weights, random state, an update that has steps left

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what is trained, and of each rank its random state and unfinished update."""
        self.stats.check_gradient()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in self._trained}
        unfinished = self._update is not None and self._used < self.updates_per_rollout
        update = {**self._update.state_dict(), "used": self._used} if self._update and unfinished else None
        checkpoint["ranks"] = gather({"random_state": random_state(), "update": update})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on from a checkpoint.

        Raises:
            ValueError: it is of another model, of another number of processes, or of an older version.
        """
        if missing := self._trained - checkpoint["state_dict"].keys():
            raise ValueError(f"the checkpoint has no {min(missing)}: it is of another model or another lora")
        ranks = checkpoint["ranks"]
        if "update" not in ranks[0]:
            raise ValueError("the checkpoint is of an older version, which split updates otherwise: start anew")
        if self._trainer is not None and self.trainer.world_size != len(ranks) and ranks[0]["update"]:
            raise ValueError(f"the checkpoint holds unused rollouts of {len(ranks)} processes: resume with as many")
        own = ranks[self.global_rank % len(ranks)]
        self._random_state = own["random_state"]
        if own["update"]:
            self._update, self._used = Update.from_state_dict(own["update"]), own["update"]["used"]

    @property
    def _trained(self) -> set[str]:
        named = self.policy.named_parameters(prefix="policy", remove_duplicate=False)
        return {name for name, p in named if p.requires_grad}
