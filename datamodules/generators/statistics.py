"""Statistics: mean, variance, probability, expectation, combinations."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations

from vibethinker.datamodules.generators.family import Draft, Family, LevelRandom, add, divide, multiply, ratio


def missing(rng: LevelRandom) -> Draft:
    """The number that gives a list its mean: total minus the others, or balance the deviations."""
    others = rng.level((2, 3, 4, 5))
    spread = rng.level((5, 9, 20, 40))
    mean = rng.integer(spread + 1, (20, 40, 90, 200))
    known = [mean + rng.randint(-spread, spread) for _ in range(others)]
    deviations = [value - mean for value in known]
    amount, surplus = mean * (others + 1), sum(deviations)
    answer = mean - surplus
    running = [add(sum(known[:i]), known[i]) for i in range(1, others)]
    by_total = [multiply(others + 1, mean), *running, add(amount, -sum(known))]
    by_balance = [*(add(value, -mean) for value in known), add(*deviations), add(mean, -surplus)]
    pattern = rng.phrase(
        "{} numbers have mean {}. All but one are {}. Find the other.",
        "The mean of {} numbers is {}. Known: {}. Find the last.",
    )
    prompt = pattern.format(others + 1, mean, _listed(known))
    return Draft((mean, *sorted(known)), prompt, answer, (by_total, by_balance))


def variance(rng: LevelRandom) -> Draft:
    """Population variance: mean squared deviation, or the squared differences of all pairs over n^2."""
    n = rng.level((3, 3, 4, 5))
    spread = rng.level((4, 9, 9, 12))
    mean = rng.integer(spread + 1, (20, 90, 90, 150))
    while True:
        deviations = [rng.randint(-spread, spread) for _ in range(n - 1)]
        deviations.append(-sum(deviations))
        if 0 < max(map(abs, deviations)) <= spread:
            break
    data = [mean + value for value in deviations]
    squares = [value * value for value in deviations]
    definition = [
        add(*data),
        divide(sum(data), n),
        *(add(value, -mean) for value in data),
        add(*squares),
        divide(sum(squares), n, "V"),
    ]
    differences = [abs(first - second) for first, second in combinations(data, 2)]
    by_pairs = [
        *(add(max(pair), -min(pair)) for pair in combinations(data, 2)),
        add(*(value * value for value in differences)),
        divide(sum(value * value for value in differences), n * n, "V"),
    ]
    pattern = rng.phrase("Find the variance of {}.", "What is the variance of {}?")
    return Draft(tuple(sorted(data)), pattern.format(_listed(data)), Fraction(sum(squares), n), (definition, by_pairs))


def probability(rng: LevelRandom) -> Draft:
    """One draw, red or blue: add the favourable counts, or the complement."""
    limit = rng.level((9, 20, 50, 99))
    red, blue, green = (rng.randint(1, limit) for _ in range(3))
    wanted, balls = red + blue, red + blue + green
    other, answer = Fraction(green, balls), Fraction(wanted, balls)
    addition = [add(red, blue), add(wanted, green), f"P={ratio(wanted, balls)}"]
    complement = [add(red, blue, green), f"Q={ratio(green, balls)}", f"P={add(1, -other)}"]
    question = rng.phrase("the chance to draw red or blue", "the probability of not drawing green")
    prompt = f"A bag has {red} red, {blue} blue and {green} green balls. Find {question}."
    return Draft((*sorted((red, blue)), green), prompt, answer, (addition, complement))


def expectation(rng: LevelRandom) -> Draft:
    """Expected value of two outcomes: weighted mean, or the smaller one plus the expected surplus."""
    while True:
        chances = rng.integer(2, (5, 9, 15, 30))
        hits = rng.randint(1, chances - 1)
        if math.gcd(hits, chances) == 1:
            break
    low = rng.integer(1, (15, 25, 60, 99))
    gap = chances * rng.integer(1, (6, 8, 9, 9))
    if rng.difficulty > 2:  # the expectation is then usually a fraction
        gap += rng.randrange(chances)
    high, misses = low + gap, chances - hits
    answer = low + Fraction(gap * hits, chances)
    weighted = [
        add(chances, -hits),
        multiply(hits, high),
        multiply(misses, low),
        add(hits * high, misses * low),
        f"E={ratio(hits * high + misses * low, chances)}",
    ]
    surplus = [
        add(high, -low),
        multiply(hits, gap),
        divide(hits * gap, chances, "S"),
        f"E={add(low, answer - low)}",
    ]
    pattern = rng.phrase(
        "A game pays {} with probability {}/{} and {} otherwise. Find the expected pay.",
        "X={} with probability {}/{}, else X={}. Find the mean of X.",
    )
    prompt = pattern.format(high, hits, chances, low)
    return Draft((high, hits, chances, low), prompt, answer, (weighted, surplus))


def pairs(rng: LevelRandom) -> Draft:
    """Pairs with at least one woman, some excluded: take the pairs of men from all, or add mixed pairs and women's."""
    men, women = (rng.integer(2, (7, 12, 30, 60)) for _ in range(2))
    everyone, mixed = men + women, men * women
    of_all, of_men, of_women = (math.comb(group, 2) for group in (everyone, men, women))
    excluded = rng.randint(1, min(of_all - of_men - 1, rng.level((20, 40, 90, 200))))
    answer = of_all - of_men - excluded
    complement = [
        add(men, women),
        _pairs_of(everyone),
        _pairs_of(men),
        add(of_all, -of_men),
        add(of_all - of_men, -excluded),
    ]
    cases = [multiply(men, women), _pairs_of(women), add(mixed, of_women), add(mixed + of_women, -excluded)]
    prompt = (
        f"From {men} men and {women} women choose 2 people, at least one a woman. "
        f"{excluded} such pairs refuse. How many remain?"
    )
    return Draft((men, women, excluded), prompt, answer, (complement, cases))


def _listed(values: list[int]) -> str:
    return ",".join(map(str, values))


def _pairs_of(n: int) -> str:
    return f"{n}*{n - 1}/2={n * (n - 1)}/2={math.comb(n, 2)}"


FAMILIES: tuple[Family, ...] = (missing, variance, probability, expectation, pairs)
