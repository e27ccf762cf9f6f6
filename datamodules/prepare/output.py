"""The output folder: a file for each split, `removed.jsonl`, `report.json`. The same input gives the same bytes.

train.jsonl probe.jsonl val.jsonl test.jsonl    problems of all domains, as `DomainDataModule` reads them
removed.jsonl                                   all other rows, each with the reason
report.json                                     counts, settings, and a hash of every file read and written
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from vibethinker.datamodules.prepare.pipeline import Prepared
from vibethinker.datamodules.prepare.settings import Settings
from vibethinker.utils.atomic import staged_folder

REPORT: Final = "report.json"
REMOVED: Final = "removed.jsonl"
_FORMAT: Final = 1  # version of the output; folders of another version are out of date


def identity(settings: Settings) -> dict[str, Any]:
    """Everything that decides the result: all settings but the output folder, and a hash of every file."""
    options = {name: value for name, value in asdict(settings).items() if name != "out"}
    files = [file.data for file in [*settings.sources, *settings.benchmarks]]
    return {"format": _FORMAT, "settings": options, "inputs": {name: _digest(Path(name)) for name in files}}


def write(prepared: Prepared, made_from: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Writes the folder, completely or not at all, in place of an older one; returns the content of `report.json`.

    A split without problems has no file.

    Args:
        prepared: the result.
        made_from: its `identity`.
        out: the folder.
    """
    with staged_folder(out) as folder:
        for split, problems in prepared.splits.items():
            if problems:
                own = ({name: v for name, v in asdict(p).items() if v is not None} for p in problems)
                _write_lines(folder / f"{split}.jsonl", own)
        records = map(asdict, prepared.removed)
        _write_lines(folder / REMOVED, (record | record.pop("why") for record in records))
        outputs = {path.name: _digest(path) for path in sorted(folder.iterdir())}
        report = {**made_from, "outputs": outputs, **counts(prepared)}
        (folder / REPORT).write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return report


def read_report(out: Path) -> dict[str, Any] | None:
    """The report of a folder that `prepare` wrote; `None` if there is no folder or an empty one.

    Raises:
        FileExistsError: it is something else, which must not be replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        report = json.loads((out / REPORT).read_bytes())
        _ = report["format"], report["settings"], report["inputs"], report["outputs"].items()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise FileExistsError(f"{out}: exists already and was not written by prepare; name another folder") from None
    return report


def first_changed(out: Path, report: Mapping[str, Any]) -> str | None:
    """The first file of a folder whose content has changed since it was written, if any."""
    files = report["outputs"].items()
    return next((name for name, digest in files if not (out / name).is_file() or _digest(out / name) != digest), None)


def counts(prepared: Prepared) -> dict[str, Any]:
    """The counts of a report."""
    removed: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in prepared.removed:
        removed[row.reason][row.domain or ""] += 1
    matches = [row.why["matches"] for row in prepared.removed if row.reason == "contaminated"]
    hits = Counter(match["benchmark"] for found in matches for match in found)
    shared = Counter(found[0]["shared"] for found in matches)
    values = Counter(row.why["value"] for row in prepared.removed if row.reason == "no domain")
    return {
        "rows": dict(prepared.rows),
        "domains": _domains(prepared),
        "removed": {reason: dict(sorted(removed[reason].items())) for reason in sorted(removed)},
        "without_domain": dict(sorted(values.items())),
        "benchmarks": {name: {"rows": n, "matched": hits[name]} for name, n in prepared.benchmarks.items()},
        "shared_ngrams": {str(n): shared[n] for n in sorted(shared)},
        "answers_from_solutions": prepared.boxed,
        "solutions": dict(sorted(prepared.solutions.items())),
    }


def _domains(prepared: Prepared) -> dict[str, dict[str, int]]:
    """By domain: number of problems in each split, without a solution, and with several."""
    counts: dict[str, dict[str, int]] = {}
    for domain in sorted({problem.domain for problems in prepared.splits.values() for problem in problems}):
        own = {split: [p for p in problems if p.domain == domain] for split, problems in prepared.splits.items()}
        paths = [len(p.solutions) for problems in own.values() for p in problems]
        without, several = sum(n == 0 for n in paths), sum(n > 1 for n in paths)
        counts[domain] = {split: len(problems) for split, problems in own.items()}
        counts[domain] |= {"without_solution": without, "several_solutions": several}
    return counts


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
