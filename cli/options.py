"""Nested options compared with one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every option with its dotted name; the entries of a list of mappings go by their number."""
    if isinstance(tree, Mapping):
        entries = list(tree.items())
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        entries = list(enumerate(tree))
    else:
        yield name, tree
        return
    for key, value in entries:
        yield from leaves(value, f"{name}.{key}" if name else str(key))


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first option, by name, whose value is not the same, with both values."""
    old, new = dict(leaves(before)), dict(leaves(now))
    changed = sorted(option for option in old.keys() | new.keys() if old.get(option) != new.get(option))
    return (changed[0], old.get(changed[0]), new.get(changed[0])) if changed else None
