"""Files, folders and hub sets: what is read, how it is split, and how every kind of bad row is named."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from tests.support.problem_rows import row, write, write_parquet
from vibethinker.datamodules.reading.fields import unreadable
from vibethinker.datamodules.reading.problem_files import load_problems, readers
from vibethinker.datamodules.reading.tables import source_kind
from vibethinker.problems import SPLITS, Problem, Split, split_of
from vibethinker.rewards.math.verifier import final_answer

SHARED = Path(os.environ.get("VIBETHINKER_SHARED", Path(__file__).resolve().parents[3].parent / "shared"))
REAL_DATA = SHARED / "data"


def load(data: str, *domains: str, **fields: str) -> dict[Split, list[Problem]]:
    return load_problems(readers(data, domains or ["algebra"], fields))


def flat(splits: dict[Split, list[Problem]]) -> list[Problem]:
    return sorted((p for problems in splits.values() for p in problems), key=lambda p: int(p.id.split("/")[-1]))


def test_row_becomes_problem(tmp_path: Path) -> None:
    tests = [{"input": "1", "output": "2"}]
    rows = [
        row(1, id="a/1", solutions=["one way", "  ", "another"], tests=tests, level=3),
        {"problem": "shadowed by prompt", "prompt": "p", "answer": 7, "solution": "x \\boxed{7}", "id": 2},
    ]
    data = write(tmp_path / "set.jsonl", [rows[0], "", rows[1]])
    first, second = sorted((p for problems in load(data).values() for p in problems), key=lambda p: p.prompt[::-1])
    assert first == Problem("a/1", "algebra", "question 1", "1", tuple(tests), ("one way", "another"), data)
    assert second == Problem("2", "algebra", "p", "7", None, (), data)


def test_usual_and_mapped_columns(tmp_path: Path) -> None:
    rows = [{"question": "q", "solution": "so \\boxed{\\frac{1}{2}}", "gold": "0.5", "kind": "Algebra"}]
    data = write(tmp_path / "set.jsonl", rows)
    usual = flat(load(data, "geometry"))[0]
    assert (usual.id, usual.domain, usual.answer, usual.solutions) == (
        "set/1",
        "geometry",
        r"\frac{1}{2}",
        (rows[0]["solution"],),
    )
    mapped = flat(load(data, "Algebra", answer="gold", domain="kind"))[0]
    assert (mapped.domain, mapped.answer) == ("Algebra", "0.5")


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        ({"answer": "1"}, "'prompt'", "missing"),
        (row(prompt=None), "'prompt'", "missing"),
        (row(prompt=" "), "'prompt'", "empty"),
        (row(prompt=["a"]), "'prompt'", "expected text, found list"),
        ({"prompt": "p"}, "'answer'", "missing"),
        (row(answer=""), "'answer'", "empty"),
        (row(answer=None, solution="no box"), "'answer'", "missing"),
        (row(answer=None, solution="\\boxed{}"), "'answer'", "missing"),
        (row(answer={"a": 1}), "'answer'", "expected text, found dict"),
        (row(answer=True), "'answer'", "expected text, found bool"),
        (row(solution=3), r"'solutions' \(column 'solution'\)", "expected text or a list"),
        (row(solution=["a", None]), r"'solutions' \(column 'solution'\)", "expected text or a list"),
        (row(tests=5), "'tests'", "expected a list of objects"),
        (row(domain=5), "'domain'", "expected text, found int"),
        (row(id=["x"]), "'id'", "expected text, found list"),
        (row(id="first"), "'id'", "is the id of an earlier line too"),
        ('{"prompt": "p", ', None, "not valid JSON"),
        ('["prompt"]', None, "expected a JSON object, found list"),
        ("[" * 100_000, None, "not valid JSON"),
    ],
)
def test_bad_row_names_file_line_and_field(tmp_path: Path, bad: Any, field: str | None, reason: str) -> None:
    data = write(tmp_path / "set.jsonl", [row(1, id="first"), "", bad, row(2)])
    with pytest.raises(ValueError, match=rf"set\.jsonl, line 3{f', field {field}' if field else ''}: .*{reason}"):
        load(data)


def test_bytes_that_are_no_text_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(json.dumps(row(1)).encode() + b'\n{"prompt": "\xff\xfe"}\n')
    with pytest.raises(ValueError, match=r"set\.jsonl, line 2: not valid JSON"):
        load(str(path))


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data: there is no file or folder .*none\.jsonl"):
        load(str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match=r"empty\.jsonl: is empty"):
        load(write(tmp_path / "empty.jsonl", []))
    with pytest.raises(ValueError, match=r"set\.csv is not one of the kinds .*\.jsonl, \.parquet"):
        load(write(tmp_path / "set.csv", ["prompt,answer"]))
    with pytest.raises(FileNotFoundError, match=r"holds none of train\.jsonl"):
        load(str(tmp_path))
    assert source_kind("owner/name:main") == "hub"


def test_columns_that_do_not_exist_are_listed(tmp_path: Path) -> None:
    data = write(tmp_path / "set.jsonl", [row(1), row(2, level=3)])
    with pytest.raises(ValueError, match=r"fields maps 'solutions' to 'proof', .*: prompt, answer, domain, level"):
        load(data, solutions="proof")
    data = write(tmp_path / "other.jsonl", [{"text": "p", "answer": "1"}])
    with pytest.raises(ValueError, match=r"no column for field 'prompt' .* its columns are text, answer"):
        load(data)


def test_domains_are_filtered_and_unknown_ones_listed(tmp_path: Path) -> None:
    data = write(tmp_path / "set.jsonl", [row(i, domain=["algebra", "geometry", "code"][i % 3]) for i in range(30)])
    assert {p.domain for p in flat(load(data, "algebra", "geometry"))} == {"algebra", "geometry"}
    assert len(flat(load(data, "code"))) == 10
    with pytest.raises(ValueError, match="no problem of domain 'calculus'; there are algebra, code, geometry"):
        load(data, "algebra", "calculus")
    data = write(tmp_path / "none.jsonl", [{"prompt": "p", "answer": "1"}])
    with pytest.raises(ValueError, match="line 1, field 'domain': missing, and more than one is asked for"):
        load(data, "algebra", "geometry")


def test_a_single_file_is_split_by_the_text_of_the_prompt(tmp_path: Path) -> None:
    splits = load(write(tmp_path / "set.jsonl", [row(i) for i in range(400)]))
    assert all(split_of(p.prompt) == split for split, problems in splits.items() for p in problems)
    assert len(flat(splits)) == 400
    assert min(len(splits[split]) for split in SPLITS) > 15


def test_named_files_are_splits_and_the_rest_is_cut_from_train(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [row(i) for i in range(300)])
    write(tmp_path / "test.jsonl", [row(i) for i in range(1000, 1020)])
    write(tmp_path / "README.jsonl", ["not read"])
    write_parquet(tmp_path / "validation.parquet", [row(i) for i in range(2000, 2010)])
    splits = load(str(tmp_path))
    assert (len(splits["test"]), len(splits["val"])) == (20, 10)
    assert splits["probe"]
    assert all(split_of(p.prompt) == "probe" for p in splits["probe"])
    assert len(splits["train"]) + len(splits["probe"]) == 300
    assert {p.id for p in splits["test"]} == {f"test/{i + 1}" for i in range(20)}


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "val.jsonl", [row(1)])
    write(tmp_path / "validation.jsonl", [row(2)])
    with pytest.raises(ValueError, match="are both the val split"):
        load(str(tmp_path))


def test_training_rows_that_stand_in_a_held_out_file_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [row(i) for i in range(100)])
    write(tmp_path / "test.jsonl", [row(0, prompt="  Question 5"), row(1, prompt="QUESTION\n6")])
    with pytest.warns(UserWarning, match="2 problems are left out"):
        splits = load(str(tmp_path))
    assert not {"question 5", "question 6"} & {p.prompt for name in SPLITS[:3] for p in splits[name]}
    assert len(splits["test"]) == 2


def test_parquet_reads_like_jsonl_and_leaves_nothing_behind(tmp_path: Path) -> None:
    rows = [row(i, id=f"x/{i}", solutions=["a", "b"]) for i in range(20)]
    table = write_parquet(tmp_path / "set.parquet", rows)
    from_table = flat(load(table))
    from_lines = flat(load(write(tmp_path / "set.jsonl", rows)))
    assert [p.id for p in from_table] == [p.id for p in from_lines]
    assert [(p.prompt, p.answer, p.solutions) for p in from_table] == [
        (p.prompt, p.answer, p.solutions) for p in from_lines
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.jsonl", "set.parquet"]


def test_bad_parquet_names_row_or_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set\.parquet, row 2, field 'answer': empty"):
        load(write_parquet(tmp_path / "set.parquet", [row(1), row(2, answer="")]))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(ValueError, match=r"broken\.parquet: not a Parquet file that can be read"):
        load(str(tmp_path / "broken.parquet"))


def test_hub_parts_are_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    parts = datasets.DatasetDict(
        train=datasets.Dataset.from_list([row(i) for i in range(100)]),
        validation=datasets.Dataset.from_list([row(i) for i in range(200, 205)]),
        unsupervised=datasets.Dataset.from_list([row(1)]),
    )
    hub = {("owner/name", "main"): parts}
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, streaming: hub[names])
    splits = load("owner/name:main")
    assert [p.id for p in splits["val"]] == [f"name:main validation/{i}" for i in range(1, 6)]
    assert len(splits["train"]) + len(splits["probe"]) + len(splits["test"]) == 100


def test_unreachable_hub_set_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="data: owner/nothing is no file or folder, and as a hub data set: "):
        load("owner/nothing")


def test_a_hub_that_cannot_be_reached_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:

    def nobody(*_: Any, **__: Any) -> None:
        raise RuntimeError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", nobody)
    start = time.monotonic()
    with pytest.raises(
        FileNotFoundError, match=r"the hub cannot be reached \(no route\); HF_HUB_OFFLINE=1 takes a copy"
    ):
        load("owner/nothing")
    assert time.monotonic() - start < 10


def test_answers_may_be_numbers(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [row(0, answer=7), row(1, answer=3.5)])
    assert {p.answer for problems in load(str(tmp_path)).values() for p in problems} == {"7", "3.5"}


# Shards and patterns


def test_shards_of_a_folder_are_one_split(tmp_path: Path) -> None:
    for i in range(3):
        write_parquet(tmp_path / f"train-0000{i}-of-00003.parquet", [row(10 * i + j) for j in range(10)])
    write(tmp_path / "test.jsonl", [row(100)])
    write(tmp_path / "other-00000-of-00002.jsonl", ["not read"])
    splits = load(str(tmp_path))
    assert len(flat(splits)) == 31
    assert splits["test"][0].id == "test/1"
    assert {p.id.split("/")[0] for p in splits["train"]} == {f"train-0000{i}-of-00003" for i in range(3)}
    (tmp_path / "data").mkdir()
    for path in [*tmp_path.glob("*.parquet"), tmp_path / "test.jsonl"]:
        path.rename(tmp_path / "data" / path.name)  # as copies of hub sets have it
    assert [p.prompt for p in load(str(tmp_path))["train"]] == [p.prompt for p in splits["train"]]
    (tmp_path / "data/train-00001-of-00003.parquet").unlink()
    with pytest.raises(ValueError, match="2 of the 3 shards of train are there"):
        load(str(tmp_path))


def test_a_pattern_finds_files(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / f"part{i}/some.jsonl", [row(10 * i + j, id=str(10 * i + j)) for j in range(10)])
    assert len(flat(load(str(tmp_path / "part*/*.jsonl")))) == 20
    write(tmp_path / "set/train-0.jsonl", [row(1)])
    write(tmp_path / "set/test-0.jsonl", [row(2)])
    assert load(str(tmp_path / "set/*.jsonl"))["test"][0].prompt == "question 2"
    with pytest.raises(FileNotFoundError, match=r"no\*\.jsonl matches no"):
        load(str(tmp_path / "no*.jsonl"))


# Layouts of open reasoning sets


@pytest.mark.parametrize(
    ("raw", "fields", "expected"),
    [
        (  # OpenR1-Math
            {
                **{"problem": "q", "solution": "human", "answer": "1", "uuid": "u/1"},
                **{"generations": ["a", "b", "c"], "correctness_math_verify": [True, False, True]},
            },
            {},
            ("q", "1", ("a", "c")),
        ),
        (  # the same, the human's solution asked for
            {
                "problem": "q",
                "solution": "human",
                "answer": "1",
                "generations": ["a"],
                "correctness_math_verify": [False],
            },
            {"solutions": "solution"},
            ("q", "1", ("human",)),
        ),
        (  # NuminaMath
            {"source": "olympiads", "problem": "q", "solution": "so \\boxed{2}", "messages": [{"role": "user"}]},
            {},
            ("q", "2", ("so \\boxed{2}",)),
        ),
        (  # a chat
            {
                "messages": [
                    {"role": "system", "content": "be brief"},
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": "\\boxed{3}"},
                ]
            },
            {},
            ("q", "3", ("\\boxed{3}",)),
        ),
        (  # OpenThoughts
            {
                "system": "s",
                "conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "\\boxed{4}"}],
            },
            {},
            ("q", "4", ("\\boxed{4}",)),
        ),
        (  # DAPO-Math
            {
                "prompt": [{"role": "user", "content": "q"}],
                "reward_model": {"ground_truth": "34", "style": "rule"},
                "extra_info": {"index": "d/5"},
            },
            {"id": "extra_info.index"},
            ("q", "34", ()),
        ),
    ],
)
@pytest.mark.parametrize("kind", ["lines", "table"])
def test_known_layouts(tmp_path: Path, raw: dict[str, Any], fields: dict[str, str], expected: Any, kind: str) -> None:
    data = write(tmp_path / "set.jsonl", [raw]) if kind == "lines" else write_parquet(tmp_path / "set.parquet", [raw])
    (problem,) = flat(load(data, "math", **fields))
    assert (problem.prompt, problem.answer, problem.solutions) == expected
    assert problem.id in ("u/1", "d/5", "set/1")


def test_a_column_inside_another_that_does_not_exist(tmp_path: Path) -> None:
    data = write(tmp_path / "set.jsonl", [row(1, about={"gold": "7"})])
    assert flat(load(data, answer="about.gold"))[0].answer == "7"
    with pytest.raises(ValueError, match=r"fields maps 'answer' to 'about.silver', which is none of its columns"):
        load(data, answer="about.silver")


# Rows that cannot be used


def test_few_bad_rows_are_told_and_left_out(tmp_path: Path) -> None:
    bad: dict[int, dict[str, Any]] = {
        7: {"answer": ""},
        8: {"answer": " "},
        200: {"prompt": None},
        300: {"solutions": 5},
    }
    data = write(tmp_path / "set.jsonl", [row(i, **bad.get(i, {})) for i in range(400)])
    told = (
        r"set.jsonl: 4 of 400 rows cannot be used \(answer empty: 2, prompt missing: 1, solutions expected text .*: 1\)"
    )
    with pytest.warns(UserWarning, match=rf"{told} and are left out: .*line 8, field .*line 9, .*line 201, .*missing$"):
        assert len(flat(load(data))) == 396
    with pytest.raises(ValueError, match=r"line 8.* 4 of 400 rows .*, more than max_unusable=0.009 allows$"):
        load_problems(readers(data, ["algebra"], {}, max_unusable=0.009))
    with pytest.raises(ValueError, match="max_unusable=0 allows"):
        load_problems(readers(data, ["algebra"], {}, max_unusable=0))


def test_rows_of_other_domains_do_not_count(tmp_path: Path) -> None:
    rows = [row(i, domain="geometry" if i > 3 else "algebra", answer="" if i in (0, 5, 6) else "1") for i in range(200)]
    data = write(tmp_path / "set.jsonl", rows)
    with pytest.raises(ValueError, match="1 of 4 rows"):
        load(data, "algebra")


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (r"\frac{1}{2", "has braces that do not match"),
        ("1}{", "has braces that do not match"),
        ("$$", "is nothing that can be compared"),
        ("9" * 2000, "is nothing that can be compared"),
        ("notfound", "is a placeholder for a missing answer"),
        ("There are exactly five such numbers, as one sees at once.", "is a sentence"),
        (r"\left\{ x : x > 1 \right\}", ""),
        (r"\text{Monday}", ""),
        (r"x \in [-2,7]", ""),
        (r"\boxed{7}", ""),
        ("13 \\text{ hours and } 5 \\text{ minutes}", ""),
    ],
)
def test_answers_that_nothing_could_equal(tmp_path: Path, answer: str, fault: str) -> None:
    assert unreadable(answer) == fault
    data = write(tmp_path / "set.jsonl", [row(1, answer=answer)])
    if not fault:
        load(data)
        return
    with pytest.raises(ValueError, match=rf"line 1, field 'answer': .*{fault}"):
        load(data)
    assert flat(load_problems(readers(data, ["algebra"], {}, check_answers=False)))


# A source for each domain


def test_each_domain_may_have_its_own_source(tmp_path: Path) -> None:
    sums = write(tmp_path / "sums.jsonl", [{"question": f"sum {i}", "answer": "1", "why": "x"} for i in range(100)])
    code = write(tmp_path / "code.jsonl", [{"question": f"f {i}", "tests": [{"assert": "f()"}]} for i in range(50)])
    fields = {"math.solutions": "why", "prompt": "question"}
    splits = load_problems(readers({"code": code, "math": sums}, ["math", "code"], fields))
    by_domain = {name: [p for p in flat(splits) if p.domain == name] for name in ("math", "code")}
    assert {name: len(problems) for name, problems in by_domain.items()} == {"math": 100, "code": 50}
    assert all(p.solutions == ("x",) for p in by_domain["math"])
    assert all(p.tests for p in by_domain["code"])
    write(tmp_path / "held/train.jsonl", [{"question": f"g {i}", "answer": "1"} for i in range(10)])
    write(tmp_path / "held/test.jsonl", [{"question": f"sum {i}", "answer": "1"} for i in range(10)])
    with pytest.warns(UserWarning, match="problems are left out because their prompt is also in a later split"):
        splits = load_problems(readers({"a": sums, "b": str(tmp_path / "held")}, ["a", "b"], {}))
    assert not {f"sum {i}" for i in range(10)} & {p.prompt for p in splits["train"]}


@pytest.mark.skipif(not (REAL_DATA / "math_train.jsonl").exists(), reason="the real data is not here")
def test_real_data_loads_as_it_is() -> None:
    data = str(REAL_DATA / "math_train.jsonl")
    splits = load(data, "algebra", "geometry", "calculus", "statistics")
    assert len(flat(splits)) > 6600
    assert all(p.answer and p.solutions for problems in splits.values() for p in problems)
    boxed = [final_answer(p.solutions[0]) == p.answer for p in splits["train"]]
    assert sum(boxed) / len(boxed) > 0.99
    with pytest.raises(ValueError, match=r"math_train\.jsonl, line 5530, field 'answer': missing.* 2 of 869 rows"):
        load_problems(readers(data, ["number_theory"], {}, max_unusable=0))  # two of its rows end in an empty box
    with pytest.warns(
        UserWarning, match="2 of 869 rows cannot be used .answer missing.*: 2. and are left out: .* 5530"
    ):
        load(data, "number_theory")
    assert len(flat(load(str(REAL_DATA / "aime24.jsonl"), "competition"))) == 30
