r"""Builds the nano base model that ships with the package: tokenizer, weights, and a short pretraining.

    python benchmarks/nano_model.py OUT [--step N] [trainer options]

The tokenizer is Qwen2's, trained on text of the embedded generators: a byte-level BPE in which every digit is a token,
so that the model sees arithmetic. Pretraining is an ordinary `fit` of `SFTModule` on all five domains
(`configs/nano/base.yaml`), stopped early: the demo needs something left to learn. Its probe shows at which checkpoint:
`--step` makes that one the model, in a second call that trains nothing if the checkpoint exists.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from vibethinker.datamodules.generators import DOMAINS, generate
from vibethinker.utils.atomic import staged_folder

VOCABULARY = 1024
CONTEXT = 512
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def corpus(problems_per_domain: int) -> Iterator[str]:
    """Prompts and solutions of the train split at every difficulty."""
    for domain in DOMAINS:
        for index in range(problems_per_domain):
            problem = generate(domain, "train", index, difficulty=1 + index % 4)
            yield f"user\n{problem.messages()[0]['content']}"
            for solution in problem.solutions:
                yield f"assistant\n{solution}"


def make_tokenizer(problems_per_domain: int = 4000) -> Qwen2Tokenizer:
    """Qwen2's own with a small vocabulary: transformers loads this class for every Qwen2 model."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    untrained = Qwen2Tokenizer(vocab={}, merges=[], pad_token=special[0], unk_token=special[0], eos_token=special[2])
    tokenizer = untrained.train_new_from_iterator(
        corpus(problems_per_domain), VOCABULARY, new_special_tokens=special, show_progress=False
    )
    tokenizer.model_max_length = CONTEXT
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: Qwen2Tokenizer, seed: int = 0) -> Qwen2ForCausalLM:
    """Half a million random parameters in the shape of Qwen2."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def checkpoint_of(root: Path, step: int | None) -> Path:
    """The Hugging Face folder of a checkpoint, by default of the last one.

    Raises:
        FileNotFoundError: there is none of that step; names those that there are.
    """
    folders = {int(path.name.split("=")[1]): path for path in (root / "checkpoints").glob("step=*/")}
    chosen = max(folders, default=None) if step is None else step
    if chosen is None or chosen not in folders:
        existing = ", ".join(map(str, sorted(folders))) or "none"
        raise FileNotFoundError(f"{root}: there is no checkpoint of step {chosen}; there are {existing}")
    return folders[chosen]


def main(argv: list[str]) -> int:
    """Builds the untrained model, fits it, and copies a checkpoint to OUT."""
    from vibethinker.cli import fit

    parser = argparse.ArgumentParser(description="Builds the nano base model.")
    parser.add_argument("out", type=Path, help="folder of the finished model")
    parser.add_argument("--config", default="configs/nano/base.yaml", help="configuration of its training")
    parser.add_argument("--root", type=Path, default=Path("runs/nano-base"), help="run folder")
    parser.add_argument("--step", type=int, help="checkpoint that becomes the model (default: the last)")
    options, overrides = parser.parse_known_args(argv)
    if options.step is None or not (options.root / "checkpoints" / f"step={options.step}").is_dir():
        untrained = options.root / "untrained"
        tokenizer = make_tokenizer()
        make_model(tokenizer).save_pretrained(untrained)
        tokenizer.save_pretrained(untrained)
        where = [f"--trainer.default_root_dir={options.root}", f"--model.model={untrained}"]
        fit.run(["fit", f"--config={options.config}", *where, *overrides])
    with staged_folder(options.out) as folder:
        shutil.copytree(checkpoint_of(options.root, options.step), folder, dirs_exist_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
