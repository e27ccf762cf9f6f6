"""Seeds that are the same in every process and session."""

from __future__ import annotations

import hashlib


def stable_seed(*parts: object) -> int:
    """An int64 that depends on the text of the parts alone, unlike `hash`."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
