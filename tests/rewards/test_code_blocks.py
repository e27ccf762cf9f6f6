"""Which program a completion answers with."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibethinker.rewards.code_blocks import MAX_CHARACTERS, program_of

CODE = "def f(x):\n    return 3*x+2"


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        (f"```python\n{CODE}\n```", CODE),
        (f"```py\n{CODE}\n```\n", CODE),
        (f"```Python\n{CODE}\n```", CODE),
        (f"``` python3 title=a\n{CODE}\n```", CODE),
        (f"```\n{CODE}\n```", CODE),
        (f"~~~\n{CODE}\n~~~", CODE),
        ("````python\nprint('''\n```\n''')\n````", "print('''\n```\n''')"),
        (f"Here it is:\n\n```python\n{CODE}\n```\n\nIt multiplies.", CODE),
        (f"```python\r\n{CODE}\r\n```".replace("\n", "\r\n").replace("\r\r", "\r"), CODE),
        # several blocks: the last program
        (f"```python\ny = 1\n```\nBetter:\n```python\n{CODE}\n```", CODE),
        (f"```python\n{CODE}\n```\nIt prints\n```text\n11\n```", CODE),
        (f"```python\n{CODE}\n```\n```bash\npython f.py\n```", CODE),
        ("```text\n11\n```", None),
        ("```python\n```", None),
        ("```python\n   \n```", None),
        # a last fence that is not closed is a text that was cut
        (f"```python\n{CODE}\n", None),
        (f"```python\n{CODE}\n```\nor\n```python\ndef f(x):", None),
        (f"```python\n{CODE}```", None),
        (f"```python\n{CODE}\n~~~", None),
        # in a list
        (f"1. So:\n\n   ```python\n   {CODE.replace(chr(10), chr(10) + '   ')}\n   ```", CODE),
        # thinking is no answer
        (f"<think>```python\ny = 1\n```</think>\n```python\n{CODE}\n```", CODE),
        (f"<think>\n```python\n{CODE}\n```\n</think>\nThere.", None),
        (f"<think>```python\n</think>\n```python\n{CODE}\n```", CODE),
        # without a fence
        (CODE, CODE),
        (f"\n\n{CODE}\n", CODE),
        ("    " + CODE.replace("\n", "\n    "), CODE),
        ("import math", "import math"),
        ("x = 5", "x = 5"),
        ("The answer is x = 5", None),
        ("answer", None),
        ("3*x+2", None),
        ("print(3)", None),
        ("", None),
        ("def f(x):", None),
        (f"# {CODE}", None),
        ("x = '\0'", None),
        (f"inline `{CODE}`", None),
        ("```python\n" + "x = 1\n" * MAX_CHARACTERS + "```", None),
    ],
)
def test_the_program(completion: str, program: str | None) -> None:
    assert program_of(completion) == program


pieces = st.lists(
    st.one_of(
        st.sampled_from(
            ["```", "~~~", "````", "```python\n", "\n```\n", "\n", "    ", CODE, "</think>", "<think>", "(" * 50]
        ),
        st.text(max_size=20),
    ),
    max_size=12,
).map("".join)


@given(pieces)
def test_it_never_raises_and_is_stable(text: str) -> None:
    program = program_of(text)
    assert program is None or (program.strip() and program_of(f"{'`' * 30}python\n{program}\n{'`' * 30}"))


@given(pieces, st.sampled_from(["", "python", "py"]))
def test_a_closed_block_at_the_end_is_the_answer(before: str, language: str) -> None:
    text = f"{before}</think>Done.\n```{language}\n{CODE}\n```"
    assert program_of(text) == CODE


@pytest.mark.parametrize(
    "text",
    ["`" * 200_000, "~" * 200_000 + "`", "~~~`\n" * 50_000, " " * 200_000 + "```", "(" * 90_000, "-" * 90_000 + "1",
     "a" + ".b" * 45_000, "[" * 40_000 + "]" * 40_000, "```\n" * 50_000, "x=1\n" * 24_000 + "(", "\n" * 200_000],
    ids=range(11),
)  # fmt: skip
def test_long_texts_take_little_time(text: str) -> None:
    start = time.perf_counter()
    program_of(text)
    assert time.perf_counter() - start < 3
