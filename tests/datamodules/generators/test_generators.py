"""The embedded problems: splits, purity, and every answer and every step against independent mathematics."""

import ast
import itertools
import math
import operator
import random
import re
import statistics as reference
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.oracles import ORACLES, captured, integers, parsed, x
from vibethinker.datamodules.generators import DIFFICULTIES, DOMAINS, FAMILIES, Family, LevelRandom, generate, unique
from vibethinker.problems import SPLITS, Problem, Split

GOLDEN = [
    "algebra/linear/9,-1,-18",
    "geometry/trapezoid/23,32,8",
    "calculus/product/2,-5,3,-3,3",
    "statistics/missing/12,6,10,19",
    "code/within/0,31,44",
]
MATHEMATICS = tuple(domain for domain in DOMAINS if domain != "code")


def cases(*domains: str) -> list[Any]:
    return [
        pytest.param(domain, number, id=f"{domain}-{family.__name__}")
        for domain in domains
        for number, family in enumerate(FAMILIES[domain])
    ]


def sampled(domain: str, number: int, difficulty: int, count: int) -> list[Problem]:
    """`count` problems of one family."""
    families = len(FAMILIES[domain])
    return [generate(domain, "train", number + families * i, difficulty=difficulty, seed=7) for i in range(count)]


# --- an arithmetic of its own -------------------------------------------------------------------------------------


OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}


def value_of(text: str, unknowns: dict[str, Fraction]) -> Fraction:
    """Exact value of `3(x+4)^2`: school notation to Python's, Python's syntax tree to fractions."""
    explicit = re.sub(r"(?<=[\dxy)])(?=[xy(])", "*", text).replace("^", "**")

    def walk(node: ast.AST) -> Fraction:
        match node:
            case ast.Expression():
                return walk(node.body)
            case ast.Constant(value=int(number)):
                return Fraction(number)
            case ast.Name():
                return unknowns[node.id]
            case ast.BinOp():
                return OPERATORS[type(node.op)](walk(node.left), walk(node.right))
            case ast.UnaryOp():
                return OPERATORS[type(node.op)](walk(node.operand))
        raise AssertionError(f"{text!r} is no arithmetic")

    return walk(ast.parse(explicit, mode="eval"))


LABEL = re.compile(r"[AEFHPQSTVf]|BC/AB|[Ffg]\(-?\d+\)|f\(g\(x\)\)|f'|\(.*\)'")


def assert_true_step(step: str, solution: dict[str, Fraction]) -> None:
    """All sides equal: for every x if it is an identity, else at the solution of the problem."""
    sides = [side for side in step.split("=") if not LABEL.fullmatch(side)]
    assert "=" in step, step
    assert sides, step
    free = [{"x": Fraction(value)} for value in range(5)]
    symbolic = [side for side in sides if "x" in side or "y" in side]
    identity = len(symbolic) == len(sides) and "y" not in step
    for unknowns in free if identity else [solution]:
        values = {value_of(side, unknowns) for side in sides}
        assert len(values) == 1, f"{step}: {values}"


def solution_of(problem: Problem) -> dict[str, Fraction]:
    """What x and y stand for in the equations of a solution."""
    assert problem.answer is not None
    answer = Fraction(problem.answer)
    key = [int(value) for value in problem.id.split("/")[2].split(",")]
    if "/system/" in problem.id:
        return {"x": answer, "y": key[0] - answer}
    if "/minimum/" in problem.id:
        return {"x": Fraction(-key[1], 2 * key[0])}
    return {"x": answer}


@pytest.mark.parametrize(("domain", "number"), cases(*MATHEMATICS))
def test_answer_agrees_with_an_independent_method(domain: str, number: int) -> None:
    oracle = ORACLES[FAMILIES[domain][number].__name__]
    for difficulty in DIFFICULTIES:
        for problem in sampled(domain, number, difficulty, 12):
            assert problem.answer is not None
            expected, answer = oracle(problem.prompt), Fraction(problem.answer)
            assert str(answer) == problem.answer, "an integer or a reduced fraction"
            if isinstance(expected, float):
                assert math.isclose(expected, answer, abs_tol=1e-6), problem
            else:
                assert expected == sympy.Rational(answer), problem


