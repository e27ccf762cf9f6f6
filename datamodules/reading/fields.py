"""One raw row as a problem: finds the columns of its fields, checks their values, and names the field of an error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vibethinker.datamodules.reading.layouts import Tests, from_json, read_tests
from vibethinker.datamodules.reading.tables import Table
from vibethinker.problems import Problem
from vibethinker.rewards.code_blocks import has_effect, parsed
from vibethinker.rewards.math.normalize import normalize
from vibethinker.rewards.math.verifier import final_answer
from vibethinker.sandbox import cases

# Usual columns of each field; the first one that exists is used. A dot leads into a column of objects. A prompt or a
# solution may be a chat in any of its columns.
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "prompt": ("prompt", "problem", "question", "question_content", "messages", "conversations"),
    "answer": ("answer", "expected_answer", "final_answer", "reward_model.ground_truth"),
    "solutions": (
        *("solutions", "generations", "solution", "generated_solution", "canonical_solution"),
        *("messages", "conversations"),
    ),
    "correct": ("correctness_math_verify",),  # a list of booleans, one for each solution
    "tests": ("tests", "test_list", "input_output", "public_test_cases", "test"),
    "hidden_tests": ("private_test_cases",),
    "setup": ("setup", "test_setup_code"),
    "entry_point": ("entry_point",),
    "starter": ("starter_code",),
    "domain": ("domain",),
    "id": ("id", "task_id", "question_id", "problem_id", "uuid"),
}
_ASKS: Final = ("user", "human")
_ANSWERS: Final = ("assistant", "gpt", "model")
_PLACEHOLDERS: Final = frozenset({"proof", "notfound"})  # NuminaMath's, where there is no answer
_WORD: Final = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_SENTENCE: Final = 8  # words
_BRACE: Final = re.compile(r"\\.|[{}]", re.DOTALL)


class RowError(ValueError):
    """A row that cannot be used."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason  # without values of this row, so that equal faults can be counted


def find_columns(
    table: Table, fields: Mapping[str, str], usual: Mapping[str, tuple[str, ...]] = COLUMNS, required: str = "prompt"
) -> dict[str, str]:
    """The column of each field that has one: the column that `fields` names, else the first of its usual names.

    Args:
        table: a table that has been opened.
        fields: column by field.
        usual: usual names of the columns of each field.
        required: the field that must have a column.

    Raises:
        ValueError: the table is empty, `fields` names an unknown field or column, or the required field has no column.
    """
    if not table.size:
        raise ValueError(f"{table.name}: is empty")
    if unknown := [field for field in fields if field not in usual]:
        raise ValueError(f"fields maps {unknown[0]!r}, which is none of {', '.join(usual)}")
    present = ", ".join(table.columns)

    def exists(column: str) -> bool:
        if column in table.columns:
            return True
        *_, last = path = column.split(".")
        return path[0] in table.columns and any(last in (_inside(row, path[:-1]) or ()) for _, row in table.rows(0))

    for field, column in fields.items():
        if not exists(column):
            raise ValueError(
                f"{table.name}: fields maps {field!r} to {column!r}, which is none of its columns: {present}"
            )
    found = {field: next(filter(exists, names), None) for field, names in usual.items() if field not in fields}
    columns = {field: column for field, column in found.items() if column is not None} | dict(fields)
    if required not in columns:
        raise ValueError(
            f"{table.name}: no column for field {required!r} (looked for {', '.join(usual[required])}); "
            f"name it in fields; its columns are {present}"
        )
    return columns


