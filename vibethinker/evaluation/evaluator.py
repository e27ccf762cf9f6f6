"""Evaluation of a model on benchmarks or held-out problems; a killed run continues from its store of samples."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import torch

from vibethinker.evaluation.grading import GradedSamples, grade, sample
from vibethinker.evaluation.store import SampleStore, problems_digest, read_part
from vibethinker.models.loading import load_model
from vibethinker.models.prompts import prompt_ids
from vibethinker.models.source import ModelSource, load_tokenizer
from vibethinker.problems import Problem
from vibethinker.rewards import Verifier
from vibethinker.rollout import RolloutEngine, Sampling
from vibethinker.rollout.scheduler import Progress
from vibethinker.utils.seeding import stable_seed

_ROUNDS: Final = 4  # times that the sequences of one chunk fill the slots: few are empty while its last ones finish


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of sampling in an evaluation.

    Attributes:
        samples: number for each problem.
        temperature: of sampling.
        top_p: of sampling.
        max_new_tokens: longest completion; `None` takes what the context leaves beside the longest prompt.
        at_most: upper bound of that.
        instruction: text after the prompt of a problem with an answer; the problem's own by default.
        code_instruction: the same for a problem with tests.
        seed: of sampling.
    """

    samples: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    at_most: int = 2048
    instruction: str | None = None
    code_instruction: str | None = None
    seed: int = 0


class Request(NamedTuple):
    """A problem with the token ids of its prompt; `file` is empty unless it is from a benchmark file."""

    file: str
    problem: Problem
    prompt: list[int]


class Evaluation:
    """A model and the problems that it is evaluated on, checked before anything large is loaded.

    Args:
        source: the model.
        problems: by the name of their file; ids differ within each.
        settings: options of sampling.
        skip_long: leave out problems whose prompt leaves no room for `settings.max_new_tokens`, which must be given.

    Attributes:
        requests: the problems that fit, in order.
        left_out: number of problems whose prompt is too long, by file.
        max_new_tokens: longest completion.

    Raises:
        ValueError: prompts do not fit: names the first, and how many.
    """

    def __init__(
        self,
        source: ModelSource,
        problems: Mapping[str, Sequence[Problem]],
        settings: EvaluationOptions,
        *,
        skip_long: bool = False,
    ) -> None:
        self.source, self.settings = source, settings
        if skip_long and settings.max_new_tokens is None:
            raise ValueError("--skip-long needs --max-new-tokens, which decides which prompts are too long")
        context, model = source.context_length, source.name
        self.tokenizer = load_tokenizer(source)
        self.tokenizer.model_max_length = sys.maxsize  # it would only warn of what is an error here
        instructions = {True: settings.code_instruction, False: settings.instruction}
        requests = [
            Request(file, problem, prompt_ids(self.tokenizer, [problem], instructions[bool(problem.tests)])[0])
            for file, own in problems.items()
            for problem in own
        ]
        room = context - (settings.max_new_tokens or 1)
        long = [r for r in requests if len(r.prompt) > room]
        if long and not skip_long:
            (_, problem, prompt), wanted = long[0], settings.max_new_tokens
            raise ValueError(
                f"problem {problem.id!r} ({problem.source}) has {len(prompt)} tokens; "
                f"with {f'--max-new-tokens {wanted}' if wanted else 'one new token'} that is more than the context of "
                f"{model!r}, {context} tokens; so it is for {len(long)} of {len(requests)} problems"
            )
        self.requests = [r for r in requests if len(r.prompt) <= room]
        if not self.requests:
            raise ValueError(f"none of the {len(requests)} problems fits into the context of {model!r}")
        self.left_out = {file: count for file in problems if (count := sum(r.file == file for r in long))}
        self._longest = max(len(r.prompt) for r in self.requests)
        self.max_new_tokens = settings.max_new_tokens or min(settings.at_most, context - self._longest)
        self._sampling = Sampling(settings.temperature, settings.top_p, max_new_tokens=self.max_new_tokens)

    @property
    def options(self) -> dict[str, Any]:
        """Everything that decides the samples, by the names that a user knows."""
        problems: dict[str, list[Problem]] = {}
        for request in self.requests:
            problems.setdefault(request.file, []).append(request.problem)
        return {
            "content of MODEL": self.source.digest,
            "--samples": self.settings.samples,
            "--temperature": self.settings.temperature,
            "--top-p": self.settings.top_p,
            "--max-new-tokens": self.max_new_tokens,
            "--instruction": self.settings.instruction,
            "--instruction, of programs": self.settings.code_instruction,
            "--seed": self.settings.seed,
            **{f"problems of {file}" if file else "problems": problems_digest(own) for file, own in problems.items()},
        }

    def run(self, store: SampleStore, reward: Verifier, *, slots: int = 256, progress: Progress | None = None) -> None:
        """Samples and grades the problems that are not in the store yet, and adds them chunk by chunk.

        Args:
            store: made with `options`.
            reward: grades the completions.
            slots: sequences at a time.
            progress: called with completions done and in all.
        """
        with store.writing():
            done = store.solved()
            left = [r for r in self.requests if (r.file, r.problem.id) not in done]
            if not left:
                return
            n = self.settings.samples
            size, total = max(_ROUNDS * slots // n, 1), len(self.requests) * n
            policy: Any = load_model(self.source, trainable=False)
            policy.to("cuda" if torch.cuda.is_available() else "cpu")
            engine = RolloutEngine(policy, max_length=self._longest + self.max_new_tokens, slots=slots)
            for start in range(0, len(left), size):
                before = total - (len(left) - start) * n
                shown = (lambda now, _, before=before: progress(before + now, total)) if progress else None
                store.add(self._evaluate(engine, left[start : start + size], reward, shown))

    def _evaluate(
        self, engine: RolloutEngine, requests: Sequence[Request], reward: Verifier, progress: Progress | None
    ) -> GradedSamples:
        problems = [r.problem for r in requests]
        samples = sample(
            engine,
            self.tokenizer,
            problems,
            n=self.settings.samples,
            sampling=self._sampling,
            seeds=[stable_seed(self.settings.seed, p.id) for p in problems],
            prompts=[r.prompt for r in requests],
            progress=progress,
        )
        return replace(grade(samples, reward), files=[r.file for r in requests])


def regrade(store: SampleStore, reward: Verifier, options: Mapping[str, Any], progress: Progress | None = None) -> None:
    """Grades the samples of a store anew; all of them change at once, or none.

    Args:
        store: of finished problems.
        reward: grades the completions.
        options: new values of the store's options.
        progress: called with files of samples done and in all.
    """
    with store.replacing(options) as write:
        for index, part in enumerate(store.parts):
            write(part.name, grade(read_part(part), reward))
            if progress:
                progress(index + 1, len(store.parts))