@pytest.mark.parametrize(("domain", "number"), cases(*MATHEMATICS))
def test_every_step_is_true_and_ends_in_the_answer(domain: str, number: int) -> None:
    for difficulty in DIFFICULTIES:
        for problem in sampled(domain, number, difficulty, 100):
            for solution in problem.solutions:
                *steps, last = solution.split("\n")
                assert last == f"\\boxed{{{problem.answer}}}"
                assert steps
                for step in steps:
                    assert_true_step(step, solution_of(problem))
                result = steps[-1].split("=")[-1]
                assert result == problem.answer or re.fullmatch(r"\(x\S+\)\(x\S+\)=0", steps[-1]), (
                    "the steps lead to the box"
                )


@pytest.mark.parametrize("step", ["3*4=13", "2x+1=2x+2", "19-4=15=16", "12", "x=4"])
def test_the_step_checker_notices_mistakes(step: str) -> None:
    with pytest.raises(AssertionError):
        assert_true_step(step, {"x": Fraction(5)})


@pytest.mark.parametrize("family", ["product", "chain", "integral", "minimum", "limit", "composition"])
def test_named_functions_are_what_the_steps_say(family: str) -> None:
    """`f`, `f'`, `F`, `f(3)`, `(…)'` and `f(g(x))` are only labels to the step checker; here they get their meaning."""
    domain = "algebra" if family == "composition" else "calculus"
    number = [each.__name__ for each in FAMILIES[domain]].index(family)
    for difficulty in DIFFICULTIES:
        for problem in sampled(domain, number, difficulty, 8):
            named = {
                name: parsed(text) for name, text in re.findall(r"([fg])\(x\)=(\S*x\S*?)[.,?]?(?: |$)", problem.prompt)
            }
            if family == "integral":
                named["f"] = parsed(captured(r"(\S*x\S*) from", problem.prompt)[0])
            for step in itertools.chain(*(solution.split("\n")[:-1] for solution in problem.solutions)):
                name, said, *_ = step.split("=")
                if called := re.fullmatch(r"([fgF])\((-?\d+)\)", name):
                    assert named[called[1]].subs(x, int(called[2])) == parsed(step.split("=")[-1]), problem
                elif name == "f(g(x))":
                    assert sympy.expand(named["f"].subs(x, named["g"]) - parsed(said)) == 0, problem
                elif name == "f":
                    assert sympy.expand(named["f"] - parsed(said)) == 0, problem
                elif name == "F":
                    named["F"] = parsed(said)
                    assert sympy.expand(sympy.diff(named["F"], x) - named["f"]) == 0, problem
                elif name.endswith("'"):
                    function = named["f"] if name == "f'" else parsed(name[:-1])
                    assert sympy.expand(sympy.diff(function, x) - parsed(said)) == 0, problem


@pytest.mark.parametrize(("domain", "number"), cases(*DOMAINS))
def test_solutions_are_different_methods(domain: str, number: int) -> None:
    for difficulty in DIFFICULTIES:
        for problem in sampled(domain, number, difficulty, 300):
            first, second = (set(solution.split("\n")[:-1]) for solution in problem.solutions)
            assert first - second, problem
            assert second - first, problem


@pytest.mark.parametrize(("domain", "number"), cases(*DOMAINS))
def test_the_demo_difficulty_fits_a_tiny_model(domain: str, number: int) -> None:
    def tokens(text: str) -> int:
        return len(re.findall(r"\\boxed\{|[A-Za-z]+|[^ A-Za-z]", text))

    problems = sampled(domain, number, 2, 2000)
    assert max(tokens(problem.prompt) for problem in problems) <= (40 if domain == "code" else 32)
    assert max(tokens(solution) for problem in problems for solution in problem.solutions) <= 76
    assert max(abs(value) for problem in problems for value in integers(problem.prompt)) < 1000


@pytest.mark.slow
@pytest.mark.parametrize(("domain", "number"), cases(*DOMAINS))
def test_each_family_has_thousands_of_problems(domain: str, number: int) -> None:
    family: Family = FAMILIES[domain][number]
    rng = LevelRandom("1", difficulty=2)
    assert len({family(rng).key for _ in range(12_000)}) > 3000


