"""Scores over seeds, and their format."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.evaluation.spread import Spread, rounded


def test_spread_by_hand():
    three = Spread.of([0.1, 0.2, 0.3])
    assert (three.mean, three.std) == pytest.approx((0.2, 0.1))
    assert three.per_cent() == "20.0 ± 10.0"
    assert Spread.of([0.5, None]).per_cent() == "50.0"
    assert Spread.of([None]).per_cent() == "–"
    assert Spread.of([None, 0.5]).to_dict() == {"mean": 0.5, "std": None, "values": [None, 0.5]}


def test_numbers_are_rounded_and_nan_is_none() -> None:
    assert rounded({"a": [0.1234567, float("nan"), np.float32(0.5), -0.0000001], "b": np.int64(3)}) == {
        "a": [0.123457, None, 0.5, 0.0],
        "b": 3,
    }
