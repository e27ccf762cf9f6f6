"""The steps from raw rows to clean domain data, in their order.

Unusable rows, benchmark problems, exact duplicates and near duplicates are removed, solutions are graded, and the rest
is split. A near duplicate of a benchmark problem is removed like the problem itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain

from vibethinker.datamodules.prepare.candidates import Candidate, Removed, read_benchmarks, read_sources
from vibethinker.datamodules.prepare.decontamination import BenchmarkIndex
from vibethinker.datamodules.prepare.duplicates import near_duplicates
from vibethinker.datamodules.prepare.settings import Duplicates, Settings
from vibethinker.datamodules.prepare.solutions import TIMEOUT, with_right_solutions
from vibethinker.problems import SPLITS, Problem, Split, normalized_prompt, split_of
from vibethinker.rewards import MathReward
from vibethinker.utils.meter import tracked

Group = list[Candidate]  # rows of one prompt; the first one is kept


@dataclass(frozen=True)
class Prepared:
    """The result."""

    splits: Mapping[Split, Sequence[Problem]]  # the problems that are kept
    removed: Sequence[Removed]  # all other rows, in the order of sources and lines
    rows: Mapping[str, int]  # number of rows of each source file
    benchmarks: Mapping[str, int]  # number of rows of each benchmark file
    boxed: int  # number of problems whose answer was taken from a solution
    solutions: Mapping[str, int]  # number of solutions of these problems by outcome


def prepare(settings: Settings) -> Prepared:
    """Clean domain data from raw rows, a pure function of the settings and the files that they name.

    Raises:
        FileNotFoundError, ValueError: naming file, line or option; or no problem is left.
    """
    index, benchmark_sizes = read_benchmarks(settings)
    candidates, removed, sizes = read_sources(settings)
    with MathReward(timeout=TIMEOUT) as reward:  # every step below adds the rows that it removes to `removed`
        by_prompt: defaultdict[str, Group] = defaultdict(list)
        for candidate in _with_comparable_answers(candidates, reward, removed):
            by_prompt[normalized_prompt(candidate.problem.prompt)].append(candidate)
        groups, contaminated = _without_benchmarks(list(by_prompt.values()), index, removed)
        groups = _with_one_answer(groups, reward, removed)
        groups = _without_duplicates(groups, contaminated, settings.duplicates, reward, removed)
        problems, outcomes = with_right_solutions([_merged(group) for group in groups], settings.solutions, reward)
    if not problems:
        reasons = Counter(row.reason for row in removed).most_common()
        raise ValueError(f"no row is left: {', '.join(f'{count} {reason}' for reason, count in reasons)}")
    splits: dict[Split, list[Problem]] = {name: [] for name in SPLITS}
    for problem in problems:
        splits[split_of(problem.prompt)].append(problem)
    order = {name: i for i, name in enumerate(sizes)}
    removed.sort(key=lambda row: (order[row.source], row.line))
    return Prepared(splits, removed, sizes, benchmark_sizes, sum(group[0].boxed for group in groups), outcomes)


def _with_comparable_answers(
    candidates: Sequence[Candidate], reward: MathReward, removed: list[Removed]
) -> list[Candidate]:
    """An answer without content is not even equal to itself: no completion could be right."""
    answers = sorted({c.problem.answer for c in candidates if c.problem.answer is not None})
    usable = dict(zip(answers, reward.compare([(answer, answer) for answer in answers]), strict=True))
    kept: list[Candidate] = []
    for candidate in candidates:
        answer = candidate.problem.answer
        if candidate.problem.tests or (answer is not None and usable[answer]):
            kept.append(candidate)
        else:
            removed.append(candidate.removed("no answer", detail=f"{answer!r:.80} can be compared with nothing"))
    return kept


def _without_benchmarks(
    groups: Sequence[Group], index: BenchmarkIndex, removed: list[Removed]
) -> tuple[list[Group], list[Group]]:
    """The groups that are in no benchmark, and the others."""
    clean: list[Group] = []
    contaminated: list[Group] = []
    for group in tracked(groups, "Comparing with benchmarks"):
        matches = [asdict(match) for match in index.matches(group[0].problem.prompt)]
        (contaminated if matches else clean).append(group)
        if matches:
            removed += [row.removed("contaminated", matches=matches) for row in group]
    return clean, contaminated


def _with_one_answer(groups: Sequence[Group], reward: MathReward, removed: list[Removed]) -> list[Group]:
    """One prompt with two answers: nothing tells which is right."""
    kept: list[Group] = []
    for group in groups:
        if all(_agree(group[0].problem, row.problem, reward) for row in group[1:]):
            kept.append(group)
        else:
            ids = [row.problem.id for row in group]
            removed += [row.removed("answers differ", answer=row.problem.answer, rows=ids) for row in group]
    return kept


def _agree(a: Problem, b: Problem, reward: MathReward) -> bool:
    """True if the answers are equal; problems with tests always agree, as tests of one problem may differ."""
    if a.answer is None or b.answer is None:
        return True
    return a.answer == b.answer or reward.compare([(b.answer, a.answer)])[0]


def _without_duplicates(
    groups: Sequence[Group],
    contaminated: Sequence[Group],
    options: Duplicates,
    reward: MathReward,
    removed: list[Removed],
) -> list[Group]:
    """Near duplicates join the group of the row that is kept; all rows of a group but the first are removed."""
    every = [*contaminated, *groups]  # contaminated ones first, so that their near duplicates are removed
    firsts = [group[0].problem for group in every]

    def same(i: int, j: int) -> bool:
        return firsts[i].tests == firsts[j].tests and _agree(firsts[i], firsts[j], reward)

    prompts, fixed = [problem.prompt for problem in firsts], len(contaminated)
    near = near_duplicates(prompts, options.similarity, options.shingle, same, fixed)
    kept = {i: list(every[i]) for i in range(fixed, len(every)) if i not in near}
    removed += [row.removed("duplicate", of=group[0].problem.id) for group in kept.values() for row in group[1:]]
    for i, (of, similarity) in near.items():
        why = {"of": firsts[of].id, "similarity": round(similarity, 4)}
        removed += [row.removed("near duplicate", **why) for row in every[i]]
        if of in kept:
            kept[of] += every[i]
    return list(kept.values())


def _merged(group: Group) -> Problem:
    """The first problem, with the solutions of all rows that have the same tests."""
    first = group[0].problem
    alike = [row.problem for row in group if row.problem.tests == first.tests]
    return replace(first, solutions=tuple(dict.fromkeys(chain.from_iterable(p.solutions for p in alike))))
