"""The same work through TRL's trainers, in their own processes: nothing of ours is imported here."""

from __future__ import annotations

import logging
from statistics import median
from typing import Any

from parts.setting import LETTERS, Setting, Tick

LEARNING_RATE = 1e-6
SFT_STEPS, SHORT_STEPS, LONG_STEPS = 6, 3, 1  # the first of several warms up; the only one of one does not
SFT_VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "liger": {"use_liger_kernel": True},
    "liger, no recomputation": {"use_liger_kernel": True, "gradient_checkpointing": False},
}


def _clock(setting: Setting) -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Seconds of the device from the begin of a step to its end: rollouts, reference, update."""

        def __init__(self) -> None:
            self.begins: list[Tick] = []
            self.ends: list[Tick] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begins.append(setting.tick())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(setting.tick())
            if len(self.ends) == 1:
                self.first_peak = setting.peak
                setting.forget_peak()

        @property
        def measured(self) -> list[float]:
            seconds = [end - begin for begin, end in zip(self.begins, self.ends, strict=True)]
            return seconds[1:] or seconds

        @property
        def peak(self) -> float:
            return setting.peak if self.ends[1:] else self.first_peak

    return Clock()


def _options(setting: Setting, steps: int) -> dict[str, Any]:
    """float32 master weights under bfloat16 autocast, as on our side; the optimizer's fused kernel, as on our side."""
    return {
        "output_dir": str(setting.folder / "trl"),
        "max_steps": steps,
        "learning_rate": LEARNING_RATE,
        "bf16": True,
        "use_cpu": not setting.cuda,
        "optim": "adamw_torch_fused",
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "model_init_kwargs": {"dtype": "float32", "attn_implementation": "sdpa"},
    }


def grpo(setting: Setting, new: int, rows: int, steps: int, **options: Any) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    scale = setting.scale
    logging.getLogger("transformers").setLevel(logging.ERROR)
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    prompts = [tokenizer.decode(ids) for ids in _readable(setting, scale.prompts * steps)]
    if any(len(ids) != scale.prompt for ids in tokenizer(prompts).input_ids):
        raise RuntimeError(f"a prompt does not have {scale.prompt} tokens")
    config = GRPOConfig(
        **_options(setting, steps),
        num_generations=scale.group,
        max_completion_length=new,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=scale.prompts * scale.group // rows,
        beta=0.001,
        gradient_checkpointing=False,
        use_liger_kernel=setting.cuda,
        **options,
    )

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(index % 2) for index in range(len(completions))]

    clock = _clock(setting)
    trainer = GRPOTrainer(
        model=setting.model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    never = scale.model["vocab_size"]  # a token that cannot be drawn ends no completion
    trainer.eos_token_ids = [never]
    trainer.generation_config.eos_token_id = [never]
    trainer.generation_kwargs["eos_token_id"] = [never]
    sampling = _timed(trainer.model, setting, "generate_batch" if options else "generate")
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry]
    if any(entry["completions/mean_length"] != new for entry in logged):
        raise RuntimeError(f"not the work that was meant: {logged}")
    seconds, sampled = median(clock.measured), median(sampling[1:] or sampling)
    setting.report(
        step_seconds=seconds,
        repeats=len(clock.measured),
        warmed_up=steps > 1,
        rollout_seconds=sampled,
        rollout_tokens_per_second=scale.prompts * scale.group * new / sampled,
        gib=clock.peak,
    )


def _readable(setting: Setting, count: int) -> list[list[int]]:
    """Prompts of exactly `prompt` tokens that differ, made of characters that are tokens by themselves."""
    return [[5 + (number >> bit) % 2 for bit in range(setting.scale.prompt)] for number in range(count)]


def _timed(model: Any, setting: Setting, name: str) -> list[float]:
    """The seconds of every call of a method, as they come."""
    plain, seconds = getattr(model, name), []

    def timed(*args: Any, **options: Any) -> Any:
        out: list[Any] = []
        seconds.append(setting.seconds(lambda: out.append(plain(*args, **options))))
        return out[0]

    setattr(model, name, timed)
    return seconds


def grpo_short(setting: Setting) -> None:
    grpo(setting, setting.scale.short, setting.scale.trl_rows[0], SHORT_STEPS)


def grpo_batching(setting: Setting) -> None:
    """Sampling by transformers' continuous batching, for which TRL turns the weights it trains into bfloat16."""
    grpo(
        setting, setting.scale.short, setting.scale.trl_rows[0], SHORT_STEPS, use_transformers_continuous_batching=True
    )


def grpo_long(setting: Setting) -> None:
    grpo(setting, setting.scale.long, setting.scale.trl_rows[1], LONG_STEPS)


def sft(setting: Setting) -> None:
    """Packed rows of exactly one sequence each, of the letters that ours have: no more to attend to, no other words."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    scale = setting.scale
    tokens = scale.sequences * scale.sequence
    generator = torch.Generator().manual_seed(0)
    letters = torch.tensor(AutoTokenizer.from_pretrained(setting.model).convert_tokens_to_ids(list(LETTERS)))
    shape = (scale.sequences * (SFT_STEPS + 1), scale.sequence)
    rows = letters[torch.randint(len(letters), shape, generator=generator)].tolist()
    for name, options in SFT_VARIANTS.items():
        left = setting.allocated  # by the variant before this one
        if not setting.cuda:
            options = {key: value for key, value in options.items() if key != "use_liger_kernel"}
        config = SFTConfig(
            **_options(setting, SFT_STEPS),
            per_device_train_batch_size=scale.sequences,
            packing=True,
            packing_strategy="wrapped",
            max_length=scale.sequence,
            **options,
        )
        clock = _clock(setting)
        trainer = SFTTrainer(
            model=setting.model,
            args=config,
            train_dataset=Dataset.from_list([{"input_ids": row} for row in rows]),
            callbacks=[clock],
        )
        trainer.train()
        step = median(clock.measured)
        figures = {
            "step_ms": 1000 * step,
            "tokens_per_second": tokens / step,
            "gib": clock.peak - left,
            "repeats": len(clock.measured),
        }
        setting.report(**{name: figures}, tokens=tokens)
        del trainer, clock
        setting.free()
