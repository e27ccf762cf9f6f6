"""The console script itself: quick to start, one line for an error."""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys

import pytest

from vibethinker.cli.errors import one_line
from vibethinker.cli.main import main


@pytest.mark.parametrize(
    "command",
    [[], ["run"], ["fuse"], ["evaluate"], ["probe"], ["regrade"], ["filter"], ["report"], ["doctor"], ["verify"]],
)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    program = (
        "import sys; from vibethinker.cli.main import main; code = main(sys.argv[1:]); "
        "print([m for m in ('torch', 'lightning', 'transformers', 'matplotlib') if m in sys.modules], code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command, "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: vibethinker")
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_help_of_lightning_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help"]) == 0
    assert "--trainer.max_steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [[], ["nonsense"], ["fuse"], ["evaluate", "nano", "--problems", "0"], ["evaluate", "nano", "--fields", "x"]],
)
def test_a_wrong_command_line_is_code_2(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    assert "usage: vibethinker" in capsys.readouterr().err


def test_mistakes_of_the_program_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("vibethinker.cli.doctor.examine", broken)
    with pytest.raises(KeyError):
        main(["doctor"])


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("cores", "memory", "attention", "torch", "bitsandbytes"))


WRAPPED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'vibethinker.training.policy_module.PolicyModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'vibethinker.SFTModule':
        Parser key "learning_rate":
          Expected a <class 'float'>. Got value: abc
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: abc"""
UNWRAPPED = "model: SFTModule: learning_rate: Expected a <class 'float'>. Got value: abc"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.yaml"), "a.yaml: No such file"),
        (OSError("plain"), "plain"),
        (ValueError(), "ValueError"),
        (
            argparse.ArgumentError(None, WRAPPED),
            "model: SFTModule: learning_rate: Expected a <class 'float'>. Got value: abc",
        ),
    ],
)
def test_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


def test_one_line_takes_a_constructors_own_words() -> None:
    outer = ValueError("Does not validate against any of the Union subtypes\nGiven value: 3")
    outer.__cause__ = ValueError("k=9 needs n")
    assert one_line(outer) == "k=9 needs n"
