"""Pass@K, its uncertainty, and the number of distinct correct solutions.

Pass@K is the chance that at least one of K samples solves a problem (arXiv 2107.03374, section 2.1). VibeThinker-1.5B
(arXiv 2511.06221, section 3.3) chooses specialist checkpoints by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vibethinker.metrics.program_signature import program_signature
from vibethinker.metrics.solution_paths import path_signature


def pass_at_k(n: int, c: int, k: int) -> float:
    r"""Unbiased estimate of pass@k from `c` correct ones among `n` samples of one problem.

    $$1 - \binom{n-c}{k} \Big/ \binom{n}{k} = 1 - \prod_{i=n-c+1}^{n} \Big(1 - \frac{k}{i}\Big)$$

    arXiv 2107.03374, equation 1. The product never leaves [0, 1], where the binomials overflow. The plug-in estimate
    1 − (1 − c/n)^k is biased low.

    Args:
        n: number of samples, at least 1.
        c: correct ones among them, 0 … n.
        k: samples allowed, 1 … n.

    Raises:
        ValueError: an argument is not a whole number in its range.

    Example:
        >>> pass_at_k(n=4, c=1, k=2)
        0.5
    """
    for name, value, low, high in (("n", n, 1, None), ("c", c, 0, n), ("k", k, 1, n)):
        if not isinstance(value, Integral) or value < low or (high is not None and value > high):
            bounds = f"in [{low}, n={high}]" if high is not None else f">= {low}"
            raise ValueError(f"pass_at_k: {name} must be a whole number {bounds}, got {value!r}")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


class Interval(NamedTuple):
    """A mean over problems with the bounds of its interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def standard_error(values: Sequence[float] | npt.NDArray[Any]) -> float | None:
    r"""Standard error of a mean over the values [P] of problems, robust to the correlation of one problem's samples.

    $$\sqrt{\sum_p (x_p - \bar x)^2 / (P (P - 1))}$$

    With equally many samples of each problem this is the cluster-robust (sandwich) error with problems as clusters: the
    spread of the x_p includes the variance between problems and that of samples. `None` for a single problem.
    """
    data = np.asarray(values, dtype=np.float64)
    return float(data.std(ddof=1) / math.sqrt(data.size)) if data.size > 1 else None


def bootstrap_interval(
    values: Sequence[float] | npt.NDArray[Any], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of a mean, by resampling problems.

    Samples of one problem are correlated, so problems are resampled, not samples. With fewer than about 20 problems, or
    when all have the same value, the interval is too narrow.

    Args:
        values: [P] one value per problem, such as its pass@k.
        level: fraction of resampled means inside the interval, in (0, 1).
        resamples: number of resampled means.
        seed: of resampling.

    Raises:
        ValueError: no values, a value that is not finite, or an option outside its range.

    Example:
        >>> bootstrap_interval([0.0, 0.5, 1.0, 0.5])
        Interval(mean=0.5, low=0.125, high=0.875)
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0 or not np.isfinite(data).all():
        raise ValueError(f"bootstrap_interval: values must be finite numbers [P], P >= 1, got shape {data.shape}")
    if not 0 < level < 1:
        raise ValueError(f"bootstrap_interval: level must be in (0, 1), got {level!r}")
    if resamples < 2:
        raise ValueError(f"bootstrap_interval: resamples must be >= 2, got {resamples!r}")
    means = data[_resampled(data.size, resamples, seed)].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(data.mean()), float(low), float(high))


@lru_cache(maxsize=1)  # the same for every metric of the same problems
def _resampled(size: int, resamples: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(size, size=(resamples, size))


def paired_difference(a: Sequence[float] | npt.NDArray[Any], b: Sequence[float] | npt.NDArray[Any]) -> Interval:
    """Interval of mean(a − b) for the values [P] of two models on the same problems, resampled together.

    Problems differ in difficulty far more than models do; pairing cancels that.

    Raises:
        ValueError: the two differ in length, or as in `bootstrap_interval`.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired_difference: a and b must be of the same problems, got {first.shape}, {second.shape}")
    return bootstrap_interval(first - second)


def distinct_solutions(completions: Sequence[str], correct: Sequence[bool], *, programs: bool = False) -> int:
    """Number of different paths among the correct completions of one problem.

    A path is the normalised sequence of equations (`vibethinker.metrics.solution_paths`); a completion with a wrong
    step, or without any step, has none and does not count. The path of a program is the program itself, normalised
    (`vibethinker.metrics.program_signature`), since the tests have checked it as a whole.

    Args:
        completions: [n] samples of one problem.
        correct: [n] true where the final answer is right.
        programs: true for a programming problem.

    Raises:
        ValueError: the two differ in length.
    """
    signature = program_signature if programs else path_signature
    paths = {signature(text) for text, right in zip(completions, correct, strict=True) if right}
    return len(paths - {None, ""})
