"""The console script: calls the command, and turns errors that a user can correct into one line on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name

from vibethinker.cli import commands
from vibethinker.cli.errors import BUGS, one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 1 for an error, 2 for a wrong command line, 130 for Ctrl-C."""
    # Before torch is loaded: threads that spin for milliseconds make a busy machine ten times slower, not faster.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("VIBETHINKER_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return _dispatch(arguments)
    except SystemExit as end:  # --help, --print_config, a wrong command line
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        print("vibethinker: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug or isinstance(error, BUGS):
            raise
        print(f"vibethinker: {one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, argparse.ArgumentError) else 1


def _dispatch(arguments: Sequence[str]) -> int:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # for the user's own rewards and other classes in the current folder
    if arguments and arguments[0] in commands.CLASS_OPTIONS:
        resolve_name(commands.CLASS_OPTIONS[arguments[0]])(arguments)
        return 0
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if isinstance(getattr(options, "files", None), list) and not any(part.startswith("-") for part in rest):
        options.files = [*options.files, *rest]  # argparse accepts no list of files after options
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return commands.call(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vibethinker",
        description="Spectrum-to-Signal post-training of small reasoning models.",
        epilog="--debug, or VIBETHINKER_DEBUG=1, shows where an error comes from.",
    )
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, verb in commands.LIGHTNING.items():
        subparsers.add_parser(name, help=f"{verb} with LightningCLI; see vibethinker {name} --help", add_help=False)
    subparsers.add_parser("verify", help="grade a file of completions with a reward", add_help=False)
    commands.add_to(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
