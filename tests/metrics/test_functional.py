"""pass@K against enumeration, intervals against simulation."""

import math
import subprocess
import sys
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.multiprocessing.spawn import start_processes

from vibethinker.metrics import PassAtK, pass_at_k
from vibethinker.metrics.functional import bootstrap_interval, distinct_solutions, paired_difference


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_fraction_of_subsets_with_a_correct_one(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            subsets = list(combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(float(Fraction(sum(map(any, subsets)), len(subsets))), abs=1e-15)


def test_pass_at_k_where_binomials_overflow() -> None:
    expected = 1 - float(math.prod(Fraction(4096 - 100 - i, 4096 - i) for i in range(64)))
    assert pass_at_k(4096, 100, 64) == pytest.approx(expected, rel=1e-12)


counts = st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(counts)
def test_pass_at_k_properties(nck: tuple[int, int, int]) -> None:
    n, c, k = nck
    value = pass_at_k(n, c, k)
    assert 0 <= value <= 1
    assert pass_at_k(n, c, 1) == pytest.approx(c / n)
    if c < n:
        assert value <= pass_at_k(n, c + 1, k) + 1e-12
    if k < n:
        assert value <= pass_at_k(n, c, k + 1) + 1e-12


@pytest.mark.parametrize(
    ("n", "c", "k", "name"),
    [(0, 0, 1, "n"), (4, 5, 1, "c"), (4, -1, 1, "c"), (4, 2, 5, "k"), (4, 2, 0, "k"), (4.0, 2, 1, "n")],
)
def test_pass_at_k_names_the_bad_value(n: int, c: int, k: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"pass_at_k: {name} must be"):
        pass_at_k(n, c, k)


def test_metric_is_the_mean_of_the_function() -> None:
    first = torch.tensor([[True, False, False, False], [False] * 4, [True] * 4])
    second = torch.tensor([[True, True, False, False, False, True]])  # another number of samples
    metric = PassAtK(k=2)
    metric.update(first)
    metric.update(second)
    expected = np.mean([pass_at_k(4, 1, 2), 0.0, 1.0, pass_at_k(6, 3, 2)])
    assert metric.compute().item() == pytest.approx(expected, rel=1e-6)
    metric.reset()
    metric.update(second)
    assert metric.compute().item() == pytest.approx(pass_at_k(6, 3, 2), rel=1e-6)


@pytest.mark.parametrize(
    ("correct", "message"),
    [
        (torch.ones(2, 3), "must be bool"),
        (torch.ones(3, dtype=torch.bool), "must be bool"),
        (torch.ones(2, 3, dtype=torch.bool), "k=4 needs"),
    ],
)
def test_metric_refuses(correct: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PassAtK(k=4).update(correct)
    with pytest.raises(ValueError, match="k must be"):
        PassAtK(k=0)


def _one_rank(rank: int, store: str, results: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    metric = PassAtK(k=2)
    for problem in range([3, 0][rank]):  # the other rank has none, and must still take part
        metric.update(torch.arange(4)[None] < problem)
    torch.save(metric.compute(), f"{results}/{rank}.pt")
    dist.destroy_process_group()


def test_metric_over_ranks(tmp_path: Path) -> None:
    start_processes(_one_rank, args=(str(tmp_path / "store"), str(tmp_path)), nprocs=2, start_method="fork")
    expected = np.mean([pass_at_k(4, c, 2) for c in range(3)])
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt").item() == pytest.approx(expected, rel=1e-6)


def test_bootstrap_agrees_with_the_formula_and_repeats() -> None:
    values = np.random.default_rng(0).uniform(size=300)
    interval = bootstrap_interval(values)
    standard_error = values.std(ddof=1) / 300**0.5
    assert interval.mean == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.08)
    assert bootstrap_interval(list(values)) == interval
    assert bootstrap_interval(values, seed=1) != interval
    wide, narrow = bootstrap_interval(values, level=0.99), bootstrap_interval(values, level=0.5)
    assert wide.low < interval.low < narrow.low < narrow.high < interval.high < wide.high


def test_bootstrap_covers_the_truth() -> None:
    """Problems of beta-distributed difficulty, pass@4 from 8 samples each: 95% intervals hold the true mean."""
    rng = np.random.default_rng(1)
    a, b = 1.0, 2.0
    truth = 1 - np.prod([(b + i) / (a + b + i) for i in range(4)])  # 1 - E[(1-p)^4]
    hits = 0
    for trial in range(200):
        correct = rng.binomial(8, rng.beta(a, b, size=80))
        interval = bootstrap_interval([pass_at_k(8, c, 4) for c in correct.tolist()], resamples=400, seed=trial)
        hits += int(interval.low <= truth <= interval.high)
    assert 180 <= hits <= 199  # binomial(200, 0.95): 190 ± 3 sd


def test_pairing_sees_what_two_intervals_do_not() -> None:
    rng = np.random.default_rng(2)
    difficulty = rng.uniform(size=100)
    a = difficulty + 0.02 + rng.normal(scale=0.02, size=100)
    b = difficulty + rng.normal(scale=0.02, size=100)
    paired = paired_difference(a, b)
    assert paired.low > 0
    assert bootstrap_interval(b).high > bootstrap_interval(a).low
    assert paired.mean == pytest.approx(a.mean() - b.mean())


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "values must be"),
        ([1.0, float("nan")], {}, "values must be"),
        ([[1.0]], {}, "values must be"),
        ([1.0], {"level": 1.0}, "level must be"),
        ([1.0], {"resamples": 1}, "resamples must be"),
    ],
)
def test_bootstrap_refuses(values: list[float], options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, **options)  # type: ignore[arg-type]


def test_paired_difference_refuses_other_problems() -> None:
    with pytest.raises(ValueError, match="same problems"):
        paired_difference([1.0, 2.0], [1.0])


def test_distinct_solutions() -> None:
    completions = [
        "3x=19-4=15\nx=15/3=5\n\\boxed{5}",
        "So 3x = 19 - 4 = 15 and x = 15/3 = 5: \\boxed{5}",  # the same in words
        "x=(19-4)/3=15/3=5\n\\boxed{5}",  # another way
        "x=19-4=14\nx=5\n\\boxed{5}",  # a wrong step
        "\\boxed{5}",  # a guess
        "3x=19-4=15\nx=15\n\\boxed{15}",  # a wrong answer
    ]
    assert distinct_solutions(completions, [True] * 5 + [False]) == 2
    assert distinct_solutions([], []) == 0
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        distinct_solutions(completions, [True])


def test_functions_are_torch_free() -> None:
    program = "import sys, vibethinker.metrics.functional; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
