"""What a log row tells of the steps since the row before: their mean, and that of each band by itself.

Steps take turns in what they show, so a row of one step's losses tells of one band; where the rows' distance is a
multiple of the number of bands it is always the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["RecentMeans"]


class RecentMeans:
    """Sums up what steps tell; part of the checkpoint, so that a resumed run logs the same.

    Args:
        every: steps between rows.
        last: number of steps of the run; the last one has a row too.
    """

    def __init__(self, every: int, last: int) -> None:
        self._every, self._last = every, last
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def after_step(self, step: int, group: str, losses: dict[str, Tensor]) -> None:
        """Takes in a step's scalars and, where a row is due, puts the means in their place.

        Args:
            step: its number from 0.
            group: what it showed; "total" counts once more under "total_<group>".
            losses: scalars by name, without waiting for the device; a name that only some steps tell is averaged over
                those.
        """
        for name, value in [*losses.items(), (f"total_{group}", losses["total"])]:
            value = value.detach().double()
            self._sums[name] = self._sums[name].to(value.device) + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        if (step + 1) % self._every == 0 or step + 1 == self._last:
            losses.update({name: total / self._counts[name] for name, total in self._sums.items()})
            self._sums, self._counts = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums = {name: torch.as_tensor(total) for name, total in state["sums"].items()}
        self._counts = {name: int(count) for name, count in state["counts"].items()}
