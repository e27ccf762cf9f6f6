"""Paths of solutions: what makes two the same, and what makes one wrong."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibethinker.metrics.solution_paths import path_signature

PATH = "3*x=19-4\n19-4=15\nx=15/3\n15/3=5"


@pytest.mark.parametrize(
    "text",
    [
        "3x=19-4=15\nx=15/3=5\n\\boxed{5}",
        "So 3x = 19 - 4 = 15, hence x = \\frac{15}{3} = \\boxed{5}.",
        "We get $3x = 19-4 = 15$. Therefore\n\\[ x = \\dfrac{15}{3} = 5 \\]\nThe answer is \\boxed{5}",
        "\\begin{align*} 3x &= 19-4 \\\\ &= 15 \\\\ x &= 15/3 = 5 \\end{align*}",
        "1. 3x=19−4=15\n2. x=15÷3=5\nCheck: x=15/3=5",
        "- **3x = 19 - 4 = 15**\n- **x = 15/3 = 5**",
    ],
)
def test_words_and_typesetting_do_not_matter(text: str) -> None:
    assert path_signature(text) == PATH


def test_another_method_is_another_path() -> None:
    assert path_signature("x=(19-4)/3=15/3=5") not in (PATH, None)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("x=3(4)=12", "x=3*4\n3*4=12"),
        ("xy = 6", "x*y=6"),
        ("P(X=2)=C(5,2)/2^5=10/32", "P(X=2)=C(5,2)/2^5\nC(5,2)/2^5=10/32"),
        ("f'(x)=2(3)x=6x", "f'(x)=2*3*x\n2*3*x=6*x"),
        ("mean = (2+3+7)/3 = 12/3 = 4", "(2+3+7)/3=12/3\n12/3=4"),
        ("Add 4 to get -2+4=2", "-2+4=2"),
        ("5 apples + 3 apples = 8 apples", "5+3=8"),
        ("4+1+1=6\n6/9=2/3", "4+1+1=6\n6/9=2/3"),
        ("1,000+5=1005 and 2^{3}=8", "1000+5=1005\n2^3=8"),
        (r"\frac{3}{4}\cdot 2=\frac32", "(3/4)*2=3/2"),
        (r"\left(\frac{1}{2}\right)^{2}=\frac14", "((1/2))^2=1/4"),
        (r"3-1\frac{1}{2}=1 1/2", "3-(1+1/2)=1+1/2"),
        (r"3\frac{5}{2}=\dfrac1{2}15", "3*(5/2)=(1/2)*15"),
        ("5=5", ""),
        ("\\boxed{5}", ""),
        ("", ""),
    ],
)
def test_spelling(text: str, path: str) -> None:
    assert path_signature(text) == path


@pytest.mark.parametrize(
    "text",
    ["3x=19-4=14", "x=19-5=15\n\\boxed{5}", "x=3=4", "x=5/0=3", "\\frac{1}{2}+\\frac13=\\frac25", "1/3=0.33", "3(4)=7"],
)
def test_wrong_step(text: str) -> None:
    assert path_signature(text) is None


@pytest.mark.parametrize(
    "text", ["3 hours = 180 minutes", "20% of 50 = 10", "x=9^9^9^9=3", "\\sqrt{16}=4", "4^(1/2)=2"]
)
def test_unchecked_steps_stay_in_the_path(text: str) -> None:
    assert path_signature(text)


HOSTILE = [
    "x=" + "9" * 50_000 + "=1",
    "9^" * 25_000 + "=1",
    "(" * 50_000 + "5=5",
    "x=" + "(" * 25_000 + "1+2" + ")" * 25_000 + "=3",
    "=" * 50_000,
    "1" + " \n" * 25_000 + "=1",
    "\\frac{" * 10_000,
    "\\text{" * 10_000 + "\\begin{" * 10_000,
    "\\" * 50_000,
    "1,000," * 8_000,
    ("(2^4000+1)/(3^2500)+" * 8 + "1=1\n") * 300,
    "\ud800=\u202e١=𝟗\x00" * 2_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:8].encode("unicode_escape").decode() for text in HOSTILE])
def test_hostile_text_takes_linear_time(text: str) -> None:
    start = time.process_time()
    path_signature(text)
    assert time.process_time() - start < 3


@given(st.text(alphabet="\\frac{}12 ^()=\n", max_size=60))
def test_latex_never_raises(text: str) -> None:
    path_signature(text)


@given(st.text(alphabet="\\{}()[]=+-*/^.,:$& \n\"'19axso√²", max_size=80))
def test_never_raises(text: str) -> None:
    assert isinstance(path_signature(text), str | None)


@given(st.integers(-99, 99), st.integers(1, 99), st.integers(-99, 99))
def test_arithmetic_decides(a: int, b: int, claim: int) -> None:
    assert (path_signature(f"x={a}+{b}={claim}") is not None) == (a + b == claim)
