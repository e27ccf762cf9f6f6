"""Training problems filtered by how often a given checkpoint solves them.

Reinforcement learning learns nothing from problems that are solved always or never (arXiv 2606.16140, section 2.2.2);
fine-tuning on hard reasoning uses problems that are mostly failed, with long solutions (section 2.1).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from vibethinker.datamodules.reading.fields import Row
from vibethinker.datamodules.reading.problem_files import read_problems
from vibethinker.datamodules.reading.tables import files_by_split
from vibethinker.evaluation.evaluator import Evaluation, EvaluationOptions
from vibethinker.evaluation.store import SampleStore
from vibethinker.models.source import ModelSource
from vibethinker.problems import Problem, Split, split_of
from vibethinker.rewards import DispatchReward, Reward
from vibethinker.rewards.base import as_verifier, name_of
from vibethinker.rollout.scheduler import Progress
from vibethinker.utils.atomic import staged_folder, write_atomic

MANIFEST: Final = "manifest.json"
RATE: Final = "pass_rate"  # the column that is added


@dataclass(frozen=True)
class Criteria:
    """Which training problems to keep; without bounds, those that are solved neither always nor never.

    Raises:
        ValueError: a bound outside its range, or the two the wrong way round.
    """

    min_error_rate: float | None = None  # least fraction of wrong samples
    max_error_rate: float | None = None  # largest fraction of wrong samples
    min_solution_tokens: int = 0  # drops shorter solutions, and problems that have no other

    def __post_init__(self) -> None:
        low, high = self._bounds
        if not 0 <= low <= high <= 1:
            raise ValueError(f"--min-error-rate {low} and --max-error-rate {high} must be 0 <= min <= max <= 1")
        if self.min_solution_tokens < 0:
            raise ValueError(f"--min-solution-tokens must not be negative, got {self.min_solution_tokens}")

    @property
    def _bounds(self) -> tuple[float, float]:
        return self.min_error_rate or 0.0, 1.0 if self.max_error_rate is None else self.max_error_rate

    def keeps(self, solved: int, samples: int) -> bool:
        """Returns True for a problem with `solved` of `samples` correct that is neither too easy nor too hard."""
        if self.min_error_rate is None and self.max_error_rate is None:
            return 0 < solved < samples
        error_rate = (samples - solved) / samples  # not 1 − solved/samples, which may miss a bound by a rounding
        return self._bounds[0] <= error_rate <= self._bounds[1]


@dataclass(frozen=True)
class _Kept:
    """A row that is kept; `solutions` replaces its own unless it is `None`."""

    row: Row
    pass_rate: float | None
    solutions: list[str] | None = None


def filter_by_difficulty(
    model: str,
    data: str | Path,
    out: str | Path,
    criteria: Criteria | None = None,
    *,
    settings: EvaluationOptions | None = None,
    reward: Reward | None = None,
    fields: Mapping[str, str] | None = None,
    skip_long: bool = False,
    slots: int = 256,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Samples every training problem and writes a data folder with those that the criteria keep.

    The folder is for `DomainDataModule`. Rows keep all columns and get a `pass_rate`. Held-out files are copied, and
    rows of the training file that the loader holds out by the hash of their prompt stay without samples, so held-out
    sets are the same before and after. Samples are stored beside the folder, in `OUT.samples`: other criteria need no
    model, and a killed run continues.

    Args:
        model: folder, hub name, or `nano`.
        data: a `.jsonl` or `.parquet` file, or a folder with a `train` file.
        out: the new folder; an earlier result is replaced.
        criteria: which problems to keep; by default those that are solved sometimes.
        settings: options of sampling; 8 samples by default.
        reward: grades the completions; a store tells one from another by name.
        fields: as in `DomainDataModule`.
        skip_long: drop problems whose prompt leaves no room for `settings.max_new_tokens`.
        slots: sequences at a time.
        overwrite: drop the stored samples.
        progress: called with completions done and in all.

    Returns:
        The content of `manifest.json`: options, and counts by domain.

    Raises:
        FileNotFoundError, ValueError: before sampling, naming the file, row or option; after it, if no problem is kept.
    """
    criteria, settings, out = criteria or Criteria(), settings or EvaluationOptions(), Path(out)
    train, held_out = _files(Path(data))
    if out.exists() and not (out / MANIFEST).is_file():
        raise ValueError(f"{out}: is there already, and not a folder of filtered data")
    rows = read_problems(train, fields or {})
    asked = [p for _, p in rows if (home := split_of(p.prompt)) == "train" or home in held_out]
    if not asked:
        raise ValueError(f"{train}: all of its problems are held out")
    evaluation = Evaluation(ModelSource.of(model), {"": asked}, settings, skip_long=skip_long)
    verifier = as_verifier(reward or DispatchReward(), "reward")
    folder = out.with_name(f"{out.name}.samples")
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    store = SampleStore(folder, {**evaluation.options, "--reward": name_of(verifier)})
    with verifier:
        evaluation.run(store, verifier, slots=slots, progress=progress)
    solved = {problem: counts for (_, problem), counts in store.solved().items()}
    kept, counts = _choose(rows, {p.id for p in asked}, solved, criteria, evaluation.tokenizer)
    if all(row.pass_rate is None for row in kept):
        domains = counts["domains"].items()
        listed = (f"{name}: {', '.join(f'{n} {what}' for what, n in own.items())}" for name, own in domains)
        raise ValueError(f"{train}: none of its problems is kept: {'; '.join(listed)}")
    manifest = {"model": model, "data": str(data), "criteria": asdict(criteria), "options": store.options, **counts}
    with staged_folder(out) as scratch:
        for path in chain.from_iterable(held_out.values()):
            shutil.copy(path, scratch / path.name)
        _write(scratch / f"train{train.suffix}", train, kept)
        write_atomic(scratch / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1))
    return manifest


