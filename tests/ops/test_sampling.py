"""The sampling kernels against the reference, in blocks far smaller than the vocabulary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vibethinker.ops.sampling import torch as plain
from vibethinker.ops.sampling import triton as kernels
from vibethinker.rollout.sampling_params import Sampling

BLOCK = 64
WORDS = 150  # two blocks and a part of one
LAST = 1 - 2.0**-24  # the greatest number that `uniforms` gives
CUTS: list[dict[str, Any]] = [
    {},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": WORDS},
    {"min_p": 0.1},
    {"top_p": 0.8},
    {"top_p": 1e-6},
    {"top_k": 20, "min_p": 0.02},
    {"top_k": 20, "top_p": 0.9},
    {"min_p": 0.01, "top_p": 0.9},
    {"top_k": 30, "min_p": 0.01, "top_p": 0.95},
    {"temperature": 0.0},
]
FEW: list[dict[str, Any]] = [{}, {"top_k": 5}, {"top_p": 0.8}, CUTS[-2], {"temperature": 0.0}]


def random_logits(rows: int, spread: float = 3.0, seed: int = 0) -> Tensor:
    return spread * torch.randn(rows, WORDS, generator=torch.Generator().manual_seed(seed))


def numbers(rows: int) -> Tensor:
    """Both extremes, and what lies between them."""
    between = torch.rand(rows - 2, generator=torch.Generator().manual_seed(1))
    return torch.cat([torch.tensor([0.0, LAST]), between])


def assert_as_plain(logits: Tensor, uniforms: Tensor, sampling: Sampling, device: str) -> None:
    logits, uniforms = logits.to(device), uniforms.to(device)
    tokens, logp, drawn = kernels.sample(logits, uniforms, sampling, BLOCK)
    expected = plain.sample(logits, uniforms, sampling)
    assert tokens.dtype == torch.long
    assert tokens.tolist() == expected[0].tolist()
    torch.testing.assert_close(logp, expected[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(drawn, expected[2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_sample_is_the_plain_sample(cuts: dict[str, Any], dtype: torch.dtype, device: str) -> None:
    assert_as_plain(random_logits(4).to(dtype), numbers(4), Sampling(**{"temperature": 0.8, **cuts}), device)


@pytest.mark.parametrize("cuts", FEW, ids=str)
def test_ties_are_kept_or_cut_together(cuts: dict[str, Any], device: str) -> None:
    """Seven different logits, zeros of both signs among them."""
    logits = torch.randint(-3, 4, (4, WORDS), generator=torch.Generator().manual_seed(2)).float()
    logits[:, ::7] *= -1.0
    assert_as_plain(logits.bfloat16(), numbers(4), Sampling(**cuts), device)


@pytest.mark.parametrize("cuts", FEW, ids=str)
def test_a_token_without_mass_is_never_drawn(cuts: dict[str, Any], device: str) -> None:
    """Whole blocks of −∞, a single token left, the first and the last one −∞, masses that underflow."""
    logits = random_logits(5, seed=3)
    logits[0, :130], logits[1, 64:] = -torch.inf, -torch.inf
    logits[2], logits[2, 77] = -torch.inf, 2.0
    logits[3, ::2], logits[3, 149] = -torch.inf, -torch.inf
    logits[4] -= 200.0
    logits[4, 100:103] += 400.0
    logits[0, 149] = 1.0  # enough not to vanish in the rounding of a sum
    logits = logits.bfloat16()
    for uniforms in (torch.zeros(5), torch.full((5,), LAST)):
        tokens, logp, drawn = kernels.sample(logits.to(device), uniforms.to(device), Sampling(**cuts), BLOCK)
        expected = plain.sample(logits.to(device), uniforms.to(device), Sampling(**cuts))
        assert tokens.tolist() == expected[0].tolist()
        assert logp.isfinite().all()
        assert drawn.isfinite().all()
        assert (logits.gather(1, tokens.cpu()[:, None]) > -torch.inf).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, within the interpreter
@pytest.mark.parametrize("cuts", FEW, ids=str)
def test_nan_comes_out_as_nan_beside_a_valid_token(cuts: dict[str, Any], device: str) -> None:
    logits = random_logits(6, seed=4)
    logits[0, 0] = logits[1, 80] = logits[2, -1] = logits[3, 64:128] = logits[4] = torch.nan
    tokens, logp, drawn = kernels.sample(logits.to(device), numbers(6).to(device), Sampling(**cuts), BLOCK)
    assert logp.isnan().tolist() == drawn.isnan().tolist() == [True] * 5 + [False]
    assert ((tokens >= 0) & (tokens < WORDS)).all()
    assert_as_plain(logits[5:], numbers(6)[5:], Sampling(**cuts), device)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_row_without_any_mass_is_nan(device: str) -> None:
    logits = torch.full((1, WORDS), -torch.inf, device=device)
    for cuts in FEW:
        tokens, logp, _ = kernels.sample(logits, torch.zeros(1, device=device), Sampling(**cuts), BLOCK)
        assert logp.isnan().all()
        assert 0 <= tokens.item() < WORDS


def test_the_first_of_equals_is_the_likeliest(device: str) -> None:
    logits = torch.zeros(1, WORDS, device=device)
    logits[0, [70, 71, 140]] = 1.0
    tokens, _, drawn = kernels.sample(logits, torch.zeros(1, device=device), Sampling(temperature=0.0), BLOCK)
    assert tokens.tolist() == [70]
    assert drawn.tolist() == [0.0]


@pytest.mark.parametrize("words", [1, 2, 64, 65])
def test_small_vocabularies(words: int, device: str) -> None:
    for sampling in (Sampling(), Sampling(top_k=2, top_p=0.7), Sampling(temperature=0.0)):
        assert_as_plain(random_logits(2)[:, :words].contiguous(), numbers(2), sampling, device)


def test_rows_may_lie_apart_or_be_one(device: str) -> None:
    logits = random_logits(4).to(device)
    for view in (logits[:, 5:133], logits[:1].expand(4, -1), logits[::2], logits.T.contiguous().T):
        assert_as_plain(view, numbers(4)[: len(view)], Sampling(top_p=0.9), device)


def test_no_rows(device: str) -> None:
    tokens, logp, drawn = kernels.sample(random_logits(4)[:0].to(device), numbers(4)[:0].to(device), Sampling(), BLOCK)
    assert len(tokens) == len(logp) == len(drawn) == 0


def test_uniforms_are_the_plain_ones_bit_by_bit(device: str) -> None:
    seeds = torch.randint(-(2**63), 2**63 - 1, (1000,), generator=torch.Generator().manual_seed(5))
    seeds[:4] = torch.tensor([0, -1, 2**63 - 1, -(2**63)])
    positions = torch.arange(1000) * 33
    ours = kernels.uniforms(seeds.to(device), positions.to(device))
    assert torch.equal(ours.cpu(), plain.uniforms(seeds, positions))
    every_other = kernels.uniforms(seeds.to(device)[::2], positions.int().to(device)[::2])
    assert torch.equal(every_other, ours[::2])
    assert len(kernels.uniforms(seeds[:0].to(device), positions[:0].to(device))) == 0


def test_draws_follow_the_exact_distribution(device: str) -> None:
    """Pearson's statistic of 300 draws; 26.12 is the 99.9% point of chi-square with 8 degrees of freedom."""
    draws, words = 300, 9
    logits = torch.randn(words, generator=torch.Generator().manual_seed(2))
    seeds = (torch.arange(draws) * 7919).to(device)
    uniforms = kernels.uniforms(seeds, torch.arange(draws, device=device) % 50)
    tokens, _, _ = kernels.sample(logits.to(device).expand(draws, -1), uniforms, Sampling(temperature=0.8), 8)
    expected = (logits / 0.8).softmax(-1) * draws
    statistic = ((tokens.cpu().bincount(minlength=words) - expected).square() / expected).sum().item()
    assert statistic < 26.12


