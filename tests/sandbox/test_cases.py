"""What tests ask for, and which answers are right."""

from __future__ import annotations

from typing import Any

import pytest

from vibethinker.sandbox.cases import as_calls, read, same_output


@pytest.mark.parametrize(
    ("expected", "given", "right"),
    [
        ("16", "16\n", True),
        ("1 2\n3\n", "1  2 \r\n3\n\n", True),
        ("1 2\n3", "1 2 3", False),
        ("", "", True),
        ("", "x", False),
        ("0.3333333", "0.33333334", True),
        ("0.5", ".5", True),
        ("2.0", "2", True),
        ("2", "2.0", False),
        ("100000000000000000001", "100000000000000000002", False),
        ("0.33", "0.34", False),
        ("1.0", "nan", False),
        ("nan.", "nan", False),
        ("1e+03", "1000", True),
        ("1e-3", "0.001", True),
        ("00e1", "0e7", False),
        ("Yes", "yes", False),
        ("1.0", "1" * 1000, False),
    ],
)
def test_outputs(expected: str, given: str, right: bool) -> None:
    assert same_output(expected, given) is right


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("assert f(3) == 16", [("f", [3], "equal", 16)]),
        ("assert 16 == f(3)", [("f", [3], "equal", 16)]),
        ("assert f([1, (2, 'a')], k=-1) == {1: None}, 'message'", [("f", [[1, (2, "a")]], "equal", {1: None})]),
        ("assert f()\nassert not f(0)", [("f", [], "true", None), ("f", [0], "false", None)]),
        ("assert f(1) is None", [("f", [1], "equal", None)]),
        (
            "METADATA = {'author': 'x'}\n\ndef check(candidate):\n    '''doc'''\n    assert candidate(1) == 2, 'm'\n"
            "    assert True\n\ncheck(g)",
            [("g", [1], "equal", 2)],
        ),
    ],
)
def test_simple_asserts_are_calls(source: str, calls: list[tuple[Any, ...]]) -> None:
    from vibethinker.sandbox.plain_data import decode

    found = as_calls(source)
    assert found is not None
    assert [(c.name, decode(c.args), c.check, decode(c.expected)) for c in found] == calls


@pytest.mark.parametrize(
    "source",
    [
        "",
        "assert f(3) == g(3)",
        "assert set(f(3)) == {1}",
        "assert f(3) == x",
        "assert f(3) != 16",
        "assert f(3) is True",
        "assert f(3) is 16",
        "assert f(*a) == 1",
        "assert f(**a) == 1",
        "assert a.f(1) == 1",
        "x = 3\nassert f(x) == 16",
        "assert f(3) == 16 == 16",
        "def check(c):\n    assert c(1) == 2",
        "def check(c, d):\n    assert c(1) == 2\ncheck(f, g)",
        "def check(c=f):\n    assert c(1) == 2\ncheck(f)",
        "@skip\ndef check(c):\n    assert c(1) == 2\ncheck(f)",
        "def check(c):\n    assert c(1) == 2\ncheck(f)\ncheck(g)",
        "assert (",
        "assert " + "(" * 400 + ")" * 400,
    ],
)
def test_other_sources_need_a_process_of_their_own(source: str) -> None:
    assert as_calls(source) is None


@pytest.mark.parametrize(
    ("tests", "says"),
    [
        ([], "at least one test"),
        ([{"input": "1"}], "test 1 is none of"),
        ([{"input": "1", "output": "1"}, {"input": 1, "output": "1"}], "test 2: input must be a text, got int"),
        ([{"call": "f", "args": [], "expected": object()}], "test 1: object is no plain data"),
        ([{"call": "f"}], "test 1 is none of"),
        (["assert f()"], "test 1 must be a mapping, got str"),
        ([{"assert": None}], "assert must be a text"),
    ],
)
def test_bad_tests_are_named(tests: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read(tests)
