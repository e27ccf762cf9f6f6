"""Raw rows of problems, and files of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write(path: Path, rows: Sequence[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    from datasets import Dataset

    Dataset.from_list(rows).to_parquet(str(path))
    return str(path)


def row(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {"prompt": f"question {number}", "answer": str(number), "domain": "algebra"} | changes
