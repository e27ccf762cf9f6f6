"""The packed rows of one optimizer step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from vibethinker.packed.packing import PackedRow
from vibethinker.utils.async_copy import moved


@dataclass(frozen=True)
class UpdateRow:
    """One packed row and what the loss needs to know of each of its `N` targets.

    Attributes:
        row: the packed sequences.
        per_token: named float32 tensors [N].
    """

    row: PackedRow
    per_token: dict[str, Tensor]

    def to(self, device: torch.device) -> UpdateRow:
        """The same on a device."""
        return UpdateRow(self.row.to(device), {name: moved(values, device) for name, values in self.per_token.items()})


@dataclass(frozen=True)
class Update:
    """The packed sequences of one optimizer step on one rank.

    Attributes:
        rows: at least one; a rank without sequences has an empty row, since it takes part in the gradient exchange.
        metrics: of the batch that the update was made from, by name; each optimizer step on it logs their means over
            ranks.
    """

    rows: list[UpdateRow]
    metrics: dict[str, float] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors alone."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Update:
        """The update that a state was taken of."""
        return cls([UpdateRow(PackedRow(**row["row"]), row["per_token"]) for row in state["rows"]], state["metrics"])
