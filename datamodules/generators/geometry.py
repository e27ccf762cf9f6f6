"""Geometry: areas, angles, circles, Pythagoras, similarity."""

from __future__ import annotations

import math
from fractions import Fraction

from vibethinker.datamodules.generators.family import (
    Draft,
    Family,
    LevelRandom,
    add,
    divide,
    multiply,
    ratio,
    square,
    squares,
    total,
)


def trapezoid(rng: LevelRandom) -> Draft:
    """Area: mean of the parallel sides times height, or a parallelogram and a triangle."""
    height = rng.integer(2, (6, 9, 20, 40))
    short = rng.integer(2, (15, 30, 60, 99))
    gap = rng.integer(1, (10, 30, 40, 80))
    if rng.difficulty < 3 and gap * height % 2:  # a whole area
        gap += 1
    long = short + gap
    average = [add(short, long), multiply(short + long, height), divide((short + long) * height, 2, "A")]
    triangle = Fraction(gap * height, 2)
    split = [
        add(long, -short),
        multiply(short, height),
        multiply(gap, height),
        divide(gap * height, 2, "T"),
        add(short * height, triangle),
    ]
    sides = rng.sample((short, long), 2)
    pattern = rng.phrase(
        "Find the area of a trapezoid with bases {} and {} and height {}.",
        "A trapezoid has bases {} and {} and height {}. Find its area.",
    )
    return Draft((short, long, height), pattern.format(*sides, height), short * height + triangle, (average, split))


def bisector(rng: LevelRandom) -> Draft:
    """The angle that a bisector makes: angle sum of one part of the triangle, or exterior angle of the other."""
    low, step = rng.level(((20, 10), (10, 1), (5, 1), (1, 1)))
    while True:
        a, b = (rng.randrange(low, 180 - 2 * low, step) for _ in range(2))
        c = 180 - a - b
        if c >= low and (rng.difficulty > 2 or c % 2 == 0):
            break
    half = Fraction(c, 2)
    common = [add(a, b), add(180, -a - b), divide(c, 2, "H")]
    angle_sum = [*common, add(180, -a), add(180 - a, -half)]
    exterior = [*common, add(b, half)]
    prompt = f"In triangle ABC, A={a} and B={b}. CD bisects angle C, with D on AB. Find angle ADC."
    return Draft((a, b), prompt, b + half, (angle_sum, exterior))


def circle(rng: LevelRandom) -> Draft:
    """Area (in units of pi) over a diameter: centre and radius, or a quarter of the squared diameter."""
    x, y = (rng.integer((0, 0, -20, -50), (5, 9, 20, 50)) for _ in range(2))
    dx, dy = (2 * rng.integer(1, (5, 8, 12, 25)) for _ in range(2))
    if rng.difficulty > 2:
        dy *= rng.choice((-1, 1))
    right, top = x + dx, y + dy
    centre_x, centre_y = x + dx // 2, y + dy // 2
    answer = (dx * dx + dy * dy) // 4
    radius = [
        f"({total(x, right)})/2={centre_x}",
        f"({total(y, top)})/2={centre_y}",
        add(right, -centre_x),
        add(top, -centre_y),
        squares(dx // 2, dy // 2),
    ]
    diameter = [add(right, -x), add(top, -y), squares(dx, dy), divide(4 * answer, 4)]
    ends = rng.sample([(x, y), (right, top)], 2)
    pattern = rng.phrase(
        "A circle has diameter from ({},{}) to ({},{}) and area k*pi. Find k.",
        "A diameter goes from ({},{}) to ({},{}). The area is k*pi. What is k?",
    )
    return Draft((x, y, right, top), pattern.format(*ends[0], *ends[1]), answer, (radius, diameter))


def tangent(rng: LevelRandom) -> Draft:
    """Squared tangent length: Pythagoras with the distance to the centre, or a difference of squares."""
    x, y = (rng.integer(0, (3, 6, 20, 50)) for _ in range(2))
    dx, dy = (rng.integer(2, (6, 9, 20, 40)) for _ in range(2))
    radius = rng.randint(1, max(dx, dy) - 1)
    distance = dx * dx + dy * dy
    answer = distance - radius * radius
    legs = [add(x + dx, -x), add(y + dy, -y)]
    pythagoras = [*legs, squares(dx, dy), square(radius), add(distance, -radius * radius)]
    product = (dy - radius) * (dy + radius)
    factored = [
        *legs,
        add(dy, -radius),
        add(dy, radius),
        multiply(dy - radius, dy + radius),
        square(dx),
        add(dx * dx, product),
    ]
    pattern = rng.phrase(
        "A circle has center ({},{}) and radius {}. Find the squared length of the tangent from ({},{}).",
        "Center ({},{}), radius {}: find the squared tangent length from ({},{}).",
    )
    key = (x, y, radius, x + dx, y + dy)
    return Draft(key, pattern.format(*key), answer, (pythagoras, factored))


def similar(rng: LevelRandom) -> Draft:
    """A side of a similar triangle: scale factor between the triangles, or side ratio within one of them."""
    scale = rng.integer(2, (5, 9, 15, 30))
    while True:
        ab, bc = rng.integer(2, (12, 24, 40, 60)), rng.integer(2, (30, 72, 99, 150))
        # a ratio that does not reduce, or equals the scale, would make the two ways one
        if math.gcd(ab, bc) > 1 and bc not in (ab, ab * scale):
            break
    de = ab * scale
    within = Fraction(bc, ab)
    unit = de // within.denominator
    between = [divide(de, ab), multiply(bc, scale)]
    inside = [
        f"BC/AB={ratio(bc, ab)}",
        *([divide(de, within.denominator)] if within.denominator > 1 else []),
        *([multiply(unit, within.numerator)] if within.numerator > 1 else []),
    ]
    pattern = rng.phrase(
        "Triangles ABC and DEF are similar. AB={}, BC={}, DE={}. Find EF.",
        "ABC is similar to DEF with AB={}, BC={}, DE={}. What is EF?",
    )
    return Draft((ab, bc, de), pattern.format(ab, bc, de), bc * scale, (between, inside))


FAMILIES: tuple[Family, ...] = (trapezoid, bisector, circle, tangent, similar)
