"""Rows that share prompts against rows that repeat them, and the two calls with their merge against plain attention."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

from tests.support.fits import fit, plain_grpo, weights
from tests.support.groups import GROUPS, WORDS, Groups, groups, sequences
from vibethinker import grpo
from vibethinker.logprobs import linear_logprobs
from vibethinker.ops.attention_merge.torch import merge_
from vibethinker.packed import attention
from vibethinker.packed.attention import NAME, PackedAttention, hidden_states
from vibethinker.packed.packing import PackedRow, pack
from vibethinker.packed.partition import partition_groups
from vibethinker.packed.shared_prompts import FLASH, Bounds, Flash, Layout, shared_attention

pytestmark = pytest.mark.slow

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


# Models


def model_of(kind: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    shape = {"vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = kind(**{**shape, **heads, "initializer_range": 0.3, **options})
    return AutoModelForCausalLM.from_config(config, attn_implementation=NAME).train()


def update(model: Any, row: PackedRow, autocast: bool = False) -> dict[str, Tensor]:
    """Log-probs, entropies and gradients of every weight, of a loss in which every target counts differently."""
    model.zero_grad()
    with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
        hidden = hidden_states(model, row.input_ids, row.position_ids, PackedAttention(row))
        predicting = hidden.index_select(0, row.predictors)
        logp, entropy = linear_logprobs(predicting, model.get_output_embeddings().weight, row.targets)
    weight = torch.linspace(-1, 2, len(logp), device=logp.device)
    ((weight * logp).sum() + (weight.flip(0) * entropy).sum()).backward()
    found = {"logp": logp.detach(), "entropy": entropy.detach()}
    return found | {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", [Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("recomputed", [False, True])
def test_the_same_update(kind: Any, recomputed: bool) -> None:
    model = model_of(kind)
    if recomputed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    prompts, completions, group = sequences(GROUPS)
    row, plain = pack(prompts, completions, group), pack(prompts, completions)
    assert len(row.input_ids) < len(plain.input_ids)
    ours, expected = update(model, row), update(model, plain)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5 * max(1.0, value.abs().max().item()), rtol=1e-5)


def test_gradients_of_a_shared_prompt_are_the_same_every_time() -> None:
    """Threads that add to one place as they come would round otherwise each time."""
    row = pack(*sequences([(40, [30 + i for i in range(8)])] * 8))
    first = torch.randn(len(row.input_ids), 4, 24, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.linspace(-1, 1, first.numel()).view_as(first)
    found: list[Tensor] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(9):
            first.grad = None
            (PackedAttention(row).attend(0, first, first, first, 0.2) * weight).sum().backward()
            assert first.grad is not None
            found.append(first.grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(grad, found[0]) for grad in found)


def test_an_empty_row_goes_backward() -> None:
    assert all((value == 0).all() for value in update(model_of(Qwen2Config), pack([], [])).values())


def computed(module: Any) -> list[int]:
    """Tokens of each row, as they are computed by the policy or the reference."""
    seen: list[int] = []
    logprobs: Any = module.logprobs

    def counted(model: Any, row: PackedRow, *args: Any) -> Any:
        seen.append(len(row.input_ids))
        return logprobs(model, row, *args)

    module.logprobs = counted
    return seen


@pytest.mark.parametrize("options", [{}, {"packing": {"row_tokens": 40}}], ids=["whole", "rows"])
def test_a_fit_is_the_same(tiny_model: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for copied in (False, True):
        torch.manual_seed(0)
        module = plain_grpo(tiny_model, optimizer={"learning_rate": 0.3}, **options)
        rows = computed(module)
        if copied:
            monkeypatch.setattr(grpo, "pack", lambda prompts, completions, group: pack(prompts, completions))
            monkeypatch.setattr(
                grpo, "partition_groups", lambda p, c, group, *x: partition_groups(p, c, range(len(group)), *x)
            )
        made.append((fit(module, steps=3).steps, weights(module), sum(rows)))
    (shared, ours, few), (plain, expected, many) = made
    assert few < many
    for name, weight in expected.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-5, rtol=1e-4)
    for one, other in zip(shared, plain, strict=True):
        for name in ("train/loss", "train/kl", "train/entropy", "train/ratio_mean"):
            assert one[name] == pytest.approx(other[name], abs=1e-5, rel=1e-4)


# Two calls and a merge


class Slow(Flash):
    """The flash kernel's arithmetic, sequence by sequence, backward from whatever out and lse are given."""

    @staticmethod
    def parts(bounds: Bounds) -> list[tuple[slice, slice]]:
        both = (bounds.queries.tolist(), bounds.keys.tolist())
        spans = [[slice(a, b) for a, b in pairwise(x)] for x in both]
        lengths = [max(s.stop - s.start for s in x) for x in spans]
        assert lengths == [bounds.longest_queries, bounds.longest_keys]
        assert all(s.stop > s.start for x in spans for s in x)
        return list(zip(*spans, strict=True))

    @staticmethod
    def scores(query: Tensor, key: Tensor, causal: bool, scale: float) -> Tensor:
        scores = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(query.shape[1] // key.shape[1], 1)) * scale
        return scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), -torch.inf) if causal else scores

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bounds: Bounds, scale: float) -> tuple[Tensor, Tensor]:
        out, lse = torch.zeros_like(query), query.new_zeros(query.shape[1], len(query))
        for q, k in self.parts(bounds):
            scores = self.scores(query[q], key[k], bounds.causal, scale)
            lse[:, q] = scores.logsumexp(-1)
            values = value[k].repeat_interleave(query.shape[1] // key.shape[1], 1)
            out[q] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)
        return out, lse

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        bounds: Bounds,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert lse.is_contiguous()
        to_query, to_key, to_value = (torch.zeros_like(x) for x in (query, key, value))
        share = query.shape[1] // key.shape[1]
        for q, k in self.parts(bounds):
            p = (self.scores(query[q], key[k], bounds.causal, scale) - lse[:, q, None]).exp()
            d = (grad[q] * out[q]).sum(-1).T[..., None]
            keys, values = (x[k].repeat_interleave(share, 1) for x in (key, value))
            to_scores = p * (torch.einsum("qhd,khd->hqk", grad[q], values) - d) * scale
            to_query[q] = torch.einsum("hqk,khd->qhd", to_scores, keys)
            of_heads = torch.einsum("hqk,qhd->khd", to_scores, query[q]), torch.einsum("hqk,qhd->khd", p, grad[q])
            for whole, x in zip((to_key, to_value), of_heads, strict=True):
                whole[k] = x.unflatten(1, (-1, share)).sum(2)
        return to_query, to_key, to_value


