"""The steps from raw rows to domain data, in the order in which they are taken.

Rows, what is unusable, benchmarks, exact duplicates, near duplicates, solutions, splits. A clean row that nearly
duplicates a contaminated one goes with it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from vibethinker.datamodules.prepare.candidates import Candidate, Removed, read_benchmarks, read_sources
from vibethinker.datamodules.prepare.decontamination import BenchmarkIndex, Match
from vibethinker.datamodules.prepare.duplicates import near_duplicates
from vibethinker.datamodules.prepare.settings import Duplicates, Settings
from vibethinker.datamodules.prepare.solutions import TIMEOUT, verified
from vibethinker.problems import SPLITS, Problem, Split, normalized_prompt, split_of
from vibethinker.rewards import MathReward
from vibethinker.utils.meter import tracked

Group = list[Candidate]  # rows of one prompt, the first of which stays


@dataclass(frozen=True)
class Prepared:
    """What became of every row.

    Attributes:
        splits: the problems that stay.
        removed: rows that do not, in the order of sources and lines.
        rows: number of rows of each source file.
        benchmarks: number of rows of each benchmark file.
        boxed: problems whose answer was taken from a solution.
        solutions: what became of the solutions of those that stay.
    """

    splits: Mapping[Split, Sequence[Problem]]
    removed: Sequence[Removed]
    rows: Mapping[str, int]
    benchmarks: Mapping[str, int]
    boxed: int
    solutions: Mapping[str, int]


def prepare(settings: Settings) -> Prepared:
    """Clean domain data from raw rows; a function of the settings and the files that they name.

    Raises:
        FileNotFoundError, ValueError: naming file, line or option; or nothing is left.
    """
    index, benchmark_sizes = read_benchmarks(settings)
    candidates, removed, sizes = read_sources(settings)
    with MathReward(timeout=TIMEOUT) as reward:
        candidates, empty = _without_empty_answers(candidates, reward)
        groups, hit, contaminated = _without_benchmarks(_by_prompt(candidates), index)
        groups, differing = _without_differing_answers(groups, reward)
        groups, duplicates = _without_duplicates(groups, hit, settings.duplicates, reward)
        problems, fates = verified([_merged(group) for group in groups], settings.solutions, reward)
    gone = [*removed, *empty, *contaminated, *differing, *duplicates]
    if not problems:
        reasons = Counter(row.reason for row in gone).most_common()
        raise ValueError(f"no row is left: {', '.join(f'{count} {reason}' for reason, count in reasons)}")
    splits: dict[Split, list[Problem]] = {name: [] for name in SPLITS}
    for problem in problems:
        splits[split_of(problem.prompt)].append(problem)
    order = {name: place for place, name in enumerate(sizes)}
    gone.sort(key=lambda row: (order[row.source], row.line))
    return Prepared(splits, gone, sizes, benchmark_sizes, sum(group[0].boxed for group in groups), fates)


def _by_prompt(candidates: Sequence[Candidate]) -> list[Group]:
    groups: defaultdict[str, Group] = defaultdict(list)
    for candidate in candidates:
        groups[normalized_prompt(candidate.problem.prompt)].append(candidate)
    return list(groups.values())


def _without_empty_answers(
    candidates: Sequence[Candidate], reward: MathReward
) -> tuple[list[Candidate], list[Removed]]:
    """An answer that says nothing is not even equal to itself: no completion could be right."""
    answers = sorted({c.problem.answer for c in candidates if c.problem.answer is not None})
    usable = dict(zip(answers, reward.compare([(answer, answer) for answer in answers]), strict=True))
    kept: list[Candidate] = []
    removed: list[Removed] = []
    for candidate in candidates:
        answer = candidate.problem.answer
        if candidate.problem.tests or (answer is not None and usable[answer]):
            kept.append(candidate)
        else:
            removed.append(candidate.removed("no answer", detail=f"{answer!r:.80} can be compared with nothing"))
    return kept, removed


def _without_benchmarks(
    groups: Sequence[Group], index: BenchmarkIndex
) -> tuple[list[Group], list[Group], list[Removed]]:
    """The groups that no benchmark has, those that one has, and the rows of the latter."""
    clean: list[Group] = []
    hit: list[Group] = []
    removed: list[Removed] = []
    for group in tracked(groups, "Comparing with benchmarks"):
        matches = index.matches(group[0].problem.prompt)
        (hit if matches else clean).append(group)
        if matches:
            removed += [row.removed("contaminated", matches=[_record(match) for match in matches]) for row in group]
    return clean, hit, removed


def _record(match: Match) -> dict[str, str | int]:
    return {"benchmark": match.benchmark, "id": match.id, "shared": match.shared, "ngram": match.ngram}


def _without_differing_answers(groups: Sequence[Group], reward: MathReward) -> tuple[list[Group], list[Removed]]:
    """One prompt with two answers: nothing says which is right."""
    kept: list[Group] = []
    removed: list[Removed] = []
    for group in groups:
        first = group[0].problem
        other = next((row.problem for row in group[1:] if not _agree(first, row.problem, reward)), None)
        if other is None:
            kept.append(group)
        else:
            ids = [row.problem.id for row in group]
            removed += [row.removed("answers differ", answer=row.problem.answer, rows=ids) for row in group]
    return kept, removed


def _agree(a: Problem, b: Problem, reward: MathReward) -> bool:
    """Equal answers; programs may have different tests of one thing."""
    if a.answer is None or b.answer is None:
        return True
    return a.answer == b.answer or reward.compare([(b.answer, a.answer)])[0]


def _without_duplicates(
    groups: Sequence[Group], hit: Sequence[Group], options: Duplicates, reward: MathReward
) -> tuple[list[Group], list[Removed]]:
    """Near duplicates join the group of the row that stays; all but the first of a group are removed."""
    every = [*hit, *groups]  # those that a benchmark has first: what nearly duplicates one of them goes too
    firsts = [group[0].problem for group in every]

    def same(i: int, j: int) -> bool:
        return firsts[i].tests == firsts[j].tests and _agree(firsts[i], firsts[j], reward)

    left_out = near_duplicates([p.prompt for p in firsts], options.similarity, options.shingle, same, fixed=len(hit))
    kept = {place: list(every[place]) for place in range(len(hit), len(every)) if place not in left_out}
    removed = [row.removed("duplicate", of=group[0].problem.id) for group in kept.values() for row in group[1:]]
    for place, (of, similarity) in left_out.items():
        why = {"of": firsts[of].id, "similarity": round(similarity, 4)}
        removed += [row.removed("near duplicate", **why) for row in every[place]]
        if of in kept:
            kept[of] += every[place]
    return list(kept.values()), removed


def _merged(group: Group) -> Problem:
    """The first problem, with the solutions of all rows that are judged as it is."""
    first = group[0].problem
    alike = [row.problem for row in group if row.problem.tests == first.tests]
    return replace(first, solutions=tuple(dict.fromkeys(chain.from_iterable(p.solutions for p in alike))))