# --- streams and splits -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_splits_share_neither_problem_nor_prompt() -> None:
    place_of: dict[str, str] = {}
    for domain, split in itertools.product(DOMAINS, SPLITS):
        for index in range(5000 if split == "train" else 800):
            problem = generate(domain, split, index, difficulty=1 + index % 2, seed=index % 3)
            for text in (problem.id, problem.prompt.casefold()):
                assert place_of.setdefault(text, split) == split, problem


@pytest.mark.slow
def test_one_prompt_is_one_problem_and_symmetric_data_are_one_problem() -> None:
    identities: dict[str, str] = {}
    orders: dict[str, set[tuple[int, ...]]] = {}
    for domain in DOMAINS:
        for index in range(8000):
            problem = generate(domain, "train", index)
            assert identities.setdefault(problem.prompt, problem.id) == problem.id
            orders.setdefault(problem.id, set()).add(tuple(integers(problem.prompt)))
    for family in ("variance", "trapezoid", "circle", "probability", "product"):
        several = [shown for identity, shown in orders.items() if f"/{family}/" in identity and len(shown) > 1]
        assert several, f"{family} never shows its data in another order"
        if family == "variance":
            assert all(len({tuple(sorted(shown)) for shown in each}) == 1 for each in several)


@settings(max_examples=60, deadline=None)
@given(
    domain=st.sampled_from(DOMAINS),
    split=st.sampled_from(SPLITS),
    index=st.integers(0, 10**12),
    difficulty=st.sampled_from(DIFFICULTIES),
    seed=st.integers(0, 2**31),
)
def test_a_problem_is_a_pure_function_of_its_place(
    domain: str, split: Split, index: int, difficulty: int, seed: int
) -> None:
    random.seed(0)
    first = generate(domain, split, index, difficulty=difficulty, seed=seed)
    random.seed(1)
    state = random.getstate()
    generate(domain, split, index + 1, difficulty=difficulty, seed=seed)
    assert generate(domain, split, index, difficulty=difficulty, seed=seed) == first
    assert random.getstate() == state
    assert first.domain == domain
    assert first.source == "embedded"
    assert first.id.startswith(f"{domain}/{FAMILIES[domain][index % len(FAMILIES[domain])].__name__}/")


def test_streams_stay_the_same_between_processes_and_versions() -> None:
    """A run may be resumed by another Python process: the index in a stream, not the process, decides."""
    assert [generate(domain, "val", 5, seed=3).id for domain in DOMAINS] == GOLDEN


def test_seed_and_difficulty_change_the_stream() -> None:
    streams = {
        tuple(generate("algebra", "train", index, difficulty=difficulty, seed=seed).id for index in range(10))
        for difficulty in DIFFICULTIES
        for seed in (0, 1)
    }
    assert len(streams) == 8


@pytest.mark.parametrize("domain", DOMAINS)
def test_numbers_grow_with_difficulty(domain: str) -> None:
    def mean_digits(difficulty: int) -> float:
        shown = [
            problem.prompt for problem in (generate(domain, "train", i, difficulty=difficulty) for i in range(500))
        ]
        return reference.mean(len(digits) for prompt in shown for digits in re.findall(r"\d+", prompt))

    sizes = [mean_digits(difficulty) for difficulty in DIFFICULTIES]
    assert sizes == sorted(sizes)


def test_a_held_out_set_is_distinct_balanced_and_a_prefix_of_a_larger_one() -> None:
    for domain in DOMAINS:
        problems = unique(domain, "probe", 200)
        assert len({problem.id for problem in problems}) == 200
        assert problems[:50] == unique(domain, "probe", 50)
        shares = [sum(f"/{family.__name__}/" in problem.id for problem in problems) for family in FAMILIES[domain]]
        assert min(shares) > 150 / len(shares)


def test_asking_for_more_problems_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"count=1000000: statistics/val at difficulty 1 has only \d+ problems"):
        unique("statistics", "val", 1_000_000, difficulty=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "arithmetic"}, "domain='arithmetic': must be one of algebra, geometry, calculus, statistics"),
        ({"split": "dev"}, "split='dev': must be one of train, probe, val, test"),
        ({"difficulty": 0}, "difficulty=0: must be one of 1, 2, 3, 4"),
        ({"difficulty": 5}, "difficulty=5: must be one of 1, 2, 3, 4"),
        ({"index": -1}, "index=-1: must not be negative"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        generate(**{"domain": "algebra", "split": "train", "index": 0, **options})
