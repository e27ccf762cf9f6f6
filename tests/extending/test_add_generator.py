"""A generator of one's own: a function from random numbers to a problem, registered under a domain's name."""

from __future__ import annotations

import pytest

from vibethinker.datamodules import DomainDataModule
from vibethinker.datamodules.generators import FAMILIES, Draft, LevelRandom, generate, register


def remainder(rng: LevelRandom) -> Draft:
    """17 mod 5, by division and by subtraction."""
    b = rng.randint(2, 9)
    a = rng.randint(b, b * 20)
    by_division = [f"{a}-{b}*{a // b}={a % b}"]
    by_subtraction = [f"{a}-{a - a % b}={a % b}"]
    return Draft((a, b), f"What is the remainder of {a} divided by {b}?", a % b, (by_division, by_subtraction))


@pytest.fixture
def domain() -> str:
    if "number_theory" not in FAMILIES:
        register("number_theory", remainder)
    return "number_theory"


def test_a_data_module_takes_the_domain(domain: str) -> None:
    data = DomainDataModule(["algebra", domain], batch_size=4, probe_size=8)
    assert {problem.domain for problem in next(iter(data.train_dataloader()))} == {"algebra", domain}
    held_out = {problem.id for problem in data.problems("probe")}
    assert not held_out & {generate(domain, "train", index).id for index in range(200)}


def test_a_name_is_registered_once(domain: str) -> None:
    with pytest.raises(ValueError, match="needs a name of its own"):
        register("algebra", remainder)
