"""Mean losses since the previous log row, over all steps and for each band.

Consecutive steps train different bands, so the losses of a single step describe one band; if the log interval is a
multiple of the number of bands, always the same one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["RecentMeans"]


class RecentMeans:
    """Accumulate the losses of steps; part of the checkpoint, so that a resumed run logs the same values.

    Args:
        every: steps between rows.
        last: number of steps of the run; the last step always has a row.
        only: names to average; None: all, and the total of each band.
    """

    def __init__(self, every: int, last: int, only: Collection[str] | None = None) -> None:
        self._every, self._last, self._only = every, last, only
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def after_step(self, step: int, group: str, losses: dict[str, Tensor]) -> None:
        """Add a step's scalars and, where a log row is due, replace them by the means in place.

        Args:
            step: 0-based number of the step.
            group: band or group that the step trained; "total" is also averaged as "total_<group>".
            losses: scalars by name, read without waiting for the device; a name that only some steps report is averaged
                over those.
        """
        for name, value in [*losses.items(), (f"total_{group}", losses["total"])]:
            if self._only is not None and name not in self._only:
                continue
            value = value.detach().double()
            self._sums[name] = self._sums[name].to(value.device) + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        if (step + 1) % self._every == 0 or step + 1 == self._last:
            losses.update({name: total / self._counts[name] for name, total in self._sums.items()})
            self._sums, self._counts = {}, {}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums = {name: torch.as_tensor(total) for name, total in state["sums"].items()}
        self._counts = {name: int(count) for name, count in state["counts"].items()}
