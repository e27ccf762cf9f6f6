"""The commands and their options. The function of a command is imported when it is called: `--help` answers at once.

Options that are classes need jsonargparse (`CLASS_OPTIONS`). All others are plain values and lists: argparse takes them
as people type them, such as `--k 1 8`, `--overwrite`, and files after options.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Final

from vibethinker.problems import SPLITS

LIGHTNING: Final = {"fit": "train", "validate": "validate", "test": "test", "predict": "predict"}
# Functions of the whole command line, with parsers of their own
CLASS_OPTIONS: Final = {**dict.fromkeys(LIGHTNING, "vibethinker.cli.fit:run"), "verify": "vibethinker.cli.verify:run"}

PREPARE = """
Converts raw data sets to a folder of clean domain data. Every row gets a domain. Rows without an answer to grade by,
benchmark problems, duplicates and near duplicates are removed; the solutions of duplicates are merged, and only those
that box the right answer are kept. The rest is split into train, probe, val and test by a hash of the problem.
`--data.data DIR` then reads the folder.
"""
PREPARE_EXAMPLE = """
example:
  $ cat math.yaml
  out: data/math-domains             # paths are relative to the working directory
  sources:
    - data: data/math_train.jsonl    # JSONL or Parquet
      fields: {domain: subject}      # columns with unusual names; this one is mapped below
    - {data: data/gsm8k.jsonl, domain: algebra}    # one domain for all rows
  domains:
    algebra: [Algebra, Intermediate Algebra, Prealgebra]
    geometry: [Geometry]
  rest: other                        # domain of all other values; without it they are left out, and counted
  benchmarks: [data/aime24.jsonl, data/math500.jsonl]
  decontamination: {ngram: 10, min_shared: 1}      # removes rows that share a 10-gram of words with a benchmark prompt
  duplicates: {similarity: 0.8, shingle: 3}        # Jaccard; numbers and answers must also be equal
  solutions: {append_answer: true, strip_annotations: true}    # for GSM8K: no boxes, <<48/2=24>>
  $ vibethinker prepare math.yaml
  $ vibethinker fit --config sft.yaml --data AlgebraDataModule --data.data data/math-domains
