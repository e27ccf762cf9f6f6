"""One raw row as a problem: which columns its fields are in, what they must be, and what is wrong when they are not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vibethinker.datamodules.reading.layouts import Tests, read_tests
from vibethinker.datamodules.reading.tables import Table
from vibethinker.problems import Problem
from vibethinker.rewards.code_blocks import parsed, says_something
from vibethinker.rewards.math.normalize import normalize
from vibethinker.rewards.math.verifier import final_answer
from vibethinker.sandbox import cases

# Where a field is looked for when the field map does not say; the first column that exists is taken. A dot leads into
# a column of objects. Chats are read from whichever column of a prompt or a solution they are in.
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "prompt": ("prompt", "problem", "question", "question_content", "messages", "conversations"),
    "answer": ("answer", "expected_answer", "final_answer", "reward_model.ground_truth"),
    "solutions": (
        *("solutions", "generations", "solution", "generated_solution", "canonical_solution"),
        *("messages", "conversations"),
    ),
    "correct": ("correctness_math_verify",),  # of each of the solutions: whether it is
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
    """A row that cannot be used.

    Attributes:
        reason: what is wrong with it, in words that other rows with the same fault share.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def find_columns(
    table: Table, fields: Mapping[str, str], usual: Mapping[str, tuple[str, ...]] = COLUMNS, required: str = "prompt"
) -> dict[str, str]:
    """The column of each field that has one: the one that `fields` names, else the first of its usual names.

    Raises:
        ValueError: a column in `fields` that there is not, or none for the required field.
    """
    present = table.columns or list(dict.fromkeys(column for _, row in table.rows for column in row))

    def exists(column: str) -> bool:
        if column in present:
            return True
        return column.partition(".")[0] in present and any(_leads(row, column) for _, row in table.rows)

    for field, column in fields.items():
        if not exists(column):
            raise ValueError(
                f"{table.name}: fields maps {field!r} to {column!r}, which is none of its columns: {', '.join(present)}"
            )
    found = {field: next(filter(exists, names), None) for field, names in usual.items() if field not in fields}
    columns = {field: column for field, column in found.items() if column is not None} | dict(fields)
    if required not in columns:
        raise ValueError(
            f"{table.name}: no column for field {required!r} (looked for {', '.join(usual[required])}); "
            f"name it in fields; its columns are {', '.join(present)}"
        )
    return columns


def _leads(row: Mapping[str, Any], column: str) -> bool:
    *way, last = column.split(".")
    value: Any = row
    for name in way:
        value = value.get(name) if isinstance(value, Mapping) else None
    return isinstance(value, Mapping) and last in value


@dataclass(frozen=True)
class Row:
    """One row and where it stands: its fields with their types, or an error that names file, line and field."""

    table: Table
    columns: Mapping[str, str]
    number: int
    raw: Mapping[str, Any]

    def error(self, field: str, what: str, reason: str = "") -> RowError:
        """What is wrong with a field; `reason` in words without anything that is this row's own, if `what` has it."""
        column = self.columns.get(field, field)
        label = f"field {field!r}" + (f" (column {column!r})" if column != field else "")
        message = f"{self.table.name}, {self.table.unit} {self.number}, {label}: {what}"
        return RowError(message, f"{field} {reason or what}")

    def value(self, field: str) -> Any:
        column = self.columns.get(field)
        if column is None or column in self.raw:
            return None if column is None else self.raw[column]
        value: Any = self.raw
        for name in column.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def text(self, field: str) -> str | None:
        value = self.value(field)
        if field == "prompt" and _is_chat(value):
            value = next(_turns(value, _ASKS), None)
        if isinstance(value, int | float) and not isinstance(value, bool) and field in ("answer", "id"):
            return str(value)
        if value is None or (isinstance(value, str) and value.strip()):
            return value
        raise self.error(field, "empty" if isinstance(value, str) else f"expected text, found {type(value).__name__}")

    def problem(self, domain: str, tests_needed: bool, check_answer: bool = True) -> Problem:
        """The problem, complete: with a prompt, and with something to judge an answer by."""
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
                raise self.error(field, str(error), "cannot be read") from None
            tests += found
        return tuple(tests)

    def _solutions(self) -> tuple[str, ...]:
        value = self.value("solutions")
        if isinstance(value, str) and "tests" in self.columns and value.lstrip().startswith('["'):
            value = _list_in_json(value)
        if _is_chat(value):
            value = list(_turns(value, _ANSWERS))[-1:]
        solutions = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(solutions, list) or not all(isinstance(solution, str) for solution in solutions):
            raise self.error("solutions", "expected text or a list of texts")
        correct = self.value("correct")
        if isinstance(correct, list) and isinstance(value, list) and len(correct) == len(value):
            solutions = [solution for solution, right in zip(solutions, correct, strict=True) if right]
        return tuple(solution for solution in solutions if solution.strip())

    def _fenced(self, solution: str, prompt: str) -> str:
        """A bare program as a completion would give it; HumanEval's go on where the prompt ends."""
        name = self.text("entry_point")
        if name and f"def {name}(" in prompt and f"def {name}(" not in solution:
            solution = f"{prompt.rstrip()}\n{solution}"
        tree = None if "```" in solution else parsed(solution.strip())
        return solution if tree is None or not says_something(tree) else f"```python\n{solution.strip()}\n```"


def unreadable(answer: str) -> str:
    """Why no completion could be told to give this answer, by what it looks like; empty when nothing speaks against it.

    What `vibethinker.rewards.math.normalize` makes nothing of, braces that do not match, a placeholder, or a sentence.
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
        return "stands for no answer"
    return "is a sentence" if len(_WORD.findall(bare)) >= _SENTENCE else ""


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def _turns(chat: Sequence[Mapping[str, Any]], roles: Sequence[str]) -> Any:
    """What was said by one side, `{role, content}` or `{from, value}` each."""
    return (turn.get("content", turn.get("value")) for turn in chat if turn.get("role", turn.get("from")) in roles)


def _list_in_json(text: str) -> Any:
    """APPS and TACO keep their solutions in a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
