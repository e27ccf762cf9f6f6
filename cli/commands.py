"""The commands beside LightningCLI's: their options here, their work imported when it is asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vibethinker.problems import SPLITS

PREPARE = """
Makes a folder of clean domain data from raw sets. Every row gets a domain; rows that no answer can be judged by,
problems of benchmarks, duplicates and near duplicates are removed; solutions of duplicates are put together, and only
those that box the right answer stay; what is left is split into train, probe, val and test by a hash of the problem.
`--data.data DIR` then reads the folder.
"""
PREPARE_EXAMPLE = """
example:
  $ cat math.yaml
  out: data/math-domains             # paths are relative to the working directory
  sources:
    - data: data/math_train.jsonl    # JSONL or Parquet
      fields: {domain: subject}      # columns that are not found by their usual names; this one is mapped below
    - {data: data/gsm8k.jsonl, domain: algebra}    # one domain for all rows
  domains:
    algebra: [Algebra, Intermediate Algebra, Prealgebra]
    geometry: [Geometry]
  rest: other                        # domain of all other values; without it they are left out, and counted
  benchmarks: [data/aime24.jsonl, data/math500.jsonl]
  decontamination: {ngram: 10, min_shared: 1}      # what shares a 10-gram of words with one of their prompts goes
  duplicates: {similarity: 0.8, shingle: 3}        # Jaccard; same numbers and an equal answer besides
  solutions: {append_answer: true, strip_annotations: true}    # for GSM8K: no boxes, <<48/2=24>>
  $ vibethinker prepare math.yaml
  $ vibethinker fit --config sft.yaml --data AlgebraDataModule --data.data data/math-domains
"""
DOMAINS = ("algebra", "geometry", "calculus", "statistics", "code")


def add_to(subparsers: Any) -> None:
    """Adds every command to the parser of the console script."""
    _add_run(subparsers.add_parser("run", help="a whole recipe, stage by stage; goes on where it was stopped"))
    _add_fuse(subparsers.add_parser("fuse", help="average model folders into a new one"))
    evaluate = subparsers.add_parser("evaluate", help="how often a model is right on held-out problems")
    _add_sampling(evaluate, split="test", problems=256, samples=8, distinct=False)
    probe = subparsers.add_parser("probe", help="how diverse a model's right answers are on the probe problems")
    _add_sampling(probe, split="probe", problems=64, samples=16, distinct=True)
    report = subparsers.add_parser("report", help="write report.html anew for a recipe's output folder")
    report.add_argument("output", type=Path, metavar="DIR")
    report.set_defaults(command=_report)
    prepare = subparsers.add_parser(
        "prepare",
        help="raw sets made into a folder of clean domain data",
        description=PREPARE,
        epilog=PREPARE_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_prepare(prepare)
    doctor = subparsers.add_parser("doctor", help="what this machine offers")
    doctor.set_defaults(command=_doctor)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where everything goes; the recipe's own by default")
    parser.add_argument("--jobs", type=_positive, default=1, metavar="N", help="stages at a time (default 1)")
    parser.add_argument(
        "--redo", nargs="+", default=[], metavar="STAGE", help="do these anew, and whatever was made from them"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands and what is done already")
    parser.set_defaults(command=_run)


def _add_fuse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experts", nargs="+", metavar="EXPERT", help="model folders, or LoRA adapter folders")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="sum to one; equal by default")
    parser.add_argument("--method", choices=("linear", "task_arithmetic"), default="linear")
    parser.add_argument("--base", metavar="DIR", help="of task_arithmetic: what the experts were trained from")
    parser.add_argument("--scaling", type=float, default=1.0, help="of task_arithmetic (default 1)")
    parser.add_argument("--dtype", choices=("keep", "float32", "bfloat16", "float16"), default="keep")
    parser.add_argument("--overwrite", action="store_true", help="replace a fusion of other inputs")
    parser.set_defaults(command=_fuse)


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to make; the configuration's own by default")
    parser.add_argument("--overwrite", action="store_true", help="replace what other settings or files made there")
    parser.set_defaults(command=_prepare)


def _add_sampling(parser: argparse.ArgumentParser, split: str, problems: int, samples: int, distinct: bool) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder or hub name; `nano` is built in")
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS), metavar="DOMAIN", help="default: %(default)s")
    parser.add_argument("--data", help="JSONL or Parquet file, folder, or hub data set; embedded problems by default")
    parser.add_argument("--difficulty", type=_positive, default=2, help="of embedded problems (default %(default)s)")
    parser.add_argument("--split", choices=SPLITS[1:], default=split, help="default: %(default)s")
    parser.add_argument("--problems", type=_positive, default=problems, help="of each domain (default %(default)s)")
    parser.add_argument("--samples", type=_positive, default=samples, help="of each problem (default %(default)s)")
    parser.add_argument("--k", nargs="+", type=_positive, default=[1, 8], help="of pass@k (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--max-new-tokens", type=_positive, help="default: what the context leaves, 2048 at most")
    parser.add_argument("--slots", type=_positive, default=256, help="sequences at a time (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--distinct",
        action=argparse.BooleanOptionalAction,
        default=distinct,
        help="count distinct right solutions, every step checked, or distinct programs",
    )
    parser.add_argument("--stage", default="", help="label of the rows")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where rows and some samples are written")
    parser.set_defaults(command=_evaluate)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    from vibethinker.cli.run import run

    return run(options.recipe, options.output, options.jobs, options.redo, options.dry_run)


def _fuse(options: argparse.Namespace) -> None:
    from vibethinker.fusion import fuse

    fuse(
        options.experts,
        options.out,
        options.weights,
        options.method,
        options.base,
        options.scaling,
        options.dtype,
        overwrite=options.overwrite,
    )
    print(options.out)


def _evaluate(options: argparse.Namespace) -> None:
    from vibethinker.cli.evaluate import evaluate

    evaluate(options)


def _prepare(options: argparse.Namespace) -> None:
    from vibethinker.cli.prepare import run

    run(options.config, options.out, options.overwrite)


def _report(options: argparse.Namespace) -> None:
    from vibethinker.cli.report import write_report

    print(write_report(options.output))


def _doctor(options: argparse.Namespace) -> None:
    from vibethinker.cli.doctor import examine

    examine()
