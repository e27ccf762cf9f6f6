"""Sampling a model on problems and judging the answers: what probing, validation and evaluation have in common.

`judge` samples from an engine that is there; `Examination` asks a model about whole benchmarks, into a store of samples
from which it goes on where it was stopped. What the samples come to is in `vibethinker.evaluation.summary`.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vibethinker.evaluation.store import Said, SampleStore, problems_digest, read_part
from vibethinker.models.loading import load_model
from vibethinker.models.prompts import prompt_ids
from vibethinker.models.source import ModelSource, load_tokenizer
from vibethinker.problems import Problem
from vibethinker.rewards.base import Verifier, outcomes
from vibethinker.rewards.code_blocks import program_of
from vibethinker.rewards.math.verifier import final_answer
from vibethinker.rollout import RolloutEngine, Rollouts, Sampling
from vibethinker.rollout.scheduler import Progress

_ROUNDS: Final = 4  # times that the sequences of one chunk fill the slots: few are empty while its last ones finish


@dataclass(frozen=True)
class Judged:
    """`n` completions of each of `P` problems and what they earned.

    Attributes:
        problems: `P`.
        rollouts: tokens and log-probs, group-major.
        completions: P·n texts.
        outcomes: float32 [P, n] in [0, 1].
        sampling_seconds: time it took to sample them.
        reward_seconds: time it took to judge them.
        kinds: P·n kinds of outcome (`vibethinker.rewards.Outcome`).
    """

    problems: list[Problem]
    rollouts: Rollouts
    completions: list[str]
    outcomes: Tensor
    sampling_seconds: float = 0.0
    reward_seconds: float = 0.0
    kinds: Sequence[str] = ()

    @property
    def correct(self) -> Tensor:
        """bool [P, n]: a partial score is not a solution."""
        return self.outcomes == 1

    @property
    def lengths(self) -> Tensor:
        """int64 [P, n]."""
        return self.rollouts.lengths.view(self.outcomes.shape)

    def texts(self, problem: int) -> list[str]:
        n = self.rollouts.n
        return self.completions[problem * n : (problem + 1) * n]


def stable_seed(*parts: object) -> int:
    """An int64 that depends on the parts' text alone: the same in every process and session."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def judge(
    engine: RolloutEngine,
    tokenizer: PreTrainedTokenizerBase,
    problems: Iterable[Problem],
    reward: Verifier,
    *,
    n: int,
    sampling: Sampling,
    seeds: Sequence[int],
    instruction: str | None = None,
    prompts: Sequence[list[int]] | None = None,
    progress: Progress | None = None,
) -> Judged:
    """Samples `n` completions of every problem and scores them.

    Args:
        seeds: one for each problem, so that a problem's samples do not depend on its neighbours.
        prompts: token ids of each problem's prompt, made with `instruction` when left out.

    Raises:
        ValueError: a prompt leaves no room for a completion, or the reward gives no outcomes; names the problem.
    """
    problems = list(problems)
    prompts = prompt_ids(tokenizer, problems, instruction) if prompts is None else prompts
    room = engine.max_length - sampling.max_new_tokens
    for problem, prompt in zip(problems, prompts, strict=True):
        if len(prompt) > room:
            raise ValueError(
                f"problem {problem.id!r} ({problem.source}) has {len(prompt)} tokens; "
                f"max_length={engine.max_length} less max_new_tokens={sampling.max_new_tokens} leaves {room}"
            )
    if sampling.stop_token_ids is None:  # demonstrations end with the tokenizer's token, whatever the model's own is
        sampling = replace(sampling, stop_token_ids=(*engine.stop_token_ids, tokenizer.eos_token_id))
    start = time.perf_counter()
    rollouts = engine.generate(prompts, n, sampling, seeds, progress)
    sampled = time.perf_counter()
    completions = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in rollouts.completion_ids]
    decoded = time.perf_counter()
    graded = outcomes(reward, [p for p in problems for _ in range(n)], completions)
    return Judged(
        problems,
        rollouts,
        completions,
        outcomes=torch.tensor([outcome.score for outcome in graded], dtype=torch.float32).view(len(problems), n),
        sampling_seconds=sampled - start,
        reward_seconds=time.perf_counter() - decoded,
        kinds=[outcome.kind for outcome in graded],
    )


