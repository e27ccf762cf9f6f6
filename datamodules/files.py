"""Problems from JSONL and Parquet files, folders of them, and data sets of the hub.

Every row is checked before training begins. A bad one is an error that names file, line and field.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from rich.progress import track

from vibethinker.datamodules.layouts import Tests, read_tests
from vibethinker.problems import SPLITS, Problem, Split, normalized_prompt, split_of
from vibethinker.rewards.extract import parsed, says_something
from vibethinker.rewards.math import final_answer
from vibethinker.sandbox import cases

# Where a field is looked for when the field map does not say; the first column that exists is taken.
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "prompt": ("prompt", "problem", "question", "question_content"),
    "answer": ("answer",),
    "solutions": ("solutions", "solution", "canonical_solution"),
    "tests": ("tests", "test_list", "input_output", "public_test_cases", "test"),
    "hidden_tests": ("private_test_cases",),
    "setup": ("setup", "test_setup_code"),
    "entry_point": ("entry_point",),
    "starter": ("starter_code",),
    "domain": ("domain",),
    "id": ("id", "task_id", "question_id", "problem_id"),
}
SUFFIXES: Final = (".jsonl", ".parquet")
_SPLIT_NAMES: Final[dict[str, Split]] = {**{name: name for name in SPLITS}, "validation": "val"}
_QUICK: Final = 20_000  # rows that are read well within two seconds


@dataclass(frozen=True)
class Table:
    """The raw rows of one file or hub split.

    Attributes:
        name: what an error calls it.
        unit: what its numbers count: lines of a text file, rows of a table; both from 1.
        rows: number and content of each.
    """

    name: str
    unit: Literal["line", "row"]
    rows: Sequence[tuple[int, Mapping[str, Any]]]


def load_problems(
    data: str, domains: Sequence[str], fields: Mapping[str, str], *, tests_needed: bool = False
) -> dict[Split, list[Problem]]:
    """All problems of the given domains, by split.

    A folder's files and a hub set's parts say with their names which split they are. What they leave unnamed (a single
    file names nothing) is cut from the training rows by `split_of`. A prompt that stands in a held-out split is left
    out of every other one.

    Args:
        data: a `.jsonl` or `.parquet` file, a folder that holds `train`, `probe`, `val` and `test` files of these
            kinds, or the name of a hub data set (`owner/name`, or `owner/name:configuration`).
        domains: the domains to keep. Rows without a domain belong to the only one asked for.
        fields: column name for each field that is not under its usual name (`COLUMNS`).
        tests_needed: whether a row without tests is an error, even if it has an answer.

    Raises:
        FileNotFoundError: if there is nothing under that name.
        ValueError: if the data, a column or a row is not as it should be.
    """
    parsed: dict[Split, list[Problem]] = {}
    known: set[str] = set()
    for split, table in _tables(data).items():
        if not table.rows:
            raise ValueError(f"{table.name}: is empty")
        parsed[split], found = _parse(table, find_columns(table, fields), domains, tests_needed)
        known |= found
    for domain in domains:
        if domain not in known:
            raise ValueError(f"{data}: no problem of domain {domain!r}; there are {', '.join(sorted(known))}")
    return _assign(data, parsed)


def source_kind(data: str) -> Literal["file", "folder", "hub"]:
    """What `data` names, without reading it.

    Raises:
        FileNotFoundError: if it can be neither a path nor a hub name.
        ValueError: if it is a file of a kind that is not read here.
    """
    path = Path(data)
    if path.is_dir():
        return "folder"
    if path.exists():
        if path.suffix not in SUFFIXES:
            raise ValueError(f"data: {data} is not one of the kinds that can be read: {', '.join(SUFFIXES)}")
        return "file"
    if path.suffix in SUFFIXES or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?", data):
        raise FileNotFoundError(f"data: there is no file or folder {data}")
    return "hub"


def _tables(data: str) -> dict[Split, Table]:
    kind = source_kind(data)
    if kind == "file":
        return {"train": read_table(Path(data))}
    if kind == "hub":
        return _read_hub(data)
    tables: dict[Split, Table] = {}
    for path in sorted(Path(data).iterdir()):
        split = _SPLIT_NAMES.get(path.stem)
        if split is None or path.suffix not in SUFFIXES:
            continue
        if split in tables:
            raise ValueError(f"{data}: {tables[split].name} and {path} are both the {split} split")
        tables[split] = read_table(path)
    if not tables:
        raise FileNotFoundError(
            f"data: {data} holds none of {', '.join(f'{name}.jsonl' for name in SPLITS)}, nor .parquet"
        )
    return tables


def read_table(path: Path) -> Table:
    """The rows of a `.jsonl` or `.parquet` file."""
    if path.suffix == ".jsonl":
        return Table(str(path), "line", _read_jsonl(path))
    from datasets import load_dataset  # takes seconds to import
    from datasets.exceptions import DatasetGenerationError

    with tempfile.TemporaryDirectory() as cache:  # nothing is left behind, beside the file or elsewhere
        try:
            rows = load_dataset("parquet", data_files=str(path), split="train", cache_dir=cache, keep_in_memory=True)
        except (DatasetGenerationError, OSError, ValueError) as error:
            raise ValueError(f"{path}: not a Parquet file that can be read ({error.__cause__ or error})") from error
        return Table(str(path), "row", list(enumerate(rows.to_list(), start=1)))


def _read_jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    # Parsed here because `datasets` does not say which line is broken.
    rows = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not valid JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
            rows.append((number, row))
    return rows


def _read_hub(data: str) -> dict[Split, Table]:
    from datasets import load_dataset

    name, _, configuration = data.partition(":")
    try:
        parts = load_dataset(name, configuration or None)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"data: {data} is no file or folder, and as a hub data set: {reason}") from error
    named = {_SPLIT_NAMES[part]: part for part in parts if part in _SPLIT_NAMES}
    if not named:
        raise ValueError(f"{data}: none of its parts ({', '.join(parts)}) is named {', '.join(_SPLIT_NAMES)}")
    return {
        split: Table(f"{data} {part}", "row", list(enumerate(parts[part].to_list(), start=1)))
        for split, part in named.items()
    }


def find_columns(
    table: Table, fields: Mapping[str, str], usual: Mapping[str, tuple[str, ...]] = COLUMNS, required: str = "prompt"
) -> dict[str, str]:
    """The column of each field that has one: the one that `fields` names, else the first of its usual names.

    Raises:
        ValueError: a column in `fields` that there is not, or none for the required field.
    """
    present = list(dict.fromkeys(column for _, row in table.rows for column in row))
    for field, column in fields.items():
        if column not in present:
            raise ValueError(
                f"{table.name}: fields maps {field!r} to {column!r}, which is none of its columns: {', '.join(present)}"
            )
    found = {field: next((c for c in names if c in present), None) for field, names in usual.items()}
    columns = {field: column for field, column in found.items() if column is not None} | dict(fields)
    if required not in columns:
        raise ValueError(
            f"{table.name}: no column for field {required!r} (looked for {', '.join(usual[required])}); "
            f"name it in fields; its columns are {', '.join(present)}"
        )
    return columns


def _parse(
    table: Table, columns: Mapping[str, str], domains: Sequence[str], tests_needed: bool
) -> tuple[list[Problem], set[str]]:
    """The problems of the asked domains, and all domains that there are."""
    from lightning.pytorch.utilities import rank_zero_only  # seconds that a reader of one table should not pay

    problems: dict[str, Problem] = {}
    known: set[str] = set()
    quick = len(table.rows) < _QUICK or getattr(rank_zero_only, "rank", 0) != 0
    for number, raw in track(table.rows, f"Reading {table.name}", transient=True, disable=quick):
        row = Row(table, columns, number, raw)
        domain = row.text("domain") or (domains[0] if len(domains) == 1 else None)
        if domain is None:
            raise row.error("domain", f"missing, and more than one is asked for ({', '.join(domains)})")
        known.add(domain)
        if domain in domains:
            problem = row.problem(domain, tests_needed)
            if problem.id in problems:
                raise row.error("id", f"{problem.id!r} is the id of an earlier {table.unit} too")
            problems[problem.id] = problem
    return list(problems.values()), known


@dataclass(frozen=True)
class Row:
    """One row and where it stands: its fields with their types, or an error that names file, line and field."""

    table: Table
    columns: Mapping[str, str]
    number: int
    raw: Mapping[str, Any]

    def error(self, field: str, what: str) -> ValueError:
        column = self.columns.get(field, field)
        label = f"field {field!r}" + (f" (column {column!r})" if column != field else "")
        return ValueError(f"{self.table.name}, {self.table.unit} {self.number}, {label}: {what}")

    def value(self, field: str) -> Any:
        return self.raw.get(self.columns[field]) if field in self.columns else None

    def text(self, field: str) -> str | None:
        value = self.value(field)
        if isinstance(value, int) and not isinstance(value, bool) and field in ("answer", "id"):
            return str(value)
        if value is None or (isinstance(value, str) and value.strip()):
            return value
        raise self.error(field, "empty" if isinstance(value, str) else f"expected text, found {type(value).__name__}")

    def problem(self, domain: str, tests_needed: bool) -> Problem:
        """The problem, complete: with a prompt, and with something to judge an answer by."""
        problem = self.partial_problem(domain)
        if not problem.prompt:
            raise self.error("prompt", "missing")
        if problem.tests is None and (tests_needed or (problem.answer is None and "tests" in self.columns)):
            raise self.error("tests", "missing")
        if problem.answer is None and problem.tests is None:
            raise self.error("answer", "missing, and no solution holds a \\boxed{…} to take it from")
        return problem

    def partial_problem(self, domain: str) -> Problem:
        """What there is of a problem; its fields are checked, and none is required."""
        prompt, answer = self.text("prompt") or "", self.text("answer")
        tests, solutions = self._tests(), self._solutions()
        if tests:
            solutions = tuple(self._fenced(solution, prompt) for solution in solutions)
        elif answer is None:
            answer = next((boxed for boxed in map(final_answer, solutions) if boxed), None)
        return Problem(
            id=self.text("id") or f"{Path(self.table.name).stem}/{self.number}",
            domain=domain,
            prompt=prompt,
            answer=None if answer is None else answer.strip(),
            tests=tests or None,
            solutions=solutions,
            source=self.table.name,
        )

    def _tests(self) -> Tests:
        tests: list[Mapping[str, Any]] = []
        about = {name: self.value(name) or "" for name in ("setup", "entry_point", "starter")}  # many are empty
        if strange := [name for name, value in about.items() if not isinstance(value, str)]:
            raise self.error(strange[0], f"expected text, found {type(about[strange[0]]).__name__}")
        for field in ("tests", "hidden_tests"):
            try:
                found = read_tests(self.value(field), **about)
                if found:
                    cases.read(found)  # the sandbox's own checks, now instead of in the middle of training
            except (ValueError, RecursionError) as error:
                raise self.error(field, str(error)) from None
            tests += found
        return tuple(tests)

    def _solutions(self) -> tuple[str, ...]:
        value = self.value("solutions")
        if isinstance(value, str) and "tests" in self.columns and value.lstrip().startswith('["'):
            value = _list_in_json(value)
        solutions = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(solutions, list) or not all(isinstance(solution, str) for solution in solutions):
            raise self.error("solutions", "expected text or a list of texts")
        return tuple(solution for solution in solutions if solution.strip())

    def _fenced(self, solution: str, prompt: str) -> str:
        """A bare program as a completion would give it; HumanEval's go on where the prompt ends."""
        name = self.text("entry_point")
        if name and f"def {name}(" in prompt and f"def {name}(" not in solution:
            solution = f"{prompt.rstrip()}\n{solution}"
        tree = None if "```" in solution else parsed(solution.strip())
        return solution if tree is None or not says_something(tree) else f"```python\n{solution.strip()}\n```"


def _list_in_json(text: str) -> Any:
    """APPS and TACO keep their solutions in a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _assign(data: str, parsed: Mapping[Split, Iterable[Problem]]) -> dict[Split, list[Problem]]:
    splits: dict[Split, list[Problem]] = {name: [] for name in SPLITS}
    for name, problems in parsed.items():
        for problem in problems:
            home = split_of(problem.prompt) if name == "train" else name
            splits["train" if name == "train" and home in parsed else home].append(problem)
    owner: dict[str, Split] = {}
    left_out = 0
    for split in reversed(SPLITS):  # test first, train last
        kept = [p for p in splits[split] if owner.setdefault(normalized_prompt(p.prompt), split) == split]
        left_out += len(splits[split]) - len(kept)
        splits[split] = kept
    if left_out:
        from lightning.pytorch.utilities import rank_zero_warn

        rank_zero_warn(f"{data}: {left_out} problems are left out because their prompt is also in a later split")
    return splits
