"""A score over several seeds, and numbers for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Spread:
    """A score over several seeds: the value of each, in 0..1; nan: none."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread:
        """Make a spread, with nan for None."""
        return cls(tuple(math.nan if value is None else float(value) for value in values))

    @property
    def mean(self) -> float:
        """Mean of the known values; nan without any."""
        return known_mean(self.values)

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

    def to_dict(self) -> dict[str, Any]:
        return none_for_nan({"mean": self.mean, "std": self.std, "values": self.values})


def known_mean(values: Iterable[float]) -> float:
    """Return the mean of the values that are not nan; nan without any."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def none_for_nan(value: Any) -> Any:
    """Replace nan, which JSON lacks, by None, recursively in lists and dicts."""
    return rounded(value, None)


def rounded(value: Any, digits: int | None = 6) -> Any:
    """Round numbers to six decimals, recursively in lists and dicts; None for nan and infinity."""
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    if isinstance(value, (float, np.floating)):
        number = float(value)
        if not math.isfinite(number):
            return None
        return number if digits is None else round(number, digits) + 0.0
    return value.item() if isinstance(value, np.generic) else value
