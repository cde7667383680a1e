"""A score over several seeds: mean and standard deviation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Spread", "none_for_nan", "rounded"]

_DIGITS = 6


@dataclass(frozen=True)
class Spread:
    """A score over several seeds.

    Attributes:
        values: value of each seed, in 0..1; nan: none.
    """

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread:
        """Make a spread, with nan for None."""
        return cls(tuple(math.nan if value is None else float(value) for value in values))

    @property
    def mean(self) -> float:
        """Mean of the known values; nan without any."""
        known = [value for value in self.values if not math.isnan(value)]
        return float(np.mean(known)) if known else math.nan

    @property
    def std(self) -> float:
        """Standard deviation over the seeds (n - 1 in the denominator); nan for fewer than two known values."""
        known = [value for value in self.values if not math.isnan(value)]
        return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan

    def per_cent(self) -> str:
        """Format in per cent: "41.2", "41.2 ± 0.6", or "–" without values."""
        if math.isnan(self.mean):
            return "–"
        text = f"{100 * self.mean:.1f}"
        return text if math.isnan(self.std) else f"{text} ± {100 * self.std:.1f}"

    def to_dict(self) -> dict[str, float | list[float | None] | None]:
        values = [none_for_nan(value) for value in self.values]
        return {"mean": none_for_nan(self.mean), "std": none_for_nan(self.std), "values": values}


def none_for_nan(value: float | None) -> float | None:
    """Replace nan, which JSON lacks, by None."""
    return None if value is None or math.isnan(value) else value


def rounded(value: Any) -> Any:
    """Round numbers to six decimals, recursively in lists and dicts; None for nan and infinity."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return (round(number, _DIGITS) + 0.0) if math.isfinite(number) else None
    return value.item() if isinstance(value, np.generic) else value