"""
DOMAINS = ("algebra", "geometry", "calculus", "statistics", "code")
PRESETS = ("vibethinker", "vibethinker-0.6")


def add_to(subparsers: Any) -> None:
    """Adds every command but those of `CLASS_OPTIONS` to the parser of the console script."""

    def add(name: str, function: str, help: str, **options: Any) -> argparse.ArgumentParser:
        options = {"description": f"{help[0].upper()}{help[1:]}.", **options}
        parser: argparse.ArgumentParser = subparsers.add_parser(name, help=help, **options)
        parser.set_defaults(command=f"vibethinker.cli.{function}")
        return parser

    _add_run(add("run", "recipe.runner:run", "run a whole recipe, stage by stage; resumes where it was stopped"))
    _add_fuse(add("fuse", "commands:fuse", "average model folders into a new one"))
    evaluate = add("evaluate", "evaluate:evaluate", "evaluate a model on benchmarks or held-out problems")
    _add_evaluate(evaluate, split="test", problems=256, samples=8, distinct=False)
    probe = add("probe", "evaluate:evaluate", "measure the diversity of a model's correct answers on probe problems")
    _add_evaluate(probe, split="probe", problems=64, samples=16, distinct=True)
    _add_regrade(add("regrade", "evaluate:again", "grade the samples of an evaluation again, without a model"))
    _add_filter(add("filter", "filter:run", "keep the training problems that a model solves only sometimes"))
    report = add("report", "report.page:write_report", "write report.html for a recipe's output folder again")
    report.add_argument("output", type=Path, metavar="DIR", help="output folder of `vibethinker run`")
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    _add_prepare(
        add("prepare", "prepare:run", "clean raw data sets", description=PREPARE, epilog=PREPARE_EXAMPLE, **raw)
    )
    add("doctor", "doctor:examine", "show what this machine offers")


def call(options: argparse.Namespace) -> int:
    """Calls the function of a command with its options; prints a path that it returns, and returns an exit code."""
    given = vars(options)
    result = resolve_name(given.pop("command"))(**given)
    if isinstance(result, Path):
        print(result)
    return result if isinstance(result, int) else 0


def fuse(**options: Any) -> Path:
    """`vibethinker fuse`: returns the folder of the fused model."""
    from vibethinker.fusion import fuse

    fuse(**options)
    return Path(options["out"])


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="RECIPE.yaml", help="stages, from base model to evaluation")
    parser.add_argument("--output", type=Path, metavar="DIR", help="output folder (default: the recipe's own)")
    parser.add_argument("--jobs", type=_positive, default=1, metavar="N", help="processes at a time (default: 1)")
    parser.add_argument(
        "--redo", nargs="+", default=[], metavar="STAGE", help="run these stages again, and all that build on them"
    )
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="print the commands and what is done")


def _add_fuse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experts", nargs="+", metavar="EXPERT", help="model folders, or LoRA adapter folders")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the fused model")
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="sum to one (default: equal)")
    parser.add_argument(
        "--method", choices=("linear", "task_arithmetic"), default="linear", help="default: %(default)s"
    )
    parser.add_argument("--base", metavar="DIR", help="of task_arithmetic: the model that the experts started from")
    parser.add_argument("--scaling", type=float, default=1.0, help="of task_arithmetic (default: 1)")
    dtypes = ("keep", "float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=dtypes, default="keep", help="of the fused weights (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a fusion of other inputs")


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="as in the example below")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default: the configuration's own)")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder made from other settings or files")


def _add_evaluate(parser: argparse.ArgumentParser, split: str, problems: int, samples: int, distinct: bool) -> None:
    _add_sampling(parser, samples)
    if split == "probe":
        parser.set_defaults(files=())
    else:
        parser.add_argument(
            "files", nargs="*", metavar="FILE", help="JSONL or Parquet benchmarks (default: held-out problems)"
        )
    held_out = parser.add_argument_group("held-out problems")
    held_out.add_argument("--domains", nargs="+", metavar="DOMAIN", help=f"default: {' '.join(DOMAINS)}")
    held_out.add_argument("--data", help="JSONL or Parquet file, folder, or hub data set (default: embedded problems)")
    held_out.add_argument("--difficulty", type=_positive, help="of embedded problems (default: 2)")
    held_out.add_argument("--split", choices=SPLITS[1:], help=f"default: {split}")
    held_out.add_argument("--problems", type=_positive, metavar="N", help=f"of each domain (default: {problems})")
    parser.add_argument("--k", nargs="+", type=_positive, default=[1, 8], help="of pass@k (default: 1 8)")
    parser.add_argument(
        "--distinct",
        action=argparse.BooleanOptionalAction,
        default=distinct,
        help="count distinct correct solutions: different checked paths, or different programs",
    )
    parser.add_argument("--stage", default="", help="label of the result rows")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="results; all samples are kept beside them")
    parser.set_defaults(default_split=split, default_problems=problems, default_domains=DOMAINS)


def _add_sampling(parser: argparse.ArgumentParser, samples: int) -> None:
    """Options of every command that samples from a model."""
    parser.add_argument("model", metavar="MODEL", help="model folder or hub name; `nano` is built in")
    parser.add_argument("--preset", choices=PRESETS, help="sampling as in the papers; other options override it")
    parser.add_argument("--samples", type=_positive, metavar="N", help=f"of each problem (default: {samples})")
    parser.add_argument("--temperature", type=float, metavar="T", help="default: 1")
    parser.add_argument("--top-p", type=float, metavar="P", help="default: 1")
    parser.add_argument(
        "--max-new-tokens", type=_positive, metavar="N", help="default: what the context leaves, at most 2048"
    )
    parser.add_argument("--instruction", metavar="TEXT", help="after each prompt, instead of the problem's own")
    parser.add_argument(
        "--skip-long",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="leave out problems whose prompts are too long for --max-new-tokens",
    )
    parser.add_argument(
        "--fields", type=_mapping, default={}, metavar="JSON", help='columns with unusual names, as {"field": "column"}'
    )
    parser.add_argument(
        "--reward",
        metavar="NAME",
        help="class, path of a function, or JSON with class_path and init_args "
        "(default: CodeReward for problems with tests, MathReward for the others)",
    )
    parser.add_argument("--slots", type=_positive, default=256, metavar="N", help="sequences at a time (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="delete the samples that are kept beside --out")
    parser.set_defaults(default_samples=samples)


def _add_regrade(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="FILE.json", help="results of an evaluation, its samples beside it")
    parser.add_argument("--reward", metavar="NAME", help="as of evaluate (default: as before)")
    parser.add_argument("--k", nargs="+", type=_positive, help="of pass@k (default: as before)")


def _add_filter(parser: argparse.ArgumentParser) -> None:
    _add_sampling(parser, samples=8)
    parser.add_argument("data", metavar="DATA", help="JSONL or Parquet file, or a folder with a train file")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="data folder; its samples are kept beside it"
    )
    parser.add_argument("--min-error-rate", type=float, metavar="E", help="keep problems that fail at least this often")
    parser.add_argument(
        "--max-error-rate", type=float, metavar="E", help="and at most this often (default: neither always nor never)"
    )
    parser.add_argument("--min-solution-tokens", type=int, default=0, metavar="N", help="drop shorter solutions")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _mapping(text: str) -> dict[str, str]:
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object of column names, got {text!r}")
    return fields
