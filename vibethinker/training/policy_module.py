"""What supervised and reinforcement training share: the policy, its optimizer, and windows of packed micro-batches.

A *window* is what one batch of problems becomes: `updates` optimizer steps of `micro_batches` each. The data loader
hands out every batch of problems once for each micro-batch; `prepare` makes the window at its first turn, and every
turn trains on one micro-batch. Precision, strategies, schedulers and checkpoints are Lightning's own; gradients are
zeroed here, and clipped here unless they are scaled. The number of micro-batches is the same on every rank, so no rank
waits for another in vain.

A micro-batch is one packed row, or several where `row_tokens` bounds their length. Forward and backward of all but the
last are done when their turn starts; the last is Lightning's, and with it gradients of several ranks meet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from vibethinker.evaluation.grading import GradedSamples, grade, sample
from vibethinker.logprobs import linear_logprobs
from vibethinker.memory.activation_checkpointing import decide_
from vibethinker.models.export import export
from vibethinker.models.loading import BaseDtype, Lora, load_model
from vibethinker.models.prompts import prompt_ids
from vibethinker.models.quantization import Quantization
from vibethinker.models.source import ModelSource, load_tokenizer
from vibethinker.packed.attention import PackedAttention, hidden_states
from vibethinker.packed.model_support import incompatibility
from vibethinker.packed.packing import PackedRow, Slice
from vibethinker.packed.patching import compile_, fuse_
from vibethinker.problems import Problem
from vibethinker.rewards import DispatchReward, Reward
from vibethinker.rewards.base import as_verifier
from vibethinker.rollout import RolloutEngine, Sampling
from vibethinker.rollout.scheduler import Progress
from vibethinker.training.distributed import gather, random_state, set_random_state
from vibethinker.training.held_out import HeldOut
from vibethinker.training.optim import adamw, clip_, warmup_cosine
from vibethinker.utils.async_copy import Fetched, Stopwatch, moved

_UNSET_EPOCHS = 1000  # what Lightning puts where neither steps nor epochs are said
_STRATEGIES = (SingleDeviceStrategy, DDPStrategy)  # weights and gradients are whole; deepspeed's inherits from ddp's
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # master weights are float32, or a learning rate is lost in them
_IN_THE_BAR = ("train/pass_rate", "train/kl", "rollout/length")


class PolicyModule(HeldOut):
    """A policy that trains on windows of packed rows and can be sampled from.

    Args:
        model: Hugging Face folder or hub name; `nano` is the model inside this package.
        learning_rate: peak of AdamW's learning rate.
        min_learning_rate: where the cosine ends; without it the rate stays at its peak after warm-up.
        warmup_ratio: share of the steps over which the rate rises.
        weight_decay: AdamW's decoupled decay, on matrices alone.
        betas: AdamW's moment decays.
        epsilon: added to AdamW's denominator; near the size of the gradients it turns the update towards plain descent,
            which keeps rarely moved weights from taking full steps on noise.
        micro_batches: parts an optimizer step is split into on each rank; more need less memory.
        row_tokens: longest packed row in tokens, which bounds the memory of an update whatever the lengths are: a
            micro-batch of more is computed as several rows, one after the other. A longer sequence is a row of its
            own. Without it a micro-batch is one row. The prompt of a group counts once in each row that holds some of
            its completions.
        lora: train a low-rank adapter instead of the full weights.
        quantization: hold the frozen base in 4 or 8 bits, `4bit-double` with quantized scales; needs `lora`. A
            checkpoint that is quantized already needs no word.
        base_dtype: precision of a frozen base; `auto` is bfloat16 on CUDA and float32 on CPU.
        gradient_checkpointing: recompute activations in backward to save memory; `auto` does where an update is
            estimated not to fit into the GPU without, and never on a CPU.
        fused_kernels: decoder layers of Qwen2, Qwen3 and Llama run on this library's own kernels on CUDA; not together
            with `compile`.
        compile: compile the decoder layers with `torch.compile`, which takes a minute at the first step.
        context_length: longest sequence the model is made for, in place of what its config.json says; exported folders
            carry it on.
        rope_theta: base of the rotary embedding, likewise; a longer context usually wants a larger one.
        max_length: longest prompt plus completion in tokens.
        max_new_tokens: longest completion that is sampled, in training, validation and probing.
        slots: sequences sampled at one time, at most.
        cache_gib: memory for their keys and values, which lowers `slots` to what it holds; by default four fifths of
            what a GPU has free when the first are sampled.
        instruction: what is appended to every problem's text; by default what its kind asks for, a boxed answer or a
            fenced program.
        reward: judges completions: the short name of a class of rewards with its options, or the path of a function
            `(problems, completions) -> list of outcomes in [0, 1]`. `DispatchReward` by default: problems with tests by
            running code, all others by exact mathematical equivalence.
        seed: of everything that is drawn.
    """

    updates = 1
    temperature = 1.0  # of the distribution whose log-probs are trained

    def __init__(
        self,
        model: str,
        learning_rate: float = 5e-5,
        min_learning_rate: float | None = None,
        warmup_ratio: float = 0.05,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        epsilon: float = 1e-8,
        micro_batches: int = 1,
        row_tokens: int | None = None,
        lora: Lora | None = None,
        quantization: Quantization | None = None,
        base_dtype: BaseDtype = "auto",
        gradient_checkpointing: bool | Literal["auto"] = "auto",
        fused_kernels: bool = True,
        compile: bool = False,
        context_length: int | None = None,
        rope_theta: float | None = None,
        max_length: int = 4096,
        max_new_tokens: int = 2048,
        slots: int = 256,
        cache_gib: float | None = None,
        instruction: str | None = None,
        reward: Reward | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if micro_batches < 1:
            raise ValueError(f"micro_batches must be at least 1, got {micro_batches}")
        if row_tokens is not None and row_tokens < 1:
            raise ValueError(f"row_tokens must be at least 1, got {row_tokens}")
        if gradient_checkpointing != "auto" and not isinstance(gradient_checkpointing, bool):
            raise ValueError(f"gradient_checkpointing must be true, false or auto, got {gradient_checkpointing!r}")
        if min_learning_rate is not None and not 0 <= min_learning_rate <= learning_rate:
            raise ValueError(f"min_learning_rate must lie between 0 and learning_rate, got {min_learning_rate}")
        if not 0 <= warmup_ratio <= 1:
            raise ValueError(f"warmup_ratio must lie between 0 and 1, got {warmup_ratio}")
        if max_new_tokens >= max_length:
            raise ValueError(f"max_new_tokens {max_new_tokens} leaves no room for a prompt in max_length {max_length}")
        self.source = ModelSource.of(model, context_length, rope_theta)
        context = self.source.context_length
        if max_length > context:
            raise ValueError(
                f"max_length {max_length} is longer than the context of {model!r}, {context} tokens; "
                "context_length extends it, but for longrope"
            )
        self.lora, self.quantization = lora, quantization
        self.base_dtype, self.gradient_checkpointing = base_dtype, gradient_checkpointing
        self.fused_kernels, self.compiled = fused_kernels and not compile, compile
        self.learning_rate, self.min_learning_rate = learning_rate, min_learning_rate
        self.warmup_ratio, self.weight_decay, self.betas, self.epsilon = warmup_ratio, weight_decay, betas, epsilon
        self.micro_batches, self.row_tokens = micro_batches, row_tokens
        self.max_length, self.slots, self.cache_gib = max_length, slots, cache_gib
        self.instruction, self.seed = instruction, seed
        self.sampling = Sampling(max_new_tokens=max_new_tokens)
        self.reward = as_verifier(reward or DispatchReward(), "reward")
        self.tokenizer = load_tokenizer(self.source)
        self.policy = load_model(
            self.source,
            lora=lora,
            quantization=quantization,
            base_dtype=base_dtype,
            gradient_checkpointing=gradient_checkpointing is True,
        )
        self.strict_loading = False  # checkpoints hold trainable weights only
        self._engine: RolloutEngine | None = None
        self.sync_seconds = 0.0  # what the last copy of the weights to the sampler took
        self._window: list[list[Slice]] = []
        self._used = 0
        self._by_epochs = False
        self._random_state: dict[str, Any] | None = None
        self._figures: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self._fetched = Fetched(torch.empty(0))  # the sums of an update, on their way to the host
        self._norm: tuple[int, Fetched] | None = None  # of a step's gradient, and which step
        self._stopwatch = Stopwatch(self.device)  # of an update
        self._timed: list[tuple[Tensor, Stopwatch]] = []  # tokens and time of updates whose rate is still to be logged

    # What subclasses say

    def prepare(self, problems: list[Problem]) -> list[list[Slice]]:
        """Turns this rank's problems into the rows of `turns_per_batch` micro-batches."""
        raise NotImplementedError("a PolicyModule subclass defines prepare")

    def token_loss(self, logp: Tensor, entropy: Tensor, per_token: dict[str, Tensor]) -> Tensor:
        """The loss of each target [N], before weighting; may add to the figures that are logged."""
        raise NotImplementedError("a PolicyModule subclass defines token_loss")

    # Sampling

    def unaskable(self, problems: Sequence[Problem]) -> list[str]:
        """For each problem why it cannot be asked, empty where it can: its prompt must leave room for a completion."""
        room = self.max_length - self.sampling.max_new_tokens
        lengths = map(len, prompt_ids(self.tokenizer, problems, self.instruction))
        reason = f"prompt longer than max_length less max_new_tokens = {room}"
        return [reason if length > room else "" for length in lengths]

    @property
    def engine(self) -> RolloutEngine:
        """Made at first use, on the device the policy lives on by then."""
        if self._engine is None:
            self._engine = RolloutEngine(
                self.policy, max_length=self.max_length, slots=self.slots, cache_gib=self.cache_gib
            )
        return self._engine

    def sample_and_grade(
        self,
        problems: Sequence[Problem],
        n: int,
        seeds: Sequence[int],
        sampling: Sampling | None = None,
        progress: Progress | None = None,
    ) -> GradedSamples:
        """Samples from the weights as they are now, by default as the module does, and grades the completions."""
        self.sync_seconds = self.engine.sync(self.policy)
        try:
            samples = sample(
                self.engine,
                self.tokenizer,
                problems,
                n=n,
                sampling=sampling or self.sampling,
                seeds=seeds,
                instruction=self.instruction,
                progress=progress,
            )
            return grade(samples, self.reward)
        finally:
            if self.device.type == "cuda":
                self.engine.release()  # keys and values, gigabytes of them, and updates take turns

    def export(self, folder: str | Path, dtype: torch.dtype | None = None, *, adapter_only: bool = False) -> Path:
        """Writes the policy as a Hugging Face folder, float32 by default, or its adapter alone."""
        self.check_gradient()
        return export(self.policy, self.tokenizer, folder, dtype, adapter_only=adapter_only)

    # Training

    @property
    def turns_per_batch(self) -> int:
        """How many turns the data loader gives every batch."""
        return self.micro_batches * self.updates

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        wanted = self.trainer.accumulate_grad_batches
        if wanted not in (1, self.micro_batches):
            raise ValueError(f"set model.micro_batches instead of trainer.accumulate_grad_batches={wanted}")
        if str(self.trainer.precision) not in _PRECISIONS:
            raise ValueError(f"trainer.precision must be one of {', '.join(_PRECISIONS)}, got {self.trainer.precision}")
        if any(isinstance(callback, GradientAccumulationScheduler) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError("a GradientAccumulationScheduler would cut updates short: set model.micro_batches instead")
        if type(self.trainer.strategy) not in _STRATEGIES:
            kind = type(self.trainer.strategy).__name__
            raise ValueError(f"trainer.strategy must be ddp or one device, which keep weights whole, not {kind}")
        self.trainer.accumulate_grad_batches = self.micro_batches
        if self.trainer.max_steps < 1 or self._by_epochs:  # set up twice, the second time with what is learnable alone
            self._by_epochs = True
            self.trainer.fit_loop.epoch_loop.max_steps = self._steps_of_epochs()

    def teardown(self, stage: str) -> None:
        self._by_epochs = False  # the next fit may count steps

    def _steps_of_epochs(self) -> int:
        """The horizon that the learning rate needs to know, from `max_epochs` passes through a finite train set."""
        epochs, data = self.trainer.max_epochs, self.trainer.datamodule  # type: ignore[attr-defined]
        if epochs is None or epochs < 1 or epochs == _UNSET_EPOCHS:
            raise ValueError("set trainer.max_steps or max_epochs: the learning rate needs to know its horizon")
        if not getattr(data, "steps_per_epoch", None):
            raise ValueError("trainer.max_epochs needs a train set that ends: set trainer.max_steps")
        if self.trainer.limit_train_batches != 1.0:
            raise ValueError("trainer.max_epochs counts whole passes: set trainer.max_steps, not limit_train_batches")
        return epochs * data.steps_per_epoch * self.updates

    def configure_optimizers(self) -> Any:
        optimizer = adamw(
            [p for p in self.policy.parameters() if p.requires_grad],
            self.learning_rate,
            weight_decay=self.weight_decay,
            betas=self.betas,
            epsilon=self.epsilon,
            fused=self.device.type == "cuda" and self._clips_by_norm,
        )
        floor = 1.0 if self.min_learning_rate is None else self.min_learning_rate / self.learning_rate
        total = self.trainer.max_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_cosine(step, total, self.warmup_ratio, floor)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def _clips_by_norm(self) -> bool:
        """Whether gradients are not scaled, and not clipped one by one either."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        by_norm = self.trainer.gradient_clip_algorithm in (None, "norm")
        return scaler is None and by_norm

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips and logs the norm. Lightning clips for no fused optimizer, where only scaled gradients forbid it."""
        if not self._clips_by_norm:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        norm = clip_(optimizer, gradient_clip_val)
        self.log("train/gradient_norm", norm)
        self._norm = (self.trainer.global_step, Fetched(norm))
        if self._norm[1].arrived:
            self.check_gradient()

    def check_gradient(self) -> None:
        """Ends a fit whose last gradient was no number; on a GPU that is known a step later.

        Raises:
            FloatingPointError: names the step.
        """
        if self._norm is None:
            return
        step, fetched = self._norm
        if not torch.isfinite(norm := fetched.get()):
            raise FloatingPointError(f"the gradient's norm is {norm.item()} at step {step}")

    def on_fit_start(self) -> None:
        with self.trainer.precision_plugin.forward_context():
            reason = incompatibility(self.policy)
        if reason:
            raise ValueError(f"model {self.source.name!r} cannot be trained in packed rows: {reason}")
        self._norm = None
        decide_(self)
        self.speed_up_(self.policy)

    def speed_up_(self, model: Any) -> None:
        """What the options say about the layers of a model that updates run, the policy or its reference."""
        if self.fused_kernels:
            fuse_(model)
        if self.compiled:
            compile_(model)

    def on_train_start(self) -> None:
        """Refuses options that would cut a window or an optimizer step in two."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        turns, each = self.trainer.num_training_batches, self.turns_per_batch
        if math.isfinite(turns) and turns % each:
            raise ValueError(f"trainer.limit_train_batches must be a multiple of {each} (micro_batches · updates)")
        pause = self.trainer.val_check_batch if self.trainer.enable_validation else None
        if pause is not None and math.isfinite(pause) and pause % self.micro_batches:
            raise ValueError(f"trainer.val_check_interval must be a multiple of micro_batches={self.micro_batches}")

    # Training: a window and its rows

    def on_train_batch_start(self, batch: list[Problem], batch_idx: int) -> None:
        if self._random_state is not None:  # here and not in on_train_start: making the iterator draws numbers too
            set_random_state(self._random_state)
            self._random_state = None
        if batch_idx % self.micro_batches == 0:
            self.policy.zero_grad()  # before the rollout, which has their memory then
        if batch_idx % self.turns_per_batch == 0:
            self._window = self.prepare(batch)
            self._used = 0
            if len(self._window) != self.turns_per_batch:
                raise RuntimeError(f"a window of {len(self._window)} micro-batches instead of {self.turns_per_batch}")
        if self._used % self.micro_batches == 0 or not self._sums:  # a resumed update may begin later
            self._sums, self._stopwatch = {}, Stopwatch(self.device)
        for part in self._window[self._used][:-1]:
            with self.trainer.precision_plugin.forward_context():
                loss = self._loss(part)
            self.trainer.strategy.backward(loss, optimizer=None)  # not from the strategy's forward: no exchange

    def training_step(self, batch: list[Problem], batch_idx: int) -> Tensor:
        last = self._window[self._used][-1]
        self._used += 1
        loss = self._loss(last)
        # before the backward, so that who waits for it does not wait for that; at every turn, since Lightning steps at
        # the last one of a fast_dev_run too
        self._fetched = Fetched(self.all_reduce_sum(torch.stack(list(self._sums.values()))))
        return loss * self.micro_batches  # by which Lightning divides

    def _loss(self, part: Slice) -> Tensor:
        """A row's share of the update's loss, times the ranks that its gradient is averaged over."""
        part = part.to(self.device)
        logp, entropy = self.logprobs(self.policy, part.row)
        loss = (part.per_token["weight"] * self.token_loss(logp, entropy, part.per_token)).sum()
        self.add(loss=loss.detach(), tokens=float(len(part.row.input_ids)))  # those computed: a shared prompt is once
        return loss * self.trainer.world_size  # the weights count the tokens of all ranks already

    def optimizer_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Done when an update begins: Lightning would do it when all rows but the last have left their gradients."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.check_gradient()  # of the step before this one
        self.log_update()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self._stopwatch.stop()
        self._timed.append((self._sums["tokens"], self._stopwatch))
        while self._timed and (seconds := self._timed[0][1].seconds) is not None:  # a GPU is an update behind
            self.log("train/tokens_per_second", self._timed.pop(0)[0] / seconds)

    def logprobs(self, model: Any, row: PackedRow) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies [N] of a packed row's targets."""
        hidden = hidden_states(model, row.input_ids, row.position_ids, PackedAttention(row))
        head = model.get_output_embeddings().weight
        predicting = hidden.index_select(0, row.predictors)  # backward adds; after [...] it would sort
        return linear_logprobs(predicting, head, row.targets, self.temperature)

    def add(self, **figures: Tensor | float) -> None:
        """Adds to the sums of the current update over its rows; no value waits for the device."""
        for name, value in figures.items():
            scalar = value.float() if isinstance(value, Tensor) else torch.full((), value, device=self.device)
            self._sums[name] = self._sums[name] + scalar if name in self._sums else scalar

    def log_update(self) -> None:
        """Logs the update's sums, over all its rows and ranks, and the figures of its window."""
        self._sums = dict(zip(self._sums, self._fetched.get(), strict=True))
        loss = self._sums["loss"]
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.trainer.global_step}")
        self.log("train/loss", loss, prog_bar=True)
        means = self.all_reduce_sum(torch.tensor(list(self._figures.values()))) / self.trainer.world_size
        for name, mean in zip(self._figures, means, strict=True):
            self.log(name, mean, prog_bar=name in _IN_THE_BAR)

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """The sum over ranks; a single one keeps what it has, where it is."""
        if self.trainer.world_size == 1:
            return value
        total = moved(value.clone(), self.device)
        torch.distributed.all_reduce(total)  # Lightning's own has a barrier before it, at which the host waits
        return total

    # Checkpoints: trainable weights, random state, unused slices

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_gradient()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in self._trained}
        unused = self._used < len(self._window)
        slices = [[part.state() for part in rows] for rows in self._window] if unused else []
        window = {"slices": slices, "used": self._used}
        checkpoint["ranks"] = gather({"random_state": random_state(), "window": {**window, "figures": self._figures}})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if missing := self._trained - checkpoint["state_dict"].keys():
            raise ValueError(f"the checkpoint has no {min(missing)}: it is of another model or another lora")
        ranks = checkpoint["ranks"]
        if self._trainer is not None and self.trainer.world_size != len(ranks) and ranks[0]["window"]["slices"]:
            raise ValueError(f"the checkpoint holds unused rollouts of {len(ranks)} processes: resume with as many")
        own = ranks[self.global_rank % len(ranks)]
        self._random_state, window = own["random_state"], own["window"]
        self._window = [[Slice.from_state(part) for part in rows] for rows in window["slices"]]
        self._used, self._figures = window["used"], window["figures"]
        if self._window:  # saved within an update, its first gradients are lost: they are made again with the next
            begin = self._used - self._used % self.micro_batches
            self._window[self._used] = [part for rows in self._window[begin : self._used + 1] for part in rows]

    @property
    def _trained(self) -> set[str]:
        named = self.policy.named_parameters(prefix="policy", remove_duplicate=False)
        return {name for name, p in named if p.requires_grad}
