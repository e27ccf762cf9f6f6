"""Demonstrations as tokens: made once for a set, kept on disk, mapped into memory so that processes share them.

A file is named after everything that its tokens depend on: the tokenizer, the chat template and the texts. It stays
when a run ends; deleting the folder costs no more than making its files anew.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import xxhash
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vibethinker.problems import Problem
from vibethinker.utils.atomic import atomic_file, locked
from vibethinker.utils.meter import tracked

FOLDER: Final = "VIBETHINKER_CACHE"  # environment variable that names the folder
_log = logging.getLogger(__name__)
_CHUNK: Final = 500  # demonstrations tokenized together, by as many threads as there are cores
_QUICK: Final = 2000  # demonstrations that take well under two seconds
_TOKENS: Final = pa.list_(pa.int32())
_SCHEMA: Final = pa.schema({"prompt": _TOKENS, "solution": _TOKENS})


def cache_folder() -> Path:
    """`$VIBETHINKER_CACHE`, else `~/.cache/vibethinker`."""
    return Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "vibethinker")


class Demonstrations:
    """The tokens of every solution of some problems, and of the prompt before it.

    Args:
        tokenizer: with a chat template.
        problems: as many as fit in memory as texts.
        instruction: as of `Problem.messages`.

    Attributes:
        lengths: int64 [N], tokens of prompt and solution, in the order of problems and their solutions.

    Raises:
        OSError: the cache folder cannot be written.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], instruction: str | None = None
    ) -> None:
        self._instruction = instruction
        keys = [self._key(problem, solution) for problem in problems for solution in problem.solutions]
        whole = xxhash.xxh3_128(_fingerprint(tokenizer))
        whole.update(b"".join(keys))
        path = cache_folder() / "tokens" / f"{whole.hexdigest()}.arrow"
        if not path.exists():
            with locked(path.parent):  # others wait, and find what was made
                if not path.exists():
                    _write(path, tokenizer, problems, instruction)
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._prompts, self._solutions = table["prompt"], table["solution"]
        self._indices = {key: index for index, key in enumerate(keys)}
        lengths = (pc.list_value_length(column).to_numpy() for column in table.columns)
        self.lengths = sum(lengths, np.zeros(len(table), np.int64))

    def find(self, problem: Problem, solution: str) -> tuple[Tensor, Tensor] | None:
        """int64 tokens of prompt and solution, without the end of sequence; `None` if they are not here."""
        index = self._indices.get(self._key(problem, solution))
        return None if index is None else (_tensor(self._prompts[index]), _tensor(self._solutions[index]))

    def _key(self, problem: Problem, solution: str) -> bytes:
        prompt = problem.messages(self._instruction)[0]["content"].encode()
        return xxhash.xxh3_128(len(prompt).to_bytes(8) + prompt + solution.encode()).digest()


def _tensor(tokens: Any) -> Tensor:
    return torch.tensor(tokens.values.to_numpy(), dtype=torch.long)


def _fingerprint(tokenizer: Any) -> bytes:
    """Everything that the tokens of a text depend on, as bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else repr((type(tokenizer), sorted(tokenizer.get_vocab().items())))
    return f"{rules}\n{tokenizer.chat_template}\n{tokenizer.special_tokens_map}".encode()


def _write(
    path: Path, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], instruction: str | None
) -> None:
    render: Any = tokenizer.apply_chat_template
    pairs = [(problem, solution) for problem in problems for solution in problem.solutions]
    quiet = len(pairs) < _QUICK or getattr(rank_zero_only, "rank", 0) != 0
    if not quiet:
        _log.info("tokenizing %d demonstrations into %s", len(pairs), path)
    with atomic_file(path) as file, pa.ipc.new_file(file, _SCHEMA) as out:
        starts = range(0, len(pairs), _CHUNK)
        for start in tracked(starts, "Tokenizing", disable=quiet):
            chunk = pairs[start : start + _CHUNK]
            chats = [problem.messages(instruction) for problem, _ in chunk]
            prompts = render(chats, add_generation_prompt=True, return_dict=False)
            texts = [solution for _, solution in chunk]
            solutions: Any = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]  # some are too long
            out.write_batch(pa.record_batch([_column(prompts), _column(solutions)], schema=_SCHEMA))


def _column(tokens: Sequence[Sequence[int]]) -> pa.ListArray:
    ends = np.cumsum([0, *map(len, tokens)], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, pa.array(np.fromiter(chain.from_iterable(tokens), np.int32, ends[-1])))
