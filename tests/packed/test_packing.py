"""Packed rows by hand, and rows that share prompts against rows that repeat them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given

from tests.support.groups import GROUPS, Groups, groups, sequences
from vibethinker.packed.packing import pack
from vibethinker.training.update import Update, UpdateRow


def test_pack_by_hand() -> None:
    row = pack([torch.tensor([1, 2]), torch.tensor([3])], [torch.tensor([4, 5]), torch.tensor([6])])
    assert row.input_ids.tolist() == [1, 2, 4, 3]
    assert row.position_ids.tolist() == [0, 1, 2, 0]
    assert row.cu_seqlens.tolist() == [0, 3, 4]
    assert row.lengths == (3, 1)
    assert row.predictors.tolist() == [1, 2, 3]
    assert row.targets.tolist() == [4, 5, 6]
    assert row.owner.tolist() == [0, 0, 1]


def test_an_empty_row_predicts_nothing() -> None:
    row = pack([], [])
    assert len(row.input_ids) == 1
    assert len(row.targets) == len(row.predictors) == 0


def test_pack_refuses_an_empty_completion() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        pack([torch.tensor([1])], [torch.tensor([], dtype=torch.long)])


# Shared prompts


def test_pack_groups_by_hand() -> None:
    a, b = torch.tensor([1, 2, 3]), torch.tensor([4])
    c = torch.tensor([9, 8])
    row = pack(
        [a, b, a, c, b, b, a],
        [torch.tensor(x) for x in ([10, 11], [20, 21, 22], [12], [30, 31], [23, 24], [25], [13, 14, 15])],
        group=[5, 3, 5, 8, 3, 3, 5],
    )
    assert row.input_ids.tolist() == [1, 2, 3, 4, 10, 13, 14, 20, 21, 23, 9, 8, 30]
    assert row.position_ids.tolist() == [0, 1, 2, 0, 3, 3, 4, 1, 2, 1, 0, 1, 2]
    assert row.lengths == (3, 1, 1, 2, 2, 1, 3)
    assert row.cu_seqlens.tolist() == [0, 3, 4, 5, 7, 9, 10, 13]
    assert row.members == (2, 2)
    assert row.input_ids[row.prompts].tolist() == [1, 2, 3, 4]
    assert row.input_ids[row.continuations].tolist() == [10, 13, 14, 20, 21, 23]
    assert row.targets.tolist() == [10, 11, 20, 21, 22, 12, 30, 31, 23, 24, 25, 13, 14, 15]
    assert row.owner.tolist() == [0, 0, 1, 1, 1, 2, 3, 3, 4, 4, 5, 6, 6, 6]
    assert row.predictors.tolist() == [2, 4, 3, 7, 8, 2, 11, 12, 3, 9, 3, 2, 5, 6]


def test_completions_of_one_token_leave_their_prompt_whole() -> None:
    prompt = torch.tensor([1, 2])
    row = pack([prompt] * 3, [torch.tensor([5]), torch.tensor([6, 7]), torch.tensor([8])], [0, 0, 0])
    assert (row.lengths, row.members) == ((3,), ())
    assert row.input_ids.tolist() == [1, 2, 6]
    assert row.predictors.tolist() == [1, 1, 2, 1]


def test_a_group_has_one_prompt() -> None:
    same, other = torch.tensor([1, 2]), torch.tensor([1, 3])
    completions = [torch.tensor([4, 5])] * 2
    assert pack([same, same.clone()], completions, [0, 0]).members == (2,)
    with pytest.raises(ValueError, match="same prompt"):
        pack([same, other], completions, [0, 0])


@given(groups)
def test_a_row_that_shares_predicts_the_same(sizes: Groups) -> None:
    prompts, completions, group = sequences(sizes)
    row, plain = pack(prompts, completions, group), pack(prompts, completions)
    assert plain.members == ()
    assert torch.equal(row.targets, plain.targets)
    assert torch.equal(row.owner, plain.owner)
    assert torch.equal(row.input_ids[row.predictors], plain.input_ids[plain.predictors])
    assert torch.equal(row.position_ids[row.predictors], plain.position_ids[plain.predictors])
    assert len(row.input_ids) == sum(row.lengths) == sum(p + sum(n - 1 for n in lengths) for p, lengths in sizes)
    assert all(count >= 2 for count in row.members)


def test_a_row_that_shares_survives_a_checkpoint(tmp_path: Path) -> None:
    row = pack(*sequences(GROUPS))
    update = Update([UpdateRow(row, {"weight": torch.ones(len(row.targets))})], {"train/kl": 0.5})
    torch.save(update.state_dict(), tmp_path / "update")
    loaded = Update.from_state_dict(torch.load(tmp_path / "update", weights_only=True))
    assert loaded.metrics == update.metrics
    (loaded_row,) = (r.to(torch.device("cpu")).row for r in loaded.rows)
    assert (loaded_row.members, loaded_row.lengths) == (row.members, row.lengths)
    assert torch.equal(loaded_row.input_ids, row.input_ids)
