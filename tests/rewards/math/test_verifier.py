r"""Which answers are equivalent, and how completions are graded."""

import math
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibethinker.problems import Problem
from vibethinker.rewards import MathReward, Reward
from vibethinker.rewards.math import is_equivalent
from vibethinker.rewards.math.rules import decide
from vibethinker.rewards.math.verifier import are_equivalent, final_answer


def problem(answer: str | None) -> Problem:
    return Problem(id="p", domain="algebra", prompt="?", answer=answer, source="test")


@pytest.fixture(scope="module")
def reward() -> Iterator[MathReward]:
    with MathReward(workers=2) as reward:
        yield reward


EXACT_SAME = [
    ("5", "5"), ("5.0", "5"), ("+5", "5"), ("05", "5"), ("5.", "5"), ("$5$", "5"), (r"\(5\)", "5"), ("{{5}}", "5"),
    ("1/2", "0.5"), (r"\tfrac12", "1/2"), (r"\frac{2}{-3}", r"-\frac{2}{3}"), (r"\\frac{1}{2}", "0.5"),
    ("frac{1}{2}", "0.5"), (r"1\frac12", "1.5"), ("-1 1/2", r"-\frac32"), ("1024", "2^{10}"), ("3+4", "7"),
    ("1,000,000", "1000000"), (r"12\,345", "12345"), ("1 000", "1000"), (r"1{,}000", "1000"), (r"1\!,\!000", "1000"),
    (r"25\%", "25%"), ("25%", "0.25"), ("25%", "25"), (r"\$1,250", "1250"), (r"30\text{ miles per hour}", "30"),
    ("5 cm", r"5\text{ centimeters}"), (r"15\mbox{ cm}^2", r"15\text{ square centimeters}"), (r"90^\circ", "90"),
    ("36°", "36"), ("５", "5"), ("½", "0.5"), ("3½", "3.5"), ("5\u200b", "5"), ("−5", "-5"), ("2³", "8"), ("x=5", "5"),
    ("5", "x=5"), ("x=10/2=5", "5"), ("2,1", "1,2"), (r"\{2,1\}", r"1,2"), (r"\pm 2", "2,-2"),
    (r"x=3\text{ or }x=-3", r"x=\pm 3"), ("(1, 2)", r"\left(1,2\right)"), ("1,2", "(1,2)"),
    ("(1,0),(0,1)", "(0,1),(1,0)"), ("[2, 5)", "[2,5)"), (r"\{5\}", "5"), ("1011_2", "1011_{2}"), (r"\text{C}", "(C)"),
    ("yes", r"\text{Yes}"), (r"\textbf{Monday}", r"\text{Monday}"), ("2π", r"2\pi"), ("α", r"\alpha"),
    (r"\varnothing", r"\emptyset"), (r"\sqrt2", r"\sqrt{2}"), ("√2", r"\sqrt{2}"), ("sqrt(2)", r"\sqrt{2}"),
]  # fmt: skip
EXACT_DIFFERENT = [
    ("6", "5"), ("0.01", "0.1"), ("0.33", "1/3"), ("2.5%", "25%"), ("12", "1,2"), ("100", "1000"),
    (r"\frac12", r"1\frac12"), ("5 mm", "5 cm"), ("(2,1)", "(1,2)"), ("[2,5]", "[2,5)"), ("[2,5]", "(2,5)"),
    (r"\{1,2\}", "(1,2)"), ("2,1", "(1,2)"), (r"\{1,2,3\}", r"\{1,2\}"), ("1,1,2", "1,2"), (r"5 \text{ or } 6", "5"),
    ("5,6", "5"), (r"\pm 2", "2"), ("1011_3", "1011_2"), ("1101_2", "1011_2"), ("y=5", "x=5"), ("4=5", "5"),
    (r"\text{odd}", r"\text{even}"), ("B", "(C)"), ("nan", "5"), (r"\text{True}", "5"), ("0/0", "5"), ("0/0", "0/1"),
    ("", "5"), ("5", ""), ("I do not know.", "5"),
]  # fmt: skip
SYMBOLIC_SAME = [
    (r"\sqrt{12}", r"2\sqrt{3}"), (r"\pi/3", r"\frac{\pi}{3}"), (r"(x+1)^2", "x^2+2x+1"), ("y-2x=1", "y=2x+1"),
    ("2<x", "x>2"), (r"(3,\infty)\cup(-\infty,2)", r"(-\infty,2)\cup(3,\infty)"), ("4i+3", "3+4i"),
    ("i", r"\sqrt{-1}"), ("2 i", "2i"), ("-1", r"e^{i\pi}"), ("-i", r"\frac{1}{i}"),
    (r"26!\cdot 2^{25}", r"2^{25}\cdot 26!"),
    (r"\frac{-1\pm\sqrt{17}}{2}", r"\frac{-1+\sqrt{17}}{2}, \frac{-1-\sqrt{17}}{2}"),
    (r"x=\pm\sqrt2", r"\sqrt2,-\sqrt2"),
    (r"\begin{pmatrix}0.5\\1\end{pmatrix}", r"\begin{pmatrix}1/2\\1\end{pmatrix}"),
]  # fmt: skip
SYMBOLIC_DIFFERENT = [
    (r"\sqrt{5}", r"\sqrt{3}"), ("1.41421356", r"\sqrt{2}"), ("6.28", r"2\pi"), ("x^3", "x^2"), ("3-4i", "3+4i"),
    (r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"), (r"\emptyset", r"\{0\}"),
    (r"\{\sqrt2,1\}", r"(\sqrt2,1)"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "gold"), EXACT_SAME)
def test_same_at_once(given: str, gold: str) -> None:
    with MathReward() as reward:
        assert reward.compare([(given, gold), (f"\\boxed{{{given}}}", gold)]) == [True, True]
        assert not reward._symbolic._pool


@pytest.mark.parametrize(("given", "gold"), EXACT_DIFFERENT)
def test_different_at_once(given: str, gold: str) -> None:
    with MathReward() as reward:
        assert reward.compare([(given, gold)]) == [False]
        assert not reward._symbolic._pool


@pytest.mark.parametrize(("given", "gold"), SYMBOLIC_SAME)
def test_same_by_algebra(reward: MathReward, given: str, gold: str) -> None:
    assert reward.compare([(given, gold)]) == [True]


@pytest.mark.parametrize(("given", "gold"), SYMBOLIC_DIFFERENT)
def test_different_by_algebra(reward: MathReward, given: str, gold: str) -> None:
    assert reward.compare([(given, gold)]) == [False]


@given(st.fractions(min_value=-(10**9), max_value=10**9), st.fractions(min_value=-9, max_value=9))
def test_numbers(value: Fraction, other: Fraction) -> None:
    latex = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    assert is_equivalent(rf"Thus \boxed{{{latex}}}.", str(value))
    assert is_equivalent(str(value), latex)
    assert is_equivalent(str(other), latex) == (value == other)
    assert is_equivalent(f"{value.numerator:,}", str(value.numerator))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{5}, no: \boxed{7}", "7"),
        (r"\boxed{\frac{1}{2}} and more 3", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed 5", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed {5}", "5"),
        (r"\boxed{5} then \boxed{6", None),
        (r"\boxed{5", None),
        ("The answer is 5.", None),
        ("", None),
    ],
)
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 5.", "5"),
        ("Answer: $x=3.5$\n", "$x=3.5$"),
        ("the answer is 4. Wait, the answer is: 1/2", "1/2"),
        ("so 3 and then 1,250", "1,250"),
        (r"\boxed{7} The answer is 5", "7"),
        ("The answer is 5 \\boxed{5", None),
        ("none", None),
    ],
)
def test_fallbacks(text: str, answer: str | None) -> None:
    assert final_answer(text, fallbacks=True) == answer


