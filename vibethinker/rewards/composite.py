"""Rewards made of rewards: by the kind of problem, or as a weighted mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul

from vibethinker.problems import Problem
from vibethinker.rewards.base import Outcome, Reward, Verifier, as_verifier, counted, outcomes
from vibethinker.rewards.code import CodeReward
from vibethinker.rewards.math import MathReward


@dataclass
class Part:
    """A reward under a name, and its weight.

    Args:
        reward: a class of rewards, or the path of a function `(problems, completions) -> list of numbers`.
        weight: factor of its scores.
    """

    reward: Reward
    weight: float = 1.0


def weighted(parts: Mapping[str, Part], option: str) -> dict[str, tuple[Verifier, float]]:
    """The verifier and the weight of each part.

    Raises:
        ValueError: a part that cannot be called or weighed; names `option` and the part.
    """
    for name, part in parts.items():
        if not name or "/" in name:
            raise ValueError(f"{option}: a part's name is one word, got {name!r}")
        if not math.isfinite(part.weight):
            raise ValueError(f"{option}.{name}.weight must be finite, got {part.weight}")
    return {name: (as_verifier(part.reward, f"{option}.{name}.reward"), part.weight) for name, part in parts.items()}


class _Compound(Verifier):
    """Passes completions on to other verifiers, adds up their counters and closes them."""

    def __init__(self, verifiers: Iterable[Verifier]) -> None:
        self._verifiers = list({id(verifier): verifier for verifier in verifiers}.values())

    @property
    def timeouts(self) -> int:
        """Completions that ran out of time so far."""
        return sum(counted(verifier)["timeouts"] for verifier in self._verifiers)

    @property
    def crashes(self) -> int:
        """Completions that brought a process down so far."""
        return sum(counted(verifier)["crashes"] for verifier in self._verifiers)

    def close(self) -> None:
        for verifier in self._verifiers:
            verifier.close()


class DispatchReward(_Compound):
    """Grades each problem by its kind: those with `tests` by running code, all others by their answer.

    So mixed data needs no configuration. Processes that no problem needs are not started.

    Args:
        math: grades problems without tests; `MathReward` by default.
        code: grades problems with tests; `CodeReward` by default.
        domains: rewards by the name of a domain, which take precedence over the other two.
    """

    def __init__(
        self, math: Reward | None = None, code: Reward | None = None, domains: dict[str, Reward] | None = None
    ) -> None:
        self._math = as_verifier(math or MathReward(), "DispatchReward.math")
        self._code = as_verifier(code or CodeReward(), "DispatchReward.code")
        self._domains = {
            name: as_verifier(reward, f"DispatchReward.domains.{name}") for name, reward in (domains or {}).items()
        }
        super().__init__([self._math, self._code, *self._domains.values()])

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        """Calls each reward once, with all of its completions, so that it can work on them in parallel."""
        rewards = [self.reward_of(problem) for problem in problems]
        result: dict[int, Outcome] = {}
        for reward in {id(reward): reward for reward in rewards}.values():
            own = [index for index, other in enumerate(rewards) if other is reward]
            found = outcomes(reward, [problems[i] for i in own], [completions[i] for i in own])
            result.update(zip(own, found, strict=True))
        return [result[index] for index in range(len(completions))]

    def reward_of(self, problem: Problem) -> Verifier:
        """The reward that grades a problem."""
        return self._domains.get(problem.domain, self._math if problem.tests is None else self._code)


class CompositeReward(_Compound):
    """The weighted mean of several verifiers as one outcome, for tasks whose correctness has several sides.

    Terms that only shape the reward, and are no part of correctness, belong in `GRPOModule`'s `shaping` instead: pass
    rates, maximum-entropy weights and evaluation are made of outcomes.

    Args:
        parts: verifiers by name with their weights, which count relative to their sum.
    """

    def __init__(self, parts: dict[str, Part]) -> None:
        self.parts = weighted(parts, "CompositeReward.parts")
        if not parts or min(part.weight for part in parts.values()) <= 0:
            raise ValueError("CompositeReward.parts: give one part or more, each with a positive weight")
        super().__init__(verifier for verifier, _ in self.parts.values())

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        """Outcomes whose details name the kind and the detail of every part."""
        each = [outcomes(v, problems, completions, name, shaping=True) for name, (v, _) in self.parts.items()]
        count = max(len(completions), 1)
        self.part_means = {
            name: math.fsum(o.score for o in own) / count for name, own in zip(self.parts, each, strict=True)
        }
        return [self._mean(row) for row in zip(*each, strict=True)]

    def _mean(self, row: Sequence[Outcome]) -> Outcome:
        weights = [weight for _, weight in self.parts.values()]
        mean = Outcome.of(math.fsum(map(mul, weights, (o.score for o in row))) / math.fsum(weights))
        if mean.kind == "passed":
            return mean
        lost = next((o.kind for o in row if o.kind in ("timeout", "crashed")), mean.kind)
        detail = "; ".join(
            f"{name}: {' '.join((o.kind, o.detail)).strip()}" for name, o in zip(self.parts, row, strict=True)
        )
        return Outcome(mean.score, lost, detail)
