"""What the documents say is so: links lead somewhere, commands parse, the example runs, named functions exist."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from pkgutil import resolve_name
from xml.etree import ElementTree

import pytest

from vibethinker.cli import commands, verify
from vibethinker.cli.fit import parse
from vibethinker.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands_shown() -> list[str]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def links(document: Path) -> list[str]:
    targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8"))
    return [target for target in targets if not re.match(r"[a-z]+:|#", target)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    assert [link for link in links(document) if not (document.parent / link.partition("#")[0]).exists()] == []


def test_links_are_found() -> None:
    assert {"docs/recipe.svg", "docs/architecture.md", "LICENSE"} <= set(links(ROOT / "README.md"))


@pytest.mark.parametrize("command", commands_shown())
def test_a_command_of_the_readme_parses(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program, *arguments = shlex.split(command, comments=True)
    assert program == "vibethinker"
    if arguments[0] in commands.LIGHTNING:
        assert parse(arguments)["model"]["class_path"]
    elif arguments[0] == "verify":
        assert verify.make_parser().parse_args(arguments[1:]).file
    elif arguments[0] == "run":
        assert main([*arguments, "--dry-run", "--output", str(tmp_path)]) == 0
    else:
        parser = argparse.ArgumentParser(exit_on_error=False)
        commands.add_to(parser.add_subparsers())
        assert parser.parse_args(arguments).command


def test_every_command_is_shown() -> None:
    subparsers = argparse.ArgumentParser().add_subparsers()
    commands.add_to(subparsers)
    shown = {shlex.split(command)[1] for command in commands_shown()}
    assert shown == {"fit", "verify", *subparsers.choices}


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    training, sandbox = blocks("python")
    exec(compile(training, "README.md", "exec"), {})
    best = re.search(r"(\S+)\.ckpt tensor\(", capsys.readouterr().out)
    assert best
    assert Path(best[1], "model.safetensors").is_file()
    exec(compile(sandbox, "README.md", "exec"), {})
    assert capsys.readouterr().out == "passed 1.0\n"


def test_every_named_object_exists() -> None:
    names = set(re.findall(r"`(vibethinker(?:\.\w+)+)`", ARCHITECTURE))
    assert len(names) > 20
    for name in names:
        resolve_name(name)


def test_every_equation_has_its_function_or_none_yet() -> None:
    table = ARCHITECTURE.partition("## Equations")[2]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 15
    for equation, source, function in rows:
        assert re.search(r"\b\d{4}\.\d{5}\b", source), equation
        assert "`vibethinker." in function or function.strip() == "not yet", equation


def test_the_picture_stands_alone() -> None:
    picture = ROOT / "docs" / "recipe.svg"
    assert ElementTree.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert not re.search(r"@import|@font-face|href=|url\((?!#)|<script", picture.read_text("utf-8"))
