"""A refused or changed right program teaches nothing: the layer against plain Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sandbox.language.programs import PROGRAMS
from vibethinker.sandbox.language import Console, OutputLimitError, RejectedError, compile_program, namespace, preload

SHARED = Path(os.environ.get("VIBETHINKER_SHARED", Path(__file__).resolve().parents[3].parent / "shared"))
MBPP = SHARED / "data" / "mbpp.jsonl"

# One interpreter, a fork for each program: standard streams are real files, as a plain run has them.
PLAIN = """
import json, os, sys, tempfile
results = {}
for name, (source, stdin) in json.load(sys.stdin).items():
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as ended:
        given.write(stdin.encode()); given.seek(0)
        child = os.fork()
        if not child:
            os.dup2(given.fileno(), 0); os.dup2(out.fileno(), 1); os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            sys.stdin = open(0, closefd=False); sys.stdout = open(1, "w", closefd=False)
            try:
                code = compile(source.removeprefix("\\ufeff"), "<program>", "exec")
                exec(code, {"__name__": "__main__", "__doc__": None})
            except BaseException as error:
                ended.write(type(error).__name__.encode()); ended.flush()
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)
        out.seek(0); ended.seek(0)
        results[name] = out.read().decode(), ended.read().decode()
json.dump(results, sys.stdout)
"""


@pytest.fixture(scope="module")
def plain() -> dict[str, list[str]]:
    command = [sys.executable, "-I", "-X", "utf8", "-c", PLAIN]
    done = subprocess.run(command, input=json.dumps(PROGRAMS), capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


def guarded(source: str, stdin: str = "", limit: int = 1 << 20) -> list[str]:
    """Output of a program in the layer, and the name of the exception that ended it."""
    console, ended = Console(stdin, limit), ""
    try:
        exec(compile_program(source), namespace(console))
    except BaseException as error:
        ended = type(error).__name__
    return [console.text(), ended]


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_as_plain_python(name: str, plain: dict[str, list[str]]) -> None:
    assert guarded(*PROGRAMS[name]) == plain[name]


def test_syntax_error_says_what_python_says() -> None:
    for source in ("def f(:\n  pass", "return 3", "x = 'a", "for", "break", "def f():\n    nonlocal y", "f(a=1, a=2)"):
        with pytest.raises(SyntaxError) as plain_error:
            compile(source, "<program>", "exec")
        with pytest.raises(SyntaxError) as error:
            compile_program(source)
        assert (error.value.msg, error.value.lineno) == (plain_error.value.msg, plain_error.value.lineno)


@pytest.mark.parametrize(
    "source",
    [
        "x = 1\0",
        "x = '\ud800'",
        "x = " + "-" * 100_000 + "1",
        "x = " + "(" * 5000,
        "x" + "[0]" * 50_000,
        "1" + "+1" * 99_999,
    ],
    ids=["nul", "surrogate", "unary", "parentheses", "subscripts", "sum"],
)
def test_hostile_sources_are_refused_in_one_line(source: str) -> None:
    with pytest.raises((RejectedError, SyntaxError)) as error:
        compile_program(source)
    assert "\n" not in str(error.value)


def test_rejection_names_construct_and_line() -> None:
    with pytest.raises(RejectedError, match=r"^line 2: the attribute '__globals__' is not available$"):
        compile_program("x = 1\nprint.__globals__")


def test_output_limit_outlives_a_program_that_swallows_it() -> None:
    console = Console(limit=100)
    exec(compile_program("for i in range(100):\n    try: print('x' * 30)\n    except: pass"), namespace(console))
    assert len(console.text()) <= 100
    assert console.exceeded
    assert guarded("while True: print('x')", limit=1000)[1] == OutputLimitError.__name__
    assert guarded("import sys\nwhile True: sys.stderr.write('x' * 99)", limit=1000)[1] == OutputLimitError.__name__
    assert guarded("import os\nwhile True: os.write(1, b'x' * 99)", limit=1000)[1] == OutputLimitError.__name__


def test_buffered_output_and_descriptors_share_one_order() -> None:
    source = "import os, sys\nprint(1)\nos.write(1, b'2\\n')\nsys.stdout.buffer.write('é\\n'.encode()[:1])\n"
    source += "sys.stdout.buffer.write('é\\n'.encode()[1:])\nsys.stdout.write('4')"
    assert guarded(source) == ["1\n2\né\n4", ""]


FORMAT = namespace(Console())["__builtins__"]["$load"](str, "format")


@given(st.text("{}.[]_:!rsd0a%>", max_size=12))
def test_format_strings_agree_or_are_refused(template: str) -> None:
    """Whatever reaches no private attribute formats as it does without us."""

    class Plain:
        a = 1.5
        d = "text"

        def __repr__(self) -> str:
            return "plain"

    def attempt(function: object) -> tuple[str, object]:
        try:
            return "", function(template, Plain(), a=[1, 2])  # type: ignore[operator]
        except Exception as error:
            return type(error).__name__, None

    ours = attempt(FORMAT)
    theirs = attempt(str.format)
    if "._" not in template:
        assert ours == theirs or theirs[0]
    else:
        assert ours == theirs or ours[0]


@pytest.mark.skipif(not MBPP.exists(), reason="the MBPP file is not here")
def test_reference_solutions_of_mbpp() -> None:
    preload()
    failed = []
    for line in MBPP.read_text().splitlines():
        row = json.loads(line)
        space = namespace(Console())
        try:
            exec(compile_program(row["solution"]), space)
            exec(compile_program(f"{row['setup']}\n{row['tests']}"), space)
        except BaseException as error:
            failed.append((row["id"], repr(error)))
    assert not failed


def test_the_recursion_limit_is_pythons_own() -> None:
    assert guarded("import sys\nprint(sys.getrecursionlimit())") == ["1000\n", ""]
