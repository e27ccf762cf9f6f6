"""Metrics by hand, standard errors against a simulation."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
import torch

from vibethinker import Problem
from vibethinker.evaluation.grading import GradedSamples
from vibethinker.evaluation.summary import listing, problem_metrics, summarize, votes
from vibethinker.evaluation.voting import Cluster
from vibethinker.metrics.functional import standard_error

Case = tuple[str, str, list[float], list[str | None]]


def samples_of(*cases: Case) -> GradedSamples:
    """Samples of a problem for each file, domain, scores and answers."""
    problems = [
        Problem(f"{file}{domain}", domain, "?", "1", TESTS if domain == "code" else None) for file, domain, *_ in cases
    ]
    scores = torch.tensor([scores for *_, scores, _ in cases])
    answers = [answer for *_, own in cases for answer in own]
    count, n = scores.shape
    answered = torch.tensor([answer is not None for answer in answers]).view(count, n)
    pairs = zip(scores.flatten().tolist(), answers, strict=True)
    kinds = ["passed" if score == 1 else "no answer" if answer is None else "timeout" for score, answer in pairs]
    return GradedSamples(
        problems,
        n,
        [],
        10 * torch.arange(1, n + 1).repeat(count, 1),
        answered,
        [0] * count,
        scores,
        kinds,
        answers,
        (~answered).flatten().tolist(),
        [file for file, *_ in cases],
    )


TESTS = ({"assert": "f()"},)
SAMPLES = samples_of(
    ("x", "algebra", [1.0, 1.0, 0.0, 0.0], ["1", "1.0", "2", None]),
    ("x", "geometry", [1.0, 0.0, 0.0, 0.5], ["1", "2", "3", "4"]),
    ("y", "algebra", [0.0, 0.0, 0.0, 0.0], ["2", "2", "4/2", None]),
)


def never(pairs: object) -> list[bool]:
    return []


def measured(samples: GradedSamples) -> tuple[list[list[Cluster] | None], list[dict[str, float]]]:
    clusters = votes(samples, never)
    return clusters, problem_metrics(samples, [1, 2], clusters)


def test_metrics_by_hand() -> None:
    assert measured(SAMPLES)[1] == [
        {"pass@1": 0.5, "pass@2": pytest.approx(5 / 6), "majority@4": 1.0, "truncated": 0.25, "unboxed": 0.25,
         "timeout": 0.25, "length": 25.0},
        {"pass@1": 0.25, "pass@2": 0.5, "majority@4": 0.25, "truncated": 0.0, "unboxed": 0.0, "timeout": 0.75,
         "length": 25.0},
        {"pass@1": 0.0, "pass@2": 0.0, "majority@4": 0.0, "truncated": 0.25, "unboxed": 0.25, "timeout": 0.75,
         "length": 25.0},
    ]  # fmt: skip


def test_rows_by_file_and_domain_and_over_all() -> None:
    rows = summarize(SAMPLES, measured(SAMPLES)[1], stage="s")
    means = {(row["file"], row["domain"]): row["mean"] for row in rows if row["metric"] == "pass@1"}
    assert means == {
        ("x", "algebra"): 0.5, ("x", "geometry"): 0.25, ("x", "all"): 0.375,
        ("y", "algebra"): 0.0,
        ("all", "algebra"): 0.25, ("all", "geometry"): 0.25, ("all", "all"): 0.25,
    }  # fmt: skip
    one = next(row for row in rows if (row["file"], row["domain"], row["metric"]) == ("x", "all", "pass@1"))
    assert one["standard_error"] == pytest.approx(0.125)  # of 0.5 and 0.25
    assert one["low"] <= one["mean"] <= one["high"]
    assert (one["problems"], one["samples"], one["stage"]) == (2, 4, "s")
    alone = next(row for row in rows if (row["file"], row["metric"]) == ("y", "pass@1"))
    assert alone["standard_error"] is None  # nothing is known of a spread


def test_programs_are_not_voted_on() -> None:
    samples = samples_of(("", "code", [1.0, 0.0], [None, None]), ("", "algebra", [1.0, 1.0], ["1", "1"]))
    rows = summarize(samples, measured(samples)[1])
    counts = {(row["domain"], row["metric"]): row["problems"] for row in rows}
    assert ("code", "majority@2") not in counts
    assert (counts["all", "majority@2"], counts["all", "pass@1"]) == (1, 2)
    assert "file" not in rows[0]


def test_the_hardest_come_first_with_what_they_were_answered() -> None:
    records = listing(SAMPLES, measured(SAMPLES)[0])
    rates = [(record["id"], record["pass_rate"]) for record in records]
    assert rates == [("yalgebra", 0), ("xgeometry", 0.25), ("xalgebra", 0.5)]
    assert records[0]["majority"] == "2"
    assert records[0]["answers"] == [{"answer": "2", "samples": 3, "right": False}]
    assert (records[0]["expected"], records[0]["truncated"]) == ("1", 1)
    assert records[2]["answers"][0] == {"answer": "1", "samples": 2, "right": True}


def test_the_standard_error_is_that_of_many_evaluations() -> None:
    """New problems and new samples every time; the error of independent samples would be less than half of it."""
    rng = np.random.default_rng(0)
    rates = rng.binomial(64, rng.beta(0.5, 0.5, size=(20_000, 30))) / 64
    errors = np.array([standard_error(own) or 0 for own in rates])
    assert fmean(errors**2) == pytest.approx(rates.mean(1).var(), rel=0.03)
    assert np.sqrt(0.25 / (30 * 64)) < 0.3 * errors.mean()


def test_it_is_the_sandwich_estimator_of_a_regression_on_a_constant() -> None:
    """Residuals summed within each problem, squared, over the squared number of samples; P / (P − 1) for few."""
    rng = np.random.default_rng(1)
    samples = rng.random((12, 8)) < rng.random((12, 1))
    residuals = samples - samples.mean()
    meat = sum(float(own.sum()) ** 2 for own in residuals)
    expected = (meat / samples.size**2 * 12 / 11) ** 0.5
    assert standard_error(samples.mean(1)) == pytest.approx(expected)
    assert standard_error([0.5]) is None
