"""Pairs of 28 kinds, most of them near misses: every verdict as labelled, and no wrong answer accepted."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from vibethinker.rewards.math.verifier import are_equivalent

KNOWN_MISSES = "known_misses"
Rows = list[tuple[str, str, bool]]  # gold, completion, whether it is right


def load() -> dict[str, Rows]:
    rows: dict[str, Rows] = defaultdict(list)
    kind = ""
    for line in (Path(__file__).parent / "labelled_pairs.txt").read_text("utf-8").splitlines():
        if section := re.fullmatch(r"\[([a-z_]+)\]", line):
            kind = section[1]
        elif line and not line.startswith("#"):
            gold, sign, given = re.split(" ([≡≢]) ", line)
            given = re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), given)
            if given.startswith("«"):
                given = given[1:-1]
            elif "boxed" not in given:
                given = f"So the answer is $\\boxed{{{given}}}$."
            rows[kind].append((gold, given, sign == "≡"))
    return rows


PAIRS = load()


def test_the_table_is_mostly_near_misses() -> None:
    labels = [same for kind, rows in PAIRS.items() if kind != KNOWN_MISSES for _, _, same in rows]
    assert len(PAIRS) == 29
    assert len(labels) >= 700
    assert labels.count(False) > labels.count(True)


@pytest.mark.parametrize("kind", PAIRS)
def test_labelled_pairs(kind: str) -> None:
    rows = PAIRS[kind]
    verdicts = are_equivalent([given for _, given, _ in rows], [gold for gold, _, _ in rows])
    expected = [same and kind != KNOWN_MISSES for _, _, same in rows]
    assert [row for row, verdict, right in zip(rows, verdicts, expected, strict=True) if verdict != right] == []
