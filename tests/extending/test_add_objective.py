"""An objective of one's own: a subclass of `GRPOModule` with another loss of each token."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.support.fits import GROUPS, SHAPE, fit, merged
from vibethinker import GRPOModule


class ReinforceModule(GRPOModule):
    """Plain policy gradient, −A · ln π, without a ratio."""

    def token_loss(self, logp: Tensor, entropy: Tensor, per_token: dict[str, Tensor]) -> Tensor:
        super().token_loss(logp, entropy, per_token)  # logs ratio and entropy
        return -per_token["advantage"] * logp


def test_a_policy_is_trained_with_it(tiny_model: str) -> None:
    module = ReinforceModule(tiny_model, **merged(SHAPE | GROUPS, {}))
    logged = fit(module).steps
    assert all(torch.isfinite(torch.tensor(step["train/loss"])) for step in logged)
    assert logged[0]["train/gradient_norm"] > 0


def test_on_policy_its_gradient_is_that_of_the_clipped_surrogate() -> None:
    logp = torch.tensor([-1.0, -2.0], requires_grad=True)
    advantage = torch.tensor([0.5, -1.0])
    from vibethinker.objectives import clipped_surrogate

    (ours,) = torch.autograd.grad((-advantage * logp).sum(), logp)
    (clipped,) = torch.autograd.grad(clipped_surrogate(logp, logp.detach(), advantage).sum(), logp)
    torch.testing.assert_close(ours, clipped)
