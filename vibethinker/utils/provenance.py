"""Provenance: the options and files that a result was made from, saved beside it and compared before it is reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import xxhash


class Difference(NamedTuple):
    """An option or a file that has changed; as text, the end of a sentence like `it was made with lr=1, now it is 2`.

    Attributes:
        name: dotted name of the option, or name of the file.
        saved: the earlier value, or the digest of the earlier content; `None` if there was none.
        now: the same of today.
        is_file: the values are digests.
    """

    name: str
    saved: Any
    now: Any
    is_file: bool = False

    def __str__(self) -> str:
        if self.is_file:
            return f"another version of {self.name}"
        return f"{self.name}={self.saved!r}, now it is {self.now!r}"


@dataclass(frozen=True)
class Provenance:
    """Everything that decides a result, converted to JSON types; `dataclasses.asdict` gives what is saved.

    Attributes:
        options: by name, nested as deeply as they come.
        files: digests by the name of a file, or of other content.

    Example:
        >>> saved = Provenance({"trainer": {"max_steps": 6}})
        >>> print(Provenance({"trainer": {"max_steps": 8}}).difference(saved))
        trainer.max_steps=6, now it is 8
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("options", "files"):
            object.__setattr__(self, name, json.loads(json.dumps(getattr(self, name), default=str)))

    def difference(self, saved: Provenance) -> Difference | None:
        """The first option by name, or else the first file, that differs from `saved`; `None` if there is none.

        An option that is missing counts as `None`.
        """
        for part in ("options", "files"):
            before, now = (dict(leaves(getattr(provenance, part))) for provenance in (saved, self))
            for name in sorted(before.keys() | now.keys()):
                if before.get(name) != now.get(name):
                    return Difference(name, before.get(name), now.get(name), is_file=part == "files")
        return None


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every option of a nested mapping with its dotted name; the entries of a list of mappings go by their index."""
    if isinstance(tree, Mapping):
        entries = list(tree.items())
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        entries = list(enumerate(tree))
    else:
        yield name, tree
        return
    for key, value in entries:
        yield from leaves(value, f"{name}.{key}" if name else str(key))


def digest(content: str | bytes) -> str:
    """Hash of a content, with the name of its algorithm."""
    return f"xxh3_128:{xxhash.xxh3_128(content.encode() if isinstance(content, str) else content).hexdigest()}"


def file_digest(path: str | Path) -> str:
    """Hash of a file's content, read in chunks."""
    with Path(path).open("rb", buffering=0) as file:
        return f"xxh3_128:{hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()}"
