"""Escapes: each must fail before it can tell of its success, however many exceptions the program swallows."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox.language.language_attacks import ATTACKS
from vibethinker.sandbox.language import Console, RejectedError, compile_program, namespace, preload

ROOT = Path(__file__).resolve().parents[3]
SHARED = Path(os.environ.get("VIBETHINKER_SHARED", ROOT.parent / "shared"))
SAMPLE = SHARED / "attacks_sample.jsonl"
LANGUAGE = ("introspection", "library-gadget", "format-string", "frames", "unicode", "import")
TOKEN = "canary-5b1d"


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("secret") / "file"
    path.write_text(TOKEN)
    preload()
    return str(path)


def run(source: str) -> str:
    console = Console("")
    with contextlib.suppress(Exception, SystemExit):
        exec(compile_program(source), namespace(console))
    return console.text()


@pytest.mark.parametrize("name", ATTACKS)
def test_escape_fails(name: str, secret: str) -> None:
    output = run(ATTACKS[name].replace("@SECRET@", secret))
    assert "ESCAPED" not in output
    assert TOKEN not in output
    assert Path(secret).read_text() == TOKEN


# One process that loads the layer, and a fork with a deadline for each program.
CHILD = """
import json, os, resource, signal, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
sys.path.insert(0, sys.argv[1])
from vibethinker.sandbox.language import Console, compile_program, namespace
results = {}
for name, source in json.load(sys.stdin).items():
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(20)
        console = Console("x\\n", 1 << 14)
        try:
            exec(compile_program(source), namespace(console))
        except BaseException:
            pass
        os.write(writer, console.text().encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as output:
        results[name] = output.read(), os.waitpid(child, 0)[1]
print(json.dumps(results))
"""


@pytest.mark.skipif(not SAMPLE.exists(), reason="the attack samples are not here")
def test_sampled_attacks_show_no_marker(secret: str) -> None:
    rows = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    attacks = {row["id"]: row["code"].replace("@SECRET@", secret) for row in rows if row["category"] in LANGUAGE}
    command = [sys.executable, "-I", "-c", CHILD, str(ROOT)]
    done = subprocess.run(command, input=json.dumps(attacks), capture_output=True, text=True, timeout=240, check=True)
    markers = (TOKEN, "LANG-ESCAPE", "POLICY-BYPASS", "LEAK")
    results = json.loads(done.stdout)
    assert len(results) == len(attacks) > 0
    assert not [name for name, (out, status) in results.items() if status or any(marker in out for marker in markers)]


@pytest.mark.parametrize(
    "source",
    [
        "x.__subclasses__()",
        "x.__globals__",
        "x.__builtins__",
        "def f(__builtins__): pass",
        "f = lambda __builtins__: 1",
        "def f(a, /, __import__, *__b__): pass",
        "import os as __builtins__",
        "from os import __dict__",
        "global __builtins__",
        "__builtins__ = {}",
        "class A:\n    def __getattr__(self, n): pass",
        "class A:\n    def __getattribute__(self, n): pass",
        "class A:\n    def __class_getitem__(cls, n): pass",
        "class A:\n    __reduce__ = 1",
        "class __getattr__: pass",
        "x.gi_frame",
        "x.f_back",
        "x.tb_frame = 1",
        "del x.cr_code",
        "match x:\n    case {**__builtins__}: pass",
        "match x:\n    case [*__builtins__]: pass",
        "match x:\n    case A(_b=1): pass",
        "match x:\n    case A.__class__: pass",
        "try: pass\nexcept* E: pass",
        "class A:\n    __match_args__ = names",
        "x.__class__ = 3",
        "x.__dict__ = {}",
        "await x",
        "[i async for i in x]",
    ],
)
def test_refused_before_it_runs(source: str) -> None:
    with pytest.raises(RejectedError, match=r"^line \d+: "):
        compile_program(source)
