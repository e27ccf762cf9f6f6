"""What samples come to: pass@K, majority, truncation, lengths, over files and domains, with their uncertainty.

Problems are the unit of every interval and standard error, since the samples of one problem are not independent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Final

from vibethinker.evaluation.store import Said
from vibethinker.evaluation.voting import Cluster, Compare, cluster_answers, majority
from vibethinker.metrics.functional import bootstrap_interval, pass_at_k, standard_error

FEW: Final = 20  # problems below which an interval is too narrow
ALL: Final = "all"
_CLUSTERS_SHOWN: Final = 5

Row = dict[str, Any]
Figures = dict[str, float]


def votes(said: Sequence[Said], compare: Compare) -> list[list[Cluster] | None]:
    """The clusters of each problem's answers; `None` for programs, which are not voted on."""
    voting = [one for one in said if not one.problem.tests]
    found = iter(cluster_answers([one.given for one in voting], compare))
    return [None if one.problem.tests else next(found) for one in said]


def figures(said: Said, clusters: Sequence[Cluster] | None, ks: Sequence[int], distinct: int | None = None) -> Figures:
    """Every metric of one problem; pass@1 is avg@n.

    Args:
        said: its samples, their completions aside.
        clusters: of its answers, as `votes` gives them.
        ks: of pass@K.
        distinct: its distinct correct solutions, where they have been counted.
    """
    n, correct = len(said.outcomes), said.correct
    values = {f"pass@{k}": pass_at_k(n, sum(correct), k) for k in ks}
    if clusters is not None:
        values[f"majority@{n}"] = majority(clusters, correct)
    if distinct is not None:
        values["distinct_solutions"] = distinct
    values["truncated"] = 1 - fmean(said.finished)
    values["unboxed"] = fmean(said.unboxed)
    values["timeout"] = fmean(kind == "timeout" for kind in said.kinds)
    values["length"] = fmean(said.tokens)
    return values


def summarize(said: Sequence[Said], values: Sequence[Figures], **labels: Any) -> list[Row]:
    """One row for each file, domain and metric: the mean over problems, its 95% interval and its standard error.

    Where there are several domains, or several files, `all` of them come last; a mean over files is over their
    problems. Rows have a `file` where the problems are of files.

    Args:
        said: the samples of each problem.
        values: the metrics of each; a row counts the problems that have its metric.
        labels: further entries of every row.
    """
    rows: list[Row] = []
    files = list(dict.fromkeys(one.file for one in said))
    for file in [*files, *([ALL] if len(files) > 1 else [])]:
        of_file = [(one, v) for one, v in zip(said, values, strict=True) if file in (ALL, one.file)]
        domains = sorted({one.problem.domain for one, _ in of_file})
        for domain in [*domains, *([ALL] if len(domains) > 1 else [])]:
            own = [v for one, v in of_file if domain in (ALL, one.problem.domain)]
            place = {**labels, **({"file": file} if file else {}), "domain": domain}
            rows += _rows(own, place, len(of_file[0][0].outcomes))
    return rows


def _rows(values: Sequence[Figures], place: Mapping[str, Any], samples: int) -> list[Row]:
    metrics = dict.fromkeys(metric for figure in values for metric in figure)
    rows = []
    for metric in metrics:
        own = [figure[metric] for figure in values if metric in figure]
        interval = bootstrap_interval(own)
        bounds = {"mean": interval.mean, "low": interval.low, "high": interval.high}
        counts = {"standard_error": standard_error(own), "problems": len(own), "samples": samples}
        rows.append({**place, "metric": metric, **bounds, **counts})
    return rows


def listing(said: Sequence[Said], clusters: Sequence[list[Cluster] | None]) -> list[dict[str, Any]]:
    """Each problem with its pass rate and what it was answered with, the hardest first.

    The most frequent answers are given with how many samples have them and whether they are right; a sample without an
    answer is in none.
    """
    records = [_record(*both) for both in zip(said, clusters, strict=True)]
    return sorted(records, key=lambda record: record["pass_rate"])


def _record(said: Said, clusters: Sequence[Cluster] | None) -> dict[str, Any]:
    problem = said.problem
    record = {
        **({"file": said.file} if said.file else {}),
        "id": problem.id,
        "domain": problem.domain,
        "expected": problem.expected,
        "pass_rate": fmean(said.correct),
        "truncated": sum(not finished for finished in said.finished),
        "kinds": dict(Counter(said.kinds).most_common()),
    }
    if clusters is None:
        return record
    answers = [
        {"answer": c.answer, "samples": len(c.samples), "right": any(said.correct[place] for place in c.leaders)}
        for c in clusters[:_CLUSTERS_SHOWN]
    ]
    return {**record, "majority": clusters[0].answer if clusters else None, "answers": answers}