def plain_attention(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float) -> Tensor:
    """One softmax over everything a token sees, by a mask of the whole row."""
    segment = torch.arange(len(row.lengths)).repeat_interleave(torch.tensor(row.lengths))
    prompt_of = torch.arange(len(row.lengths))
    first = len(row.members)
    for prompt, count in enumerate(row.members):
        prompt_of[first : first + count] = prompt
        first += count
    place = torch.arange(len(segment))
    sees = (segment[:, None] == segment) & (place[:, None] >= place)
    sees |= (prompt_of[segment][:, None] == segment) & (segment[:, None] != segment)
    scores = Slow.scores(query, key, False, scale).masked_fill(~sees, -torch.inf)
    values = value.repeat_interleave(query.shape[1] // key.shape[1], 1)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)


def inputs(tokens: int, dtype: torch.dtype, device: str = "cpu", heads: int = 6, width: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(tokens, n, width) for n in (heads, heads // 3, heads // 3, heads)]
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes]
    return [x.requires_grad_() for x in made[:3]] + made[3:]


def test_layout_by_hand() -> None:
    """Queries of a short prompt go in spans, each with keys of its own; those of a long one do not."""
    row = pack(*sequences([(2, [21, 22]), (30, [90, 90, 4]), (5, [9])]))
    layout = Layout.of(row, span=10)
    assert (layout.prompts, layout.continuations) == (slice(0, 32), slice(32, 254))
    assert layout.across.queries.tolist() == [0, 13, 27, 41, 222]  # 41 queries, at most 16 a span; 181, at most 240
    assert layout.across.keys.tolist() == [0, 2, 4, 6, 36]
    assert (layout.across.longest_queries, layout.across.longest_keys) == (181, 30)
    assert layout.key_index is not None
    assert layout.key_index.tolist() == [0, 1, 0, 1, 0, 1, *range(2, 32)]
    assert layout.within == (row.cu_seqlens, row.cu_seqlens, 89, 89, True)
    whole = Layout.of(row)
    assert whole.key_index is None
    assert whole.across.queries.tolist() == [0, 41, 222]
    assert whole.across.keys.tolist() == [0, 2, 32]


@settings(deadline=None, max_examples=40)
@given(
    groups.filter(lambda sizes: any(sum(n > 1 for n in lengths) > 1 for _, lengths in sizes)), st.sampled_from([2, 99])
)
def test_two_calls_are_one_softmax(sizes: Groups, span: int) -> None:
    row = pack(*sequences(sizes))
    query, key, value, grad = inputs(len(row.input_ids), torch.float64)
    scale = 1.3
    expected = plain_attention(query, key, value, row, scale)
    of_expected = torch.autograd.grad(expected, (query, key, value), grad)
    result = shared_attention(query, key, value, Layout.of(row, span), scale, Slow())
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=1e-10)
    for ours, plain in zip(torch.autograd.grad(result, (query, key, value), grad), of_expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-10)
    rectangular = PackedAttention(row).attend(0, query, key, value, scale)
    torch.testing.assert_close(rectangular, expected, atol=1e-12, rtol=1e-10)
    for ours, plain in zip(torch.autograd.grad(rectangular, (query, key, value), grad), of_expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("recomputed", [False, True])
def test_two_calls_in_a_model(recomputed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA, with arithmetic that stands in for the kernel."""
    model = model_of(Qwen3Config)
    prompts, completions, group = sequences(GROUPS)
    expected = update(model, pack(prompts, completions))
    if recomputed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    monkeypatch.setattr(attention, "supports_flash", lambda query: True)
    monkeypatch.setattr(Layout, "of", partial(Layout.of, span=4))
    monkeypatch.setattr(attention, "shared_attention", partial(shared_attention, kernel=Slow()))
    ours = update(model, pack(prompts, completions, group))
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5 * max(1.0, value.abs().max().item()), rtol=1e-5)


def test_merge_by_hand() -> None:
    """Weights 1 and 3, as of one key and of three; scores far from zero overflow nothing."""
    for far in (0.0, 1000.0, -1000.0):
        out, other = torch.tensor([[[4.0, 0.0]]]), torch.tensor([[[0.0, 8.0]]])
        lse, other_lse = torch.tensor([[far]]), torch.tensor([[far + torch.tensor(3.0).log()]])
        merge_(out, lse, other, other_lse)
        torch.testing.assert_close(out, torch.tensor([[[1.0, 6.0]]]), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(lse, torch.tensor([[far + torch.tensor(4.0).log()]]))


def test_a_row_that_shares_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="shares no prompt"):
        Layout.of(pack([torch.arange(3)], [torch.arange(2)]))


def test_the_private_operators_take_these_arguments() -> None:
    """Shapes alone, on the meta device: both versions of PyTorch know them by their names."""
    row = pack(*sequences(GROUPS)).to("meta")
    query, key, value, grad = (x.detach().to("meta") for x in inputs(len(row.input_ids), torch.bfloat16))
    for causal in (True, False):
        bounds = Bounds(row.cu_seqlens, row.cu_seqlens, 3, 3, causal)
        out, lse = FLASH.forward(query, key, value, bounds, 1.0)
        assert (out.shape, lse.shape) == (query.shape, (6, len(query)))
        made = FLASH.backward(grad, query, key, value, out, lse, bounds, 1.0)
        assert [x.shape for x in made] == [x.shape for x in (query, key, value)]


# On CUDA


@pytest.mark.gpu
@cuda
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("span", [64, 1024])
def test_the_kernel_on_cuda(strided: bool, span: int) -> None:
    """Against the same arithmetic in float64, with prompts of many lengths."""
    sizes = [(16, [256, 17, 300]), (1, [2, 2]), (128, [256, 17, 300]), (333, [1, 64, 65, 2]), (7, [40]), (64, [1, 1])]
    row = pack(*sequences(sizes)).to("cuda")
    tensors = inputs(len(row.input_ids), torch.bfloat16, "cuda", heads=12, width=128)
    if strided:  # as transformers gives them: heads first
        tensors = [x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in tensors]
    query, key, value, grad = tensors
    q, k, v, g = (x.detach().double().cpu().requires_grad_() for x in tensors)
    expected = plain_attention(q, k, v, row.to("cpu"), 128**-0.5)
    of_expected = torch.autograd.grad(expected, (q, k, v), g)
    result = shared_attention(query, key, value, Layout.of(row, span), 128**-0.5)
    torch.testing.assert_close(result.double().cpu(), expected, atol=1e-2, rtol=2e-2)
    for ours, plain in zip(torch.autograd.grad(result, (query, key, value), grad.detach()), of_expected, strict=True):
        error = (ours.double().cpu() - plain).norm() / plain.norm()
        assert error < 1e-2


@pytest.mark.gpu
@cuda
@pytest.mark.parametrize("kind", [Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("recomputed", [False, True])
def test_an_update_in_half_precision(kind: Any, recomputed: bool) -> None:
    """Against float32, no worse than a row that repeats its prompts."""
    model = model_of(kind, hidden_size=256, intermediate_size=512, head_dim=64, initializer_range=0.05).to("cuda")
    if recomputed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    prompts, completions, group = sequences([(128, [256, 17, 300]), (1, [2, 2]), (200, [1, 64, 65, 2]), (7, [40])])
    row, plain = (pack(prompts, completions, shared).to("cuda") for shared in (group, None))
    exact = update(model, plain)
    shared, repeated = update(model, row, autocast=True), update(model, plain, autocast=True)
    for name, value in exact.items():
        if name in ("logp", "entropy"):
            assert (shared[name] - value).abs().mean() < 0.02
            assert (shared[name] - repeated[name]).abs().mean() < 0.02
            continue
        ours, theirs = ((x[name] - value).norm() for x in (shared, repeated))
        assert ours <= 2 * theirs + 0.01 * value.norm(), name  # of a key's bias the gradient is next to nothing