@pytest.mark.parametrize(
    ("completion", "outcome"),
    [
        (r"\boxed{42}", 1.0),
        (r"\boxed{42} is final: \boxed{84/2}", 1.0),
        (r"\boxed{41} or rather \boxed{42}", 0.0),
        (r"\boxed{42} or rather \boxed{41}", 0.0),
        (" ".join(rf"\boxed{{{n}}}" for n in range(100)), 0.0),
        (r"<think>\boxed{41}?</think>\boxed{42}", 1.0),
        (r"<think>\boxed{42}</think>It is 42", 0.0),
        ("The answer is 42", 0.0),
        ("42", 0.0),
        (r"\boxed{}", 0.0),
        (r"\boxed{42", 0.0),
        ("", 0.0),
        ("\ud800\x00\u202e", 0.0),
    ],
)
def test_reward(completion: str, outcome: float) -> None:
    with MathReward() as reward:
        assert reward([problem("42")], [completion]) == [outcome]


@pytest.mark.parametrize("completion", [r"\boxed{A, B, C, D}", r"\boxed{\text{(A) 1 (B) 2}}", r"\boxed{A}\boxed{B}"])
def test_repeating_the_options_scores_zero(completion: str) -> None:
    with MathReward() as reward:
        assert reward([problem("B"), problem(r"\text{(B)}")], [completion] * 2) == [0.0, 0.0]


def test_golds_of_several_forms() -> None:
    assert is_equivalent(r"\boxed{0.5}", ["2", r"\frac{1}{2}"])
    assert not is_equivalent(r"\boxed{0.6}", ["2", r"\frac{1}{2}"])
    assert not is_equivalent(r"\boxed{0.6}", [])
    golds = ["2", ["3", r"2\sqrt{3}"], "1/2 or 0.5", r"2 \text{ or } 3", r"2 \text{ or } 3"]
    given = [r"\boxed{3}", r"\boxed{\sqrt{12}}", r"\boxed{0.50}", r"\boxed{2}", r"\boxed{3, 2}"]
    assert are_equivalent(given, golds) == [False, True, True, False, True]


