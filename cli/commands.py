"""The commands beside LightningCLI's: their options here, their work imported when it is asked for."""

from __future__ import annotations

import argparse
import json
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
PRESETS = ("vibethinker", "vibethinker-0.6")
_REWARD = "class, path of a function, or JSON with class_path and init_args; by tests or by answer where left out"


def add_to(subparsers: Any) -> None:
    """Adds every command to the parser of the console script."""
    _add_run(subparsers.add_parser("run", help="a whole recipe, stage by stage; goes on where it was stopped"))
    _add_fuse(subparsers.add_parser("fuse", help="average model folders into a new one"))
    evaluate = subparsers.add_parser("evaluate", help="how often a model is right, on benchmarks or held-out problems")
    evaluate.add_argument("model", metavar="MODEL", help="model folder or hub name; `nano` is built in")
    evaluate.add_argument(
        "files", nargs="*", metavar="FILE", help="JSONL or Parquet benchmarks, each as a whole; else held-out problems"
    )
    _add_sampling(evaluate, split="test", problems=256, samples=8, distinct=False)
    probe = subparsers.add_parser("probe", help="how diverse a model's right answers are on the probe problems")
    probe.add_argument("model", metavar="MODEL", help="model folder or hub name; `nano` is built in")
    probe.set_defaults(files=())
    _add_sampling(probe, split="probe", problems=64, samples=16, distinct=True)
    _add_regrade(subparsers.add_parser("regrade", help="judge the samples of an evaluation again, without a model"))
    _add_filter(subparsers.add_parser("filter", help="keep training problems that a model solves sometimes, or seldom"))
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
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="print commands and what is done already")
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
    held_out = parser.add_argument_group("held-out problems")
    held_out.add_argument("--domains", nargs="+", metavar="DOMAIN", help=f"default: {' '.join(DOMAINS)}")
    held_out.add_argument("--data", help="JSONL or Parquet file, folder, or hub data set; embedded problems by default")
    held_out.add_argument("--difficulty", type=_positive, help="of embedded problems (default 2)")
    held_out.add_argument("--split", choices=SPLITS[1:], help=f"default: {split}")
    held_out.add_argument("--problems", type=_positive, metavar="N", help=f"of each domain (default {problems})")
    _add_protocol(parser, samples)
    parser.add_argument("--k", nargs="+", type=_positive, default=[1, 8], help="of pass@k (default: %(default)s)")
    parser.add_argument(
        "--distinct",
        action=argparse.BooleanOptionalAction,
        default=distinct,
        help="count distinct right solutions, every step checked, or distinct programs",
    )
    parser.add_argument("--stage", default="", help="label of the rows")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="where results are written, and all samples beside it"
    )
    parser.add_argument("--overwrite", action="store_true", help="drop the samples that are kept beside --out")
    parser.set_defaults(command=_evaluate, default_split=split, default_problems=problems, default_domains=DOMAINS)


def _add_protocol(parser: argparse.ArgumentParser, samples: int) -> None:
    """How a model is asked, of every command that asks one."""
    parser.add_argument("--preset", choices=PRESETS, help="as the papers sample; other options override it")
    parser.add_argument("--samples", type=_positive, metavar="N", help=f"of each problem (default {samples})")
    parser.add_argument("--temperature", type=float, metavar="T", help="default 1")
    parser.add_argument("--top-p", type=float, metavar="P", help="default 1")
    parser.add_argument(
        "--max-new-tokens", type=_positive, metavar="N", help="default: what the context leaves, 2048 at most"
    )
    parser.add_argument("--instruction", metavar="TEXT", help="after each prompt, instead of the problem's own")
    parser.add_argument(
        "--skip-long",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="leave out problems that leave no room for --max-new-tokens",
    )
    parser.add_argument(
        "--fields", type=_mapping, default={}, metavar="JSON", help="columns not found by their usual names"
    )
    parser.add_argument("--reward", metavar="NAME", help=_REWARD)
    parser.add_argument("--slots", type=_positive, default=256, metavar="N", help="sequences at a time (default 256)")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(default_samples=samples)


def _add_regrade(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="FILE.json", help="results of an evaluation, its samples beside it")
    parser.add_argument("--reward", metavar="NAME", help="as of evaluate; default: as before")
    parser.add_argument("--k", nargs="+", type=_positive, help="of pass@k (default: as before)")
    parser.set_defaults(command=_regrade)


def _add_filter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder or hub name; `nano` is built in")
    parser.add_argument("data", metavar="DATA", help="JSONL or Parquet file, or a folder with a train file")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="data folder; its samples are kept beside"
    )
    parser.add_argument("--min-error-rate", type=float, metavar="E", help="keep what is wrong at least this often")
    parser.add_argument(
        "--max-error-rate", type=float, metavar="E", help="and at most; default: drop what is solved always or never"
    )
    parser.add_argument("--min-solution-tokens", type=int, default=0, metavar="N", help="drop shorter solutions")
    _add_protocol(parser, samples=8)
    parser.add_argument("--overwrite", action="store_true", help="drop the samples that are kept beside --out")
    parser.set_defaults(command=_filter)


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


def _run(options: argparse.Namespace) -> int:
    from vibethinker.cli.recipe.runner import run

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


def _regrade(options: argparse.Namespace) -> None:
    from vibethinker.cli.evaluate import again

    again(options)


def _filter(options: argparse.Namespace) -> None:
    from vibethinker.cli.filter import run

    run(options)


def _report(options: argparse.Namespace) -> None:
    from vibethinker.cli.report.page import write_report

    print(write_report(options.output))


def _doctor(options: argparse.Namespace) -> None:
    from vibethinker.cli.doctor import examine

    examine()
