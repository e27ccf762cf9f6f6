"""One process runs many programs, locked away from every file: none sees another, nothing is loaded late."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox.language.programs import PROGRAMS
from vibethinker.sandbox.language import Console, compile_program, namespace

ROOT = Path(__file__).resolve().parents[3]


def run(source: str) -> str:
    console = Console()
    exec(compile_program(source), namespace(console))
    return console.text()


@pytest.mark.parametrize(
    ("change", "look"),
    [
        ("import random\nrandom.seed(1)", "import random\nrandom.seed(2)\nprint(random.random())"),
        ("from decimal import *\ngetcontext().prec = 3", "from decimal import *\nprint(getcontext().prec)"),
        ("import decimal\ndecimal.DefaultContext.prec = 3", "import decimal\nprint(decimal.DefaultContext.prec)"),
        ("import sys\nsys.setrecursionlimit(99999)", "import sys\nprint(sys.getrecursionlimit() < 1100)"),
        ("import sys\nsys.set_int_max_str_digits(0)", "import sys\nprint(sys.get_int_max_str_digits())"),
        ("import sys\nsys.stdout = sys.stderr", "print('seen')"),
        ("import sys\nsys.argv.append('x')", "import sys\nprint(len(sys.argv))"),
        ("import os\nos.environ['x'] = '1'", "import os\nprint(os.environ.get('x'))"),
        ("print = len", "print('seen')"),
        ("globals()['len'] = 3", "print(len('ab'))"),
        ("import string\nstring.ascii_letters = 1", "import string\nprint(string.ascii_letters[:2])"),
        (
            "import string\nstring.Template.delimiter = '!'",
            "import string\nprint(string.Template('$a').substitute(a=1))",
        ),
        ("import numbers\nnumbers.Number.register(str)", "import numbers\nprint(isinstance('', numbers.Number))"),
        ("import calendar\ncalendar.mdays[1] = 99", "import calendar\nprint(calendar.monthrange(2024, 1))"),
        (
            "import textwrap\ntextwrap.TextWrapper.unicode_whitespace_trans[97] = 98",
            "import textwrap\nprint(textwrap.fill('a'))",
        ),
        ("import json\njson.JSONEncoder.item_separator = ';'", "import json\nprint(json.dumps([1, 2]))"),
        ("import random\nrandom.Random.random = lambda s: 2", "import random\nprint(random.Random().random() < 1)"),
    ],
)
def test_next_program_sees_no_change(change: str, look: str) -> None:
    before = run(look)
    with contextlib.suppress(AttributeError, TypeError):  # refused, or without effect beyond its own run
        run(change)
    assert run(look) == before


LOCKED = """
import builtins, io, json, os, sys
sys.path.insert(0, sys.argv[1])
programs = json.load(sys.stdin)
from vibethinker.sandbox.language import Console, compile_program, namespace, preload
preload()
sys.meta_path[:] = []
sys.path_hooks[:] = []
sys.path[:] = []
sys.path_importer_cache.clear()
def refuse(event, args):
    if event in ("open", "import", "os.listdir", "subprocess.Popen", "os.system"):
        raise RuntimeError(f"late {event} {args}")
    if event == "exec" and args[0].co_filename.endswith(".py"):
        raise RuntimeError(f"late import {args}")
sys.addaudithook(refuse)
results = {}
for name, (source, stdin) in programs.items():
    console, ended = Console(stdin), ""
    try:
        exec(compile_program(source), namespace(console))
    except BaseException as error:
        ended = f"{type(error).__name__}"
        if "late" in str(error):
            ended += str(error)
    results[name] = console.text(), ended
print(json.dumps(results))
"""


def test_nothing_is_loaded_after_preload() -> None:
    """The whole corpus in a process that can neither import nor open any more."""
    import json

    command = [sys.executable, "-I", "-X", "utf8", "-c", LOCKED, str(ROOT)]
    done = subprocess.run(command, input=json.dumps(PROGRAMS), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    late = {name: ended for name, (_, ended) in json.loads(done.stdout).items() if "late" in ended}
    assert not late
    here = {}
    for name, (source, stdin) in PROGRAMS.items():
        console, ended = Console(stdin), ""
        try:
            exec(compile_program(source), namespace(console))
        except BaseException as error:
            ended = type(error).__name__
        here[name] = [console.text(), ended]
    assert json.loads(done.stdout) == here


def test_lean_process() -> None:
    """Neither torch nor anything else heavy comes along."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import vibethinker.sandbox.language; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "lightning", "transformers"} & set(done.stdout.split())
