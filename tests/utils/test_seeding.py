"""Seeds made of text."""

from __future__ import annotations

from vibethinker.utils.seeding import stable_seed


def test_stable_seeds_depend_on_every_part() -> None:
    assert stable_seed(0, "a") == stable_seed(0, "a")
    assert len({stable_seed(*parts) for parts in ((0, "a"), (1, "a"), (0, "b"), ("0a",))}) == 4
    assert -(2**63) <= stable_seed("x") < 2**63