def _inside(row: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value at a path of nested objects, `None` where there is none."""
    value: Any = row
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def read_rows(
    table: Table, fields: Mapping[str, str], usual: Mapping[str, tuple[str, ...]] = COLUMNS, required: str = "prompt"
) -> Iterator[Row]:
    """The rows of a table; arguments and errors are those of `find_columns`."""
    columns = find_columns(table, fields, usual, required)
    return (Row(table, columns, number, raw) for number, raw in table.rows(0))


@dataclass(frozen=True)
class Row:
    """One row and its position: its fields with their types, or an error that names file, line and field."""

    table: Table
    columns: Mapping[str, str]  # column of each field
    number: int  # line of a text file or row of a table, from 1
    raw: Mapping[str, Any]  # values by column

    @property
    def position(self) -> str:
        """Its id if it has no other: name of the file and number of the row."""
        return f"{Path(self.table.name).stem}/{self.number}"

    def error(self, field: str, what: str, reason: str = "") -> RowError:
        """An error that names file, row and field.

        Args:
            field: the field.
            what: what is wrong with it.
            reason: the same without values of this row, so that equal faults can be counted; `what` by default.
        """
        column = self.columns.get(field, field)
        label = f"field {field!r}" + (f" (column {column!r})" if column != field else "")
        message = f"{self.table.name}, {self.table.unit} {self.number}, {label}: {what}"
        return RowError(message, f"{field} {reason or what}")

    def value(self, field: str) -> Any:
        """The raw value of a field, `None` without a column."""
        column = self.columns.get(field)
        if column is None or column in self.raw:
            return None if column is None else self.raw[column]
        return _inside(self.raw, column.split("."))

    def text(self, field: str) -> str | None:
        """The text of a field, `None` if the row has none.

        Raises:
            RowError: an empty text, or something other than text.
        """
        value = self.value(field)
        if field == "prompt" and _is_chat(value):
            value = next(_messages(value, _ASKS), None)
        if isinstance(value, int | float) and not isinstance(value, bool) and field in ("answer", "id"):
            return str(value)
        if value is None or (isinstance(value, str) and value.strip()):
            return value
        raise self.error(field, "empty" if isinstance(value, str) else f"expected text, found {type(value).__name__}")

    def problem(self, domain: str, tests_needed: bool, check_answer: bool = True) -> Problem:
        """The complete problem: with a prompt, and with an answer or tests.

        Args:
            domain: of the problem.
            tests_needed: a row without tests is an error even if it has an answer.
            check_answer: an answer that cannot be read as mathematics is an error.

        Raises:
            RowError: naming the field.
        """
        problem = self.partial_problem(domain)
        if not problem.prompt:
            raise self.error("prompt", "missing")
        if problem.tests is None and (tests_needed or (problem.answer is None and "tests" in self.columns)):
            raise self.error("tests", "missing")
        if problem.answer is None and problem.tests is None:
            raise self.error("answer", "missing, and no solution holds a \\boxed{…} to take it from")
        if check_answer and problem.tests is None and (fault := unreadable(str(problem.answer))):
            raise self.error("answer", f"{problem.answer!r:.60} {fault}", fault)
        return problem

    def partial_problem(self, domain: str) -> Problem:
        """The problem as far as the row has its fields, each of which is checked.

        Raises:
            RowError: naming the field.
        """
        prompt, answer = self.text("prompt") or "", self.text("answer")
        tests, solutions = self._tests(), self._solutions()
        if tests:
            solutions = tuple(self._fenced(solution, prompt) for solution in solutions)
        elif answer is None:
            answer = next((boxed for boxed in map(final_answer, solutions) if boxed), None)
        return Problem(
            id=self.text("id") or self.position,
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
                raise self.error(field, str(error), "cannot be read") from None
            tests += found
        return tuple(tests)

    def _solutions(self) -> tuple[str, ...]:
        value = self.value("solutions")
        if isinstance(value, str) and "tests" in self.columns and value.lstrip().startswith('["'):
            value = from_json(value) or value  # as APPS and TACO write theirs
        if _is_chat(value):
            value = list(_messages(value, _ANSWERS))[-1:]
        solutions = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(solutions, list) or not all(isinstance(solution, str) for solution in solutions):
            raise self.error("solutions", "expected text or a list of texts")
        correct = self.value("correct")
        if isinstance(correct, list) and isinstance(value, list) and len(correct) == len(value):
            solutions = [solution for solution, right in zip(solutions, correct, strict=True) if right]
        return tuple(solution for solution in solutions if solution.strip())

    def _fenced(self, solution: str, prompt: str) -> str:
        """A bare program in a code block, as in a completion; HumanEval's programs continue the prompt."""
        name = self.text("entry_point")
        if name and f"def {name}(" in prompt and f"def {name}(" not in solution:
            solution = f"{prompt.rstrip()}\n{solution}"
        tree = None if "```" in solution else parsed(solution.strip())
        return solution if tree is None or not has_effect(tree) else f"```python\n{solution.strip()}\n```"


def unreadable(answer: str) -> str:
    """The reason why no completion could match this answer, by its form alone; empty if there is none.

    Reasons: nothing is left by `vibethinker.rewards.math.normalize`, braces that do not match, a placeholder, or a
    sentence.
    """
    bare = final_answer(answer) or answer
    depth = 0
    for brace in _BRACE.finditer(bare):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth < 0:
            break
    if depth:
        return "has braces that do not match"
    text = normalize(bare).text
    if not text:
        return "is nothing that can be compared"
    if text.casefold() in _PLACEHOLDERS:
        return "is a placeholder for a missing answer"
    return "is a sentence" if len(_WORD.findall(bare)) >= _SENTENCE else ""


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(message, Mapping) for message in value)


def _messages(chat: Sequence[Mapping[str, Any]], roles: Sequence[str]) -> Any:
    """Messages of one side; each message is `{role, content}` or `{from, value}`."""
    return (m.get("content", m.get("value")) for m in chat if m.get("role", m.get("from")) in roles)