def test_hangers_run_out_of_time_side_by_side() -> None:
    hangers = [(f"f(x)+(x+y+{n + 1})^{{3000}}", f"f(x)+(x+y+{n})^{{3000}}") for n in range(4)]
    short = [(str(n), str(n)) for n in range(200)]
    with MathReward(workers=2, timeout=0.3) as reward:
        assert reward.compare([*hangers, *short]) == [False] * 4 + [True] * 200
        assert (reward.timeouts, reward.crashes) == (4, 0)
        assert len(reward._symbolic._pool) == 2
        problems = [Problem(id=given, domain="algebra", prompt="?", answer=gold) for given, gold in hangers[:2]]
        again = reward.grade(problems * 2, [rf"\boxed{{{given}}}" for given, _ in hangers[:2]] * 2)
        assert [(outcome.score, outcome.kind) for outcome in again] == [(0.0, "timeout")] * 4  # remembered as such
        assert reward.timeouts == 4


def test_reward_with_fallbacks() -> None:
    assert MathReward(fallbacks=True)([problem("42")] * 2, ["The answer is 42.", "it is 41"]) == [1.0, 0.0]


def test_batch_keeps_order(reward: MathReward) -> None:
    answers = [str(n) if n % 3 else rf"{n}\sqrt{{2}}" for n in range(24)]
    given = [rf"\boxed{{{n}}}" if n % 3 else rf"\boxed{{\sqrt{{{2 * n * n}}}}}" for n in range(24)]
    given[5], given[6] = given[6], given[5]
    outcomes = reward([problem(answer) for answer in answers], given)
    assert outcomes == [0.0 if n in (5, 6) else 1.0 for n in range(24)]


def test_misuse_raises() -> None:
    reward = MathReward()
    assert isinstance(reward, Reward)
    with pytest.raises(ValueError, match="1 problems for 2 completions"):
        reward([problem("1")], ["", ""])
    with pytest.raises(ValueError, match="problem 'p' \\(test\\) has no answer"):
        reward([problem(None)], [""])
    with pytest.raises(ValueError, match="workers must be"):
        MathReward(workers=0)
    for timeout in (0.0, math.nan):
        with pytest.raises(ValueError, match="timeout must be"):
            MathReward(timeout=timeout)


BOMBS = [
    "9^{9^{9^{9}}}", r"\frac{5^{\left(5^{5^{5^5}}\right)}-5}{16}", "(10^9)!", "9!!!!", r"\binom{10^9}{5\cdot 10^8}",
    r"\sqrt{9^{9^{9}}}", "x^{9^{9^{9}}}", "((((2^9)^9)^9)^9)^9", "1+" * 3000 + "1", "(" * 3000 + "5" + ")" * 3000,
    r"\sqrt{" * 200 + "2" + "}" * 200, "9" * 100_000, "1/3" * 300, "{" * 900, "^" * 900, "\ufdfa" * 1000,
]  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS, ids=[bomb[:12] for bomb in BOMBS])
def test_bombs_are_rejected_before_parsing(bomb: str) -> None:
    start = time.process_time()
    with MathReward() as reward:
        assert reward([problem("5"), problem(r"\sqrt{5}")], [rf"\boxed{{{bomb}}}"] * 2) == [0.0, 0.0]
        assert not reward._symbolic._pool
    assert time.process_time() - start < 0.1


def test_long_texts_take_linear_time() -> None:
    start = time.process_time()
    for text in (r"\boxed{" * 50_000, r"\boxed{5} " * 30_000, r"\boxed" + " " * 300_000, r"answer is " * 30_000):
        final_answer(text, fallbacks=True)
    final_answer("".join(rf"\boxed{{{n}}}" for n in range(10_000)))
    assert time.process_time() - start < 5


@given(st.text(max_size=60), st.text(alphabet="\\{}()[],=^_+-/%$.0123 axi", max_size=40))
def test_never_raises(text: str, markup: str) -> None:
    for answer in (text, markup):
        final_answer(answer, fallbacks=True)
        assert decide(answer, "5") in (True, False, None)
        assert decide("5", answer) in (True, False, None)


GARBAGE = [
    r"\frac" * 150,
    r"\left\{\begin",
    "\ud800",
    "\x00",
    r"\sqrt[\sqrt[\sqrt[",
    "a,,b",
    r"\int\int\int",
    "|||",
    r"\text{",
]


def test_garbage_in_the_workers(reward: MathReward) -> None:
    assert reward.compare([(text, r"\sqrt{5}") for text in GARBAGE]) == [False] * len(GARBAGE)
    assert reward.timeouts == reward.crashes == 0


def test_a_thousand_short_pairs_a_second() -> None:
    numbers = [(f"{n}/7", rf"\frac{{{n}}}{{7}}") for n in range(2000)]
    start = time.process_time()
    assert all(MathReward().compare(numbers))
    assert time.process_time() - start < 2


def test_import_stays_light() -> None:
    heavy = "{'torch', 'lightning', 'sympy', 'math_verify'}"
    code = (
        "import sys; from vibethinker.rewards import MathReward; reward = MathReward();"
        f"assert not {heavy} & set(sys.modules), sys.modules; assert not reward._symbolic._pool"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
