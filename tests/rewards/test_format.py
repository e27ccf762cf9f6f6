"""What a completion looks like."""

from __future__ import annotations

from typing import Any

import pytest

from vibethinker import Problem
from vibethinker.rewards import FormatReward

PROBLEM = Problem(id="p", domain="algebra", prompt="?", answer="4")
BOX, CODE = r"so \boxed{4}", "so\n```python\nprint(4)\n```\n"


def form(text: str, **options: Any) -> float:
    (score,) = FormatReward(**options)([PROBLEM], [text])
    return score


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (BOX, 1),
        (r"\fbox{4}", 1),
        (r"\boxed{\frac{1}{2}}", 1),
        ("so 4", 0),
        (r"\boxed{4} and \boxed{4}", 0),
        (r"\boxed{4", 0),
        (r"\boxedly", 0),
        ("", 0),
    ],
)
def test_one_box(text: str, wanted: int) -> None:
    assert form(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (CODE, 1),
        ("```\nx\n```", 1),
        ("````\n```\nx\n```\n````", 1),  # fences within a longer one
        ("```\nx", 0),
        (CODE + CODE, 0),
        (CODE + "```\nx", 0),
        (BOX, 0),
        ("`x`", 0),
    ],
)
def test_one_block(text: str, wanted: int) -> None:
    assert form(text, answer="code") == wanted


@pytest.mark.parametrize(("text", "wanted"), [(BOX, 1), (CODE, 1), (BOX + CODE, 0), ("4", 0), (r"\boxed{4", 0)])
def test_either(text: str, wanted: int) -> None:
    assert form(text, answer="any") == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"<think>2 + 2</think>\n{BOX}", 1),
        (f"\n<think>\n</think>{BOX}", 1),
        (rf"<think>\boxed{{5}}?</think>{BOX}", 1),  # what is thought is no answer
        (BOX, 0),
        (f"<think>2 + 2 {BOX}", 0),
        (f"2 + 2</think>{BOX}", 0),
        (f"<think>a</think><think>b</think>{BOX}", 0),
        (f"<think>a</think>b</think>{BOX}", 0),
        (f"<think><think>a</think>{BOX}", 0),
        (f"Well <think>a</think>{BOX}", 0),
        (rf"<think>{BOX}</think>", 0),
    ],
)
def test_thinking(text: str, wanted: int) -> None:
    assert form(text, think=True) == wanted


def test_thinking_alone_and_what_is_not_asked_for() -> None:
    assert form("<think>a</think>", think=True, answer="none") == 1
    assert form(f"<think>{BOX}") == 1


def test_the_fault_is_named() -> None:
    reward = FormatReward(think=True)
    graded = reward.grade([PROBLEM] * 3, ["4", r"<think></think>\boxed{4", "<think></think>4"])
    assert [(o.score, o.kind) for o in graded] == [(0.0, "malformed")] * 3
    assert [o.detail for o in graded] == [
        "not one closed <think> at the beginning",
        "an unclosed box instead of one",
        "0 boxes instead of one",
    ]


@pytest.mark.parametrize("options", [{"answer": "boxes"}, {"answer": "none"}])
def test_what_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="FormatReward"):
        FormatReward(**options)