# At full size, where two ways of adding up 152k masses differ by more than a token's


FULL = (256, 151_936)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def assert_in_place(logits: Tensor, uniforms: Tensor, sampling: Sampling, drawn_ones: tuple[Tensor, ...]) -> None:
    """Each token's share of the exact cumulative distribution holds the point, to float32's rounding."""
    tokens, logp, drawn = drawn_ones
    scores = logits.double() / sampling.temperature
    kept = plain._filtered(scores, sampling) if sampling.filters else scores
    probability = kept.softmax(-1)
    after = probability.cumsum(-1).gather(1, tokens[:, None])[:, 0]
    before = after - probability.gather(1, tokens[:, None])[:, 0]
    slack = 2e-5  # one token more or less above the threshold included
    assert (before - slack <= uniforms).all()
    assert (uniforms <= after + slack).all()
    chosen = scores.gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logp.double(), chosen - scores.logsumexp(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(drawn.double(), chosen - kept.logsumexp(-1), atol=1e-4, rtol=0)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "cuts", [{}, {"top_p": 0.95}, {"top_k": 50}, {"min_p": 0.01}, {"top_k": 1000, "min_p": 1e-4, "top_p": 0.9}], ids=str
)
def test_a_full_vocabulary(cuts: dict[str, Any], dtype: torch.dtype) -> None:
    torch.manual_seed(6)
    logits = (3 * torch.randn(FULL, device="cuda")).to(dtype)
    uniforms = torch.rand(FULL[0], device="cuda").clamp(max=LAST)
    sampling = Sampling(temperature=0.9, **cuts)
    assert_in_place(logits, uniforms, sampling, kernels.sample(logits, uniforms, sampling))


@pytest.mark.gpu
@needs_cuda
def test_a_full_vocabulary_greedily() -> None:
    torch.manual_seed(7)
    logits = torch.randn(FULL, device="cuda", dtype=torch.bfloat16)
    tokens, logp, drawn = kernels.sample(logits, torch.zeros(FULL[0], device="cuda"), Sampling(temperature=0.0))
    highest = logits.amax(-1, keepdim=True)
    assert torch.equal(tokens, (logits == highest).int().argmax(-1))
    torch.testing.assert_close(logp, highest[:, 0].float() - logits.float().logsumexp(-1), atol=1e-4, rtol=0)
    assert not drawn.any()


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("cuts", [{}, {"top_p": 0.95, "top_k": 1000}, {"temperature": 0.0}], ids=str)
def test_within_a_cuda_graph(cuts: dict[str, Any]) -> None:
    """Replayed on other logits and positions, the graph draws what calls outside of it draw."""
    torch.manual_seed(8)
    sampling = Sampling(**cuts)
    logits = torch.randn(FULL, device="cuda", dtype=torch.bfloat16)
    seeds, positions = torch.arange(FULL[0], device="cuda"), torch.zeros(FULL[0], dtype=torch.long, device="cuda")

    def step() -> tuple[Tensor, Tensor, Tensor]:
        return kernels.sample(logits, kernels.uniforms(seeds, positions), sampling)

    step()  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for position in (3, 4):
        logits.normal_(std=3.0)
        positions.fill_(position)
        graph.replay()
        for inside, outside in zip(captured, step(), strict=True):
            assert torch.equal(inside, outside)
