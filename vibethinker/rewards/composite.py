"""Rewards made of rewards: by the kind of problem, or as a weighted mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul

from vibethinker.problems import Problem
from vibethinker.rewards.base import Outcome, Reward, Verifier, check_callable, close, counted, examine, grade, scores
from vibethinker.rewards.code import CodeReward
from vibethinker.rewards.math import MathReward


@dataclass
class Part:
    """A reward under a name, and how much it counts.

    Args:
        reward: a class of rewards, or the path of a function `(problems, completions) -> list of numbers`.
        weight: factor of its values.
    """

    reward: Reward
    weight: float = 1.0


def check_parts(parts: Mapping[str, Part], option: str) -> None:
    """Refuses parts that cannot be called or weighed.

    Raises:
        ValueError: naming `option` and the part.
    """
    for name, part in parts.items():
        if not name or "/" in name:
            raise ValueError(f"{option}: a part's name is one word, got {name!r}")
        if not math.isfinite(part.weight):
            raise ValueError(f"{option}.{name}.weight must be finite, got {part.weight}")
        check_callable(part.reward, f"{option}.{name}.reward")


class DispatchReward(Verifier):
    """Judges each problem by what it brings: `tests` by running code, anything else by its answer.

    So mixed data needs no configuration. What no problem asks for is not started.

    Args:
        math: judges problems without tests; `MathReward` by default.
        code: judges problems with tests; `CodeReward` by default.
        domains: rewards for domains of their own, by name, before the other two are asked.
    """

    def __init__(
        self, math: Reward | None = None, code: Reward | None = None, domains: dict[str, Reward] | None = None
    ) -> None:
        self._math = math or MathReward()
        self._code = code or CodeReward()
        self._domains = dict(domains or {})

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        result = [0.0] * len(completions)
        for reward, places in self._routes(problems):
            values = scores(reward, [problems[i] for i in places], [completions[i] for i in places], "reward")
            for place, value in zip(places, values, strict=True):
                result[place] = value
        return result

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        return self._each(grade, problems, completions)

    def examine(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Outcome]:
        return self._each(examine, problems, completions)

    def _each(
        self, judge: Callable[..., list[Outcome]], problems: Sequence[Problem], completions: Sequence[str]
    ) -> list[Outcome]:
        result: dict[int, Outcome] = {}
        for reward, places in self._routes(problems):
            found = judge(reward, [problems[i] for i in places], [completions[i] for i in places])
            result.update(zip(places, found, strict=True))
        return [result[place] for place in range(len(completions))]

    @property
    def timeouts(self) -> int:
        return self._counted("timeouts")

    @property
    def crashes(self) -> int:
        return self._counted("crashes")

    def close(self) -> None:
        for reward in self._all():
            close(reward)

    def reward_of(self, problem: Problem) -> Reward:
        """The reward that judges a problem."""
        if problem.domain in self._domains:
            return self._domains[problem.domain]
        return self._math if problem.tests is None else self._code

    def _routes(self, problems: Sequence[Problem]) -> list[tuple[Reward, list[int]]]:
        """Each reward with the places of its problems, so that it is called once and can work on them in parallel."""
        routes: dict[int, tuple[Reward, list[int]]] = {}
        for place, problem in enumerate(problems):
            reward = self.reward_of(problem)
            routes.setdefault(id(reward), (reward, []))[1].append(place)
        return list(routes.values())

    def _all(self) -> list[Reward]:
        rewards = [self._math, self._code, *self._domains.values()]
        return list({id(reward): reward for reward in rewards}.values())

    def _counted(self, name: str) -> int:
        return sum(counted(reward)[name] for reward in self._all())


class CompositeReward(Verifier):
    """The weighted mean of several verifiers as one outcome, for tasks whose correctness has several sides.

    What only shapes the reward, and is no part of being right, belongs in `GRPOModule`'s `shaping` instead: pass rates,
    maximum-entropy weights and evaluation are made of outcomes.

    Args:
        parts: verifiers by name with their weights, which count relative to their sum.

    Attributes:
        figures: mean score of each part in the last call.
    """

    def __init__(self, parts: dict[str, Part]) -> None:
        check_parts(parts, "CompositeReward.parts")
        if not parts or min(part.weight for part in parts.values()) <= 0:
            raise ValueError("CompositeReward.parts: give one part or more, each with a positive weight")
        self.parts = dict(parts)
        self.figures: dict[str, float] = {}

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        total = math.fsum(part.weight for part in self.parts.values())
        each = {name: scores(part.reward, problems, completions, name) for name, part in self.parts.items()}
        self.figures = {name: math.fsum(values) / max(len(values), 1) for name, values in each.items()}
        weights = [part.weight for part in self.parts.values()]
        return [math.fsum(map(mul, weights, row)) / total for row in zip(*each.values(), strict=True)]

    def fault(self, problem: Problem, completion: str) -> tuple[str, str]:
        parts = {name: examine(part.reward, [problem], [completion])[0] for name, part in self.parts.items()}
        return "wrong", "; ".join(f"{name}: {' '.join((o.kind, o.detail)).strip()}" for name, o in parts.items())

    @property
    def timeouts(self) -> int:
        return sum(counted(part.reward)["timeouts"] for part in self.parts.values())

    @property
    def crashes(self) -> int:
        return sum(counted(part.reward)["crashes"] for part in self.parts.values())

    def close(self) -> None:
        for part in self.parts.values():
            close(part.reward)