def _files(data: Path) -> tuple[Path, dict[Split, list[Path]]]:
    """The training file, and the held-out files beside it by split."""
    if not data.is_dir():
        return data, {}  # `read_problems` says what is wrong with it
    found = files_by_split(str(data))
    train = found.pop("train", [])
    if len(train) != 1:
        raise ValueError(f"{data}: holds {len(train)} files train.jsonl or train.parquet, one is needed")
    return train[0], found


def _choose(
    rows: Sequence[tuple[Row, Problem]],
    asked: set[str],
    solved: Mapping[str, tuple[int, int]],
    criteria: Criteria,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[list[_Kept], dict[str, Any]]:
    """The rows to keep, and counts of all of them."""
    kept: list[_Kept] = []
    domains: dict[str, Counter[str]] = {}
    held_out = too_long = 0
    for row, problem in rows:
        if problem.id not in asked:
            held_out += 1
            kept.append(_Kept(row, None))
            continue
        if problem.id not in solved:
            too_long += 1
            continue
        right, samples = solved[problem.id]
        count = domains.setdefault(problem.domain, Counter(problems=0, never=0, between=0, always=0, kept=0, short=0))
        count.update(("problems", "never" if right == 0 else "always" if right == samples else "between"))
        if not criteria.keeps(right, samples):
            continue
        solutions = _long_solutions(row, problem, criteria.min_solution_tokens, tokenizer)
        if criteria.min_solution_tokens and not solutions:
            count.update(("short",))
            continue
        count.update(("kept",))
        kept.append(_Kept(row, right / samples, solutions if isinstance(row.value("solutions"), list) else None))
    counts = {"domains": {name: dict(count) for name, count in sorted(domains.items())}}
    return kept, {**counts, "held_out": held_out, "prompt_too_long": too_long}


def _long_solutions(row: Row, problem: Problem, least: int, tokenizer: PreTrainedTokenizerBase) -> list[str] | None:
    """The solutions with at least so many tokens; `None` if there is no bound."""
    if not least:
        return None
    value = row.value("solutions")
    texts = [text for text in value if text.strip()] if isinstance(value, list) else problem.solutions
    return [text for text in texts if len(tokenizer.encode(text, add_special_tokens=False)) >= least]


def _write(path: Path, source: Path, kept: Sequence[_Kept]) -> None:
    if source.suffix == ".jsonl":
        lines = (json.dumps(_row(one), ensure_ascii=False) for one in kept)
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return
    table = pq.read_table(source).take([one.row.number - 1 for one in kept])  # keeps the types of its columns
    if kept and any(one.solutions is not None for one in kept):
        column = kept[0].row.columns["solutions"]
        values = [one.row.raw[column] if one.solutions is None else one.solutions for one in kept]
        index = table.schema.get_field_index(column)
        table = table.set_column(index, column, pa.array(values, table.schema.field(column).type))
    if RATE in table.column_names:
        table = table.drop_columns([RATE])
    pq.write_table(table.append_column(RATE, pa.array([one.pass_rate for one in kept], pa.float64())), path)


def _row(kept: _Kept) -> dict[str, Any]:
    row = dict(kept.row.raw)
    if kept.solutions is not None:
        row[kept.row.columns["solutions"]] = kept.solutions
    return row if kept.pass_rate is None else {**row, RATE: kept.pass_rate}
