"""Prompts of problems as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from vibethinker.problems import Problem


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], instruction: str | None = None
) -> list[list[int]]:
    """Renders each problem with the chat template and opens the assistant's reply.

    Args:
        tokenizer: has a chat template.
        problems: `P`.
        instruction: appended to every problem; each problem's own by default, nothing when empty.

    Returns:
        `P` lists of token ids, which completions continue.
    """
    render: Any = tokenizer.apply_chat_template
    return [render(p.messages(instruction), add_generation_prompt=True, return_dict=False) for p in problems]
