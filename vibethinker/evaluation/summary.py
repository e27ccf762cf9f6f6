"""Metrics of samples over files and domains, with their uncertainty: pass@K, majority votes, truncation, lengths.

Problems are the unit of every interval and standard error, since the samples of one problem are not independent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from operator import itemgetter
from statistics import fmean
from typing import Any, Final

from vibethinker.evaluation.grading import GradedSamples
from vibethinker.evaluation.voting import Cluster, Compare, cluster_answers, majority
from vibethinker.metrics.functional import bootstrap_interval, distinct_solutions, pass_at_k, standard_error

FEW: Final = 20  # problems below which an interval is too narrow
ALL: Final = "all"
_CLUSTERS_SHOWN: Final = 5

Row = dict[str, Any]
Metrics = dict[str, float]

# Metrics of one problem's samples by name, beside those of correctness; users may add their own. Texts are not loaded.
METRICS: dict[str, Callable[[GradedSamples, int], float]] = {
    "truncated": lambda samples, i: 1 - fmean(samples.finished[i].tolist()),
    "unboxed": lambda samples, i: fmean(samples.unboxed[samples.group(i)]),
    "timeout": lambda samples, i: fmean(kind == "timeout" for kind in samples.kinds[samples.group(i)]),
    "length": lambda samples, i: fmean(samples.lengths[i].tolist()),
}


def votes(samples: GradedSamples, compare: Compare) -> list[list[Cluster] | None]:
    """The clusters of each problem's answers; `None` for programs, which are not voted on."""
    answers = [samples.answers[samples.group(i)] for i, problem in enumerate(samples.problems) if not problem.tests]
    found = iter(cluster_answers(answers, compare))
    return [None if problem.tests else next(found) for problem in samples.problems]


def distinct_counts(samples: GradedSamples) -> list[int]:
    """The number of distinct correct solutions of each problem."""
    return [
        distinct_solutions(samples.completions[samples.group(i)], correct, programs=bool(problem.tests))
        for i, (problem, correct) in enumerate(zip(samples.problems, samples.correct.tolist(), strict=True))
    ]


def problem_metrics(
    samples: GradedSamples,
    ks: Sequence[int],
    clusters: Sequence[Sequence[Cluster] | None] | None = None,
    distinct: Sequence[int] | None = None,
) -> list[Metrics]:
    """Every metric of each problem; pass@1 is avg@n.

    Args:
        samples: graded, with answers; completions are not needed.
        ks: of pass@K.
        clusters: of the answers, as `votes` gives them; without them there is no majority.
        distinct: as `distinct_counts` gives them; without them they are left out.
    """
    n, metrics = samples.n, []
    for i, correct in enumerate(samples.correct.tolist()):
        values = {f"pass@{k}": pass_at_k(n, sum(correct), k) for k in ks}
        if clusters is not None and (cluster := clusters[i]) is not None:
            values[f"majority@{n}"] = majority(cluster, correct)
        if distinct is not None:
            values["distinct_solutions"] = distinct[i]
        metrics.append(values | {name: metric(samples, i) for name, metric in METRICS.items()})
    return metrics


def summarize(samples: GradedSamples, metrics: Sequence[Metrics], **labels: Any) -> list[Row]:
    """One row for each file, domain and metric: the mean over problems, its 95% interval and its standard error.

    Where there are several domains, or several files, `all` of them come last; a mean over files is over their
    problems. Rows have a `file` where the problems are from files.

    Args:
        samples: graded.
        metrics: of each problem; a row counts the problems that have its metric.
        labels: further entries of every row.
    """
    rows: list[Row] = []
    problems = list(zip(samples.files, (p.domain for p in samples.problems), metrics, strict=True))
    files = list(dict.fromkeys(samples.files))
    for file in [*files, *([ALL] if len(files) > 1 else [])]:
        of_file = [(domain, values) for name, domain, values in problems if file in (ALL, name)]
        domains = sorted({domain for domain, _ in of_file})
        for domain in [*domains, *([ALL] if len(domains) > 1 else [])]:
            own = [values for name, values in of_file if domain in (ALL, name)]
            group = {**labels, **({"file": file} if file else {}), "domain": domain}
            rows += [{**group, **row, "samples": samples.n} for row in _rows(own)]
    return rows


def _rows(metrics: Sequence[Metrics]) -> list[Row]:
    rows = []
    for metric in dict.fromkeys(name for values in metrics for name in values):
        own = [values[metric] for values in metrics if metric in values]
        interval = bootstrap_interval(own)._asdict()
        rows.append({"metric": metric, **interval, "standard_error": standard_error(own), "problems": len(own)})
    return rows


def listing(samples: GradedSamples, clusters: Sequence[Sequence[Cluster] | None]) -> list[dict[str, Any]]:
    """A record of each problem with its pass rate and its most frequent answers, the hardest problem first.

    Each answer has the number of its samples and is marked right or wrong; samples without an answer count in none.
    """
    return sorted((_record(samples, *both) for both in enumerate(clusters)), key=itemgetter("pass_rate"))


def _record(samples: GradedSamples, index: int, clusters: Sequence[Cluster] | None) -> dict[str, Any]:
    problem, file, correct = samples.problems[index], samples.files[index], samples.correct[index].tolist()
    record = {
        **({"file": file} if file else {}),
        "id": problem.id,
        "domain": problem.domain,
        "expected": problem.expected,
        "pass_rate": fmean(correct),
        "truncated": int((~samples.finished[index]).sum()),
        "kinds": dict(Counter(samples.kinds[samples.group(index)]).most_common()),
    }
    if clusters is None:
        return record
    answers = [
        {"answer": c.answer, "samples": len(c.samples), "right": any(correct[sample] for sample in c.leaders)}
        for c in clusters[:_CLUSTERS_SHOWN]
    ]
    return {**record, "majority": clusters[0].answer if clusters else None, "answers": answers}
