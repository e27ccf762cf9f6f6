"""Raw rows to domain data, step by step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vibethinker.datamodules.prepare import Benchmark, Prepared, Settings, Source, prepare
from vibethinker.datamodules.prepare.settings import Decontamination, Duplicates, Solutions
from vibethinker.problems import Problem, split_of


def row(number: int, **changes: Any) -> dict[str, Any]:
    words = " ".join(f"w{number}{letter}" for letter in "abcdefghijkl")
    solution = f"So \\boxed{{{number}}}."
    return {"id": f"r/{number}", "problem": words, "answer": str(number), "solution": solution, "kind": "A"} | changes


def write(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(path: Path, rows: Sequence[Any], *benchmark: Any, **options: Any) -> Prepared:
    source = Source(write(path / "raw.jsonl", rows), fields={"domain": "kind"})
    benchmarks = [Benchmark(write(path / "bench.jsonl", benchmark))] if benchmark else []
    return prepare(Settings([source], benchmarks=benchmarks, **options))


def kept(prepared: Prepared) -> dict[str, Problem]:
    problems = [problem for problems in prepared.splits.values() for problem in problems]
    return {problem.id: problem for problem in sorted(problems, key=lambda problem: problem.id)}


def removed(prepared: Prepared) -> dict[str, tuple[str, Any]]:
    return {row.id: (row.reason, dict(row.why)) for row in prepared.removed}


def test_rows_get_the_domain_that_their_value_maps_to(tmp_path: Path) -> None:
    kinds = ["A", "B", ["x", "B"], "other", None, " "]
    rows = [row(i, kind=kind) for i, kind in enumerate(kinds)]
    prepared = run(tmp_path, rows, domains={"algebra": ["A"], "geometry": ["B"]})
    assert {id: p.domain for id, p in kept(prepared).items()} == {
        "r/0": "algebra",
        "r/1": "geometry",
        "r/2": "geometry",
    }
    reasons = [(r.line, r.reason, r.why["value"]) for r in prepared.removed]
    assert reasons == [(4, "no domain", "other"), (5, "no domain", "(none)"), (6, "no domain", "(none)")]
    rest = kept(run(tmp_path, rows, domains={"algebra": ["A"], "geometry": ["B"]}, rest="more"))
    assert [p.domain for p in rest.values()].count("more") == 3
    assert {p.domain for p in kept(run(tmp_path, rows[:2])).values()} == {
        "A",
        "B",
    }  # no mapping: the values themselves


def test_a_mapped_value_that_no_row_has_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="domains: geometry: no row has 'Geometri'; there are A"):
        run(tmp_path, [row(1)], domains={"algebra": ["A"], "geometry": ["Geometri"]})


def test_splits_are_those_of_the_text(tmp_path: Path) -> None:
    prepared = run(tmp_path, [row(i) for i in range(200)])
    assert sum(map(len, prepared.splits.values())) == 200
    assert all(split_of(p.prompt) == split for split, problems in prepared.splits.items() for p in problems)
    assert min(map(len, prepared.splits.values())) > 8


def test_rows_without_an_answer_or_tests_are_removed(tmp_path: Path) -> None:
    rows = [
        row(1),
        row(2, answer=None),
        row(3, answer=" "),
        row(4, answer=None, solution="\\boxed{}"),
        row(5, answer="$$"),
        row(6, answer=["6"]),
        row(7, problem=None),
    ]
    prepared = run(tmp_path, rows)
    assert {p.id: p.answer for p in kept(prepared).values()} == {"r/1": "1", "r/2": "2", "r/3": "3"}
    assert prepared.boxed == 2
    assert [(r.line, r.reason) for r in prepared.removed] == [
        (4, "no answer"),
        (5, "no answer"),
        (6, "unusable"),
        (7, "unusable"),
    ]
    assert "line 6, field 'answer': expected text, found list" in prepared.removed[2].why["detail"]


def test_one_prompt_is_one_problem_with_every_right_path(tmp_path: Path) -> None:
    prompt = row(1)["problem"]
    rows = [
        row(1),
        row(2, problem=f"  {prompt.upper()}", answer="1.0", solution=["Else \\boxed{1}.", "Wrong \\boxed{2}."]),
        row(1, solution="So \\boxed{1}."),  # the same row again
    ]
    prepared = run(tmp_path, rows)
    assert kept(prepared)["r/1"].solutions == ("So \\boxed{1}.", "Else \\boxed{1}.")
    assert [(r.line, r.reason, r.why) for r in prepared.removed] == [
        (2, "duplicate", {"of": "r/1"}),
        (3, "duplicate", {"of": "r/1"}),
    ]
    assert prepared.solutions == {"right": 2, "wrong": 1}


def test_one_prompt_with_two_answers_is_removed(tmp_path: Path) -> None:
    prepared = run(tmp_path, [row(1), row(2, problem=row(1)["problem"]), row(3)])
    assert list(kept(prepared)) == ["r/3"]
    assert removed(prepared) == {
        f"r/{n}": ("answers differ", {"answer": str(n), "rows": ["r/1", "r/2"]}) for n in (1, 2)
    }


def test_near_duplicates_need_the_same_numbers_and_an_equal_answer(tmp_path: Path) -> None:
    text = "Tom has {} apples and eats {} of them each day until the very last one is gone. How many days is that?"
    rows = [
        row(1, problem=text.format(12, 3), answer="4", solution="\\boxed{4}"),
        row(2, problem=text.format(12, 3).replace("Tom", "Ann"), answer="4", solution="Thus \\boxed{4}"),
        row(3, problem=text.format(16, 4), answer="4"),
        row(4, problem=text.format(12, 3).replace("days", "weeks"), answer="4/7", solution=[]),
        row(5, problem=text.format(12, 3).replace("Tom", "Eve"), answer="4.0", solution=[]),
    ]
    prepared = run(tmp_path, rows)
    assert set(kept(prepared)) == {"r/1", "r/3", "r/4"}
    assert kept(prepared)["r/1"].solutions == ("\\boxed{4}", "Thus \\boxed{4}")
    assert removed(prepared)["r/2"] == ("near duplicate", {"of": "r/1", "similarity": round(22 / 24, 4)})
    strict = run(tmp_path, rows, duplicates=Duplicates(similarity=0.95))
    assert set(kept(strict)) == {"r/1", "r/2", "r/3", "r/4", "r/5"}


def test_problems_of_a_benchmark_are_removed_and_what_nearly_duplicates_them_too(tmp_path: Path) -> None:
    text = (
        "Tom has twelve apples and eats three of them each day until the very last one is gone. How many days is that?"
    )
    changed = text.replace("apples and", "pears and").replace("them each", "those each")
    rows = [
        row(0, problem=changed, answer="4", solution=[]),
        row(1, problem=text, answer="4", solution=[]),
        row(2),
        row(3, problem="What is $2+3$?"),
    ]
    bench = (
        {"id": "b/7", "question": "TOM has twelve apples, and eats three of them each day! How long?"},
        {"question": "what is  $2+3$?"},
    )
    options = {"duplicates": Duplicates(similarity=0.5), "decontamination": Decontamination(ngram=8)}
    prepared = run(tmp_path, rows, *bench, **options)
    file = str(tmp_path / "bench.jsonl")
    match = {"benchmark": file, "id": "b/7", "shared": 4, "ngram": "tom has twelve apples and eats three of"}
    assert removed(prepared)["r/1"] == ("contaminated", {"matches": [match]})
    assert removed(prepared)["r/3"][1]["matches"][0]["id"] == "bench/2"
    reason, why = removed(prepared)["r/0"]
    assert (reason, why["of"]) == ("near duplicate", "r/1")
    assert list(kept(prepared)) == ["r/2"]
    assert prepared.benchmarks == {file: 2}
    options["decontamination"] = Decontamination(ngram=8, min_shared=5)
    assert set(kept(run(tmp_path, rows, *bench, **options))) == {
        "r/0",
        "r/2",
    }  # r/1 is now the near duplicate


def test_solutions_without_a_box(tmp_path: Path) -> None:
    rows = [
        row(5, solution="2+3 = <<2+3=5>>5 apples."),
        row(6, solution="2+3 = <<2+3=5>>5 apples."),
        row(7, solution="Cut off \\boxed{7"),
    ]
    plain = run(tmp_path, rows)
    assert [p.solutions for p in kept(plain).values()] == [(), (), ()]  # still good for reinforcement
    assert plain.solutions == {"no answer": 3}
    prepared = run(tmp_path, rows, solutions=Solutions(append_answer=True, strip_annotations=True))
    assert kept(prepared)["r/5"].solutions == ("2+3 = 5 apples.\nThe answer is \\boxed{5}.",)
    assert kept(prepared)["r/6"].solutions == kept(prepared)["r/7"].solutions == ()
    assert prepared.solutions == {"answer appended": 1, "no answer": 2}


def test_programs_stay_as_they_are(tmp_path: Path) -> None:
    tests = [{"call": "f", "args": [1], "expected": 2}]
    others = [{"call": "g", "args": [1], "expected": 2}]
    rows = [
        {"prompt": "Write f that adds one.", "tests": tests, "solution": "def f(x): return x + 1", "id": 1},
        {"prompt": "write F that adds one.", "tests": others, "solution": "def g(x): return x + 1", "id": 2},
        {"prompt": "Write f that adds one!", "tests": others, "solution": "def g(x): return x + 1", "id": 3},
    ]
    prepared = prepare(Settings([Source(write(tmp_path / "c.jsonl", rows), domain="code")]))
    first = kept(prepared)["1"]
    assert (first.domain, first.answer, first.tests) == ("code", None, tuple(tests))
    assert first.solutions == ("```python\ndef f(x): return x + 1\n```",)
    assert {id: reason for id, (reason, _) in removed(prepared).items()} == {"2": "duplicate"}


def test_ids_of_two_sources(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.jsonl", [row(n, id="1")]) for n, name in enumerate("ab")]
    with pytest.raises(
        ValueError, match=r"b\.jsonl, line 1: the id '1' is that of another problem, .*a\.jsonl, line 1"
    ):
        prepare(Settings([Source(file, domain="x") for file in files]))
    named = prepare(Settings([Source(files[0], domain="x"), Source(files[1], domain="x", name="b")]))
    assert set(kept(named)) == {"1", "b/1"}


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"raw\.jsonl: no column for field 'domain'; name it in fields, or give"):
        prepare(Settings([Source(write(tmp_path / "raw.jsonl", [row(1)]))]))
    with pytest.raises(ValueError, match=r"bench\.jsonl, line 2, field 'prompt' \(column 'question'\): missing"):
        run(tmp_path, [row(1)], {"question": "q"}, {"question": None})
    with pytest.raises(ValueError, match="no row is left: 1 no answer, 1 contaminated"):
        run(tmp_path, [row(1), row(2, answer=None, solution=None)], row(1))
    with pytest.raises(ValueError, match=r"raw\.jsonl: is empty"):
        run(tmp_path, [])