@dataclass(frozen=True)
class Protocol:
    """How a model is asked.

    Attributes:
        samples: of each problem.
        temperature: of sampling.
        top_p: of sampling.
        max_new_tokens: longest completion; `None` takes what the context leaves beside the longest prompt.
        at_most: bound of that.
        instruction: what follows a prompt that is judged by its answer; the problem's own by default.
        code_instruction: the same for one that is judged by tests.
        seed: of the samples.
    """

    samples: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    at_most: int = 2048
    instruction: str | None = None
    code_instruction: str | None = None
    seed: int = 0


class Question(NamedTuple):
    """A problem as a model is asked it; `file` is empty unless it is of a benchmark file."""

    file: str
    problem: Problem
    prompt: list[int]


class Examination:
    """A model and what it is asked, checked before anything large is loaded.

    Args:
        source: the model.
        problems: by the name of their file; ids differ within each.
        protocol: how they are asked.
        skip_long: leave out problems whose prompt leaves no room for `protocol.max_new_tokens`, which must be given.

    Attributes:
        questions: what is asked, in order.
        left_out: problems whose prompt is too long, by file.
        max_new_tokens: longest completion.

    Raises:
        ValueError: prompts do not fit: names the first, and how many.
    """

    def __init__(
        self,
        source: ModelSource,
        problems: Mapping[str, Sequence[Problem]],
        protocol: Protocol,
        *,
        skip_long: bool = False,
    ) -> None:
        self.source, self.protocol = source, protocol
        if skip_long and protocol.max_new_tokens is None:
            raise ValueError("--skip-long needs --max-new-tokens, which decides which prompts are too long")
        context, model = source.context_length, source.name
        self.tokenizer = load_tokenizer(source)
        self.tokenizer.model_max_length = sys.maxsize  # it would only warn of what is an error here
        questions = [Question(file, p, ids) for file, own in problems.items() for p, ids in self._prompts(own)]
        room = context - (protocol.max_new_tokens or 1)
        long = [q for q in questions if len(q.prompt) > room]
        if long and not skip_long:
            (_, problem, prompt), wanted = long[0], protocol.max_new_tokens
            raise ValueError(
                f"problem {problem.id!r} ({problem.source}) has {len(prompt)} tokens; "
                f"with {f'--max-new-tokens {wanted}' if wanted else 'one new token'} that is more than the context of "
                f"{model!r}, {context} tokens; so it is for {len(long)} of {len(questions)} problems"
            )
        self.questions = [q for q in questions if len(q.prompt) <= room]
        if not self.questions:
            raise ValueError(f"none of the {len(questions)} problems fits into the context of {model!r}")
        self.left_out = {file: count for file in problems if (count := sum(q.file == file for q in long))}
        self._longest = max(len(q.prompt) for q in self.questions)
        self.max_new_tokens = protocol.max_new_tokens or min(protocol.at_most, context - self._longest)
        self._sampling = Sampling(protocol.temperature, protocol.top_p, max_new_tokens=self.max_new_tokens)

    def _prompts(self, problems: Sequence[Problem]) -> Iterator[tuple[Problem, list[int]]]:
        for problem in problems:
            instruction = self.protocol.code_instruction if problem.tests else self.protocol.instruction
            yield problem, prompt_ids(self.tokenizer, [problem], instruction)[0]

    @property
    def options(self) -> dict[str, Any]:
        """What decides the samples, by the names a user knows."""
        asked: dict[str, list[Problem]] = {}
        for question in self.questions:
            asked.setdefault(question.file, []).append(question.problem)
        return {
            "content of MODEL": self.source.digest,
            "--samples": self.protocol.samples,
            "--temperature": self.protocol.temperature,
            "--top-p": self.protocol.top_p,
            "--max-new-tokens": self.max_new_tokens,
            "--instruction": self.protocol.instruction,
            "--instruction, of programs": self.protocol.code_instruction,
            "--seed": self.protocol.seed,
            **{f"problems of {file}" if file else "problems": problems_digest(own) for file, own in asked.items()},
        }

    def run(self, store: SampleStore, reward: Verifier, *, slots: int = 256, progress: Progress | None = None) -> None:
        """Samples and judges what the store does not have yet, and adds it chunk by chunk.

        Args:
            store: of this examination's `options`.
            reward: judges the answers.
            slots: sequences at a time.
            progress: called with completions done and in all.
        """
        with store.writing():
            done = store.finished()
            left = [q for q in self.questions if (q.file, q.problem.id) not in done]
            if not left:
                return
            n = self.protocol.samples
            size, total = max(_ROUNDS * slots // n, 1), len(self.questions) * n
            engine = self._engine(slots)
            for start in range(0, len(left), size):
                before = total - (len(left) - start) * n
                shown = (lambda now, _, before=before: progress(before + now, total)) if progress else None
                store.add(self._ask(engine, left[start : start + size], reward, shown))

    def _engine(self, slots: int) -> RolloutEngine:
        policy: Any = load_model(self.source, trainable=False)
        policy.to("cuda" if torch.cuda.is_available() else "cpu")
        return RolloutEngine(policy, max_length=self._longest + self.max_new_tokens, slots=slots)

    def _ask(
        self, engine: RolloutEngine, questions: Sequence[Question], reward: Verifier, progress: Progress | None
    ) -> list[Said]:
        seeds = [stable_seed(self.protocol.seed, q.problem.id) for q in questions]
        judged = judge(
            engine,
            self.tokenizer,
            [q.problem for q in questions],
            reward,
            n=self.protocol.samples,
            sampling=self._sampling,
            seeds=seeds,
            prompts=[q.prompt for q in questions],
            progress=progress,
        )
        return said(judged, seeds, [q.file for q in questions])


def said(judged: Judged, seeds: Sequence[int] | None = None, files: Sequence[str] | None = None) -> list[Said]:
    """What was judged, a record for each problem."""
    n, finished = judged.rollouts.n, judged.rollouts.finished.tolist()
    records = []
    for index, problem in enumerate(judged.problems):
        own = slice(index * n, (index + 1) * n)
        given, unboxed = _answers(problem, judged.completions[own])
        records.append(
            Said(
                file=files[index] if files else "",
                problem=problem,
                seed=seeds[index] if seeds else 0,
                completions=judged.completions[own],
                tokens=judged.lengths[index].tolist(),
                finished=finished[own],
                outcomes=judged.outcomes[index].tolist(),
                kinds=judged.kinds[own],
                given=given,
                unboxed=unboxed,
            )
        )
    return records


def _answers(problem: Problem, texts: Sequence[str]) -> tuple[list[str | None], list[bool]]:
    """The final answer of each completion, and whether it has neither one nor a program."""
    if problem.tests:
        return [None] * len(texts), [program_of(text) is None for text in texts]
    given = [final_answer(text.rpartition("</think>")[2]) for text in texts]
    return given, [answer is None for answer in given]


def regrade(store: SampleStore, reward: Verifier, options: Mapping[str, Any], progress: Progress | None = None) -> None:
    """Judges the samples of a store anew; all of them change at once, or none.

    Args:
        store: of finished problems.
        reward: judges the answers.
        options: of the store, that are different from now on.
        progress: called with files of samples done and in all.
    """
    with store.replacing(options) as write:
        for place, part in enumerate(store.parts):
            write(part.name, _regraded(list(read_part(part)), reward))
            if progress:
                progress(place + 1, len(store.parts))


def _regraded(said: Sequence[Said], reward: Verifier) -> Iterator[Said]:
    problems = [one.problem for one in said for _ in one.completions]
    found = iter(outcomes(reward, problems, [text for one in said for text in one.completions]))
    for one in said:
        own = [next(found) for _ in one.completions]
        given, unboxed = _answers(one.problem, one.completions)
        scores, kinds = [outcome.score for outcome in own], [outcome.kind for outcome in own]
        yield replace(one, outcomes=scores, kinds=kinds, given=given, unboxed=unboxed)
