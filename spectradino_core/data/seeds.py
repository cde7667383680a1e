"""Which rendered streets are for what: one table, so that nothing is judged on what it was trained on.

A street is a function of its seed. Training draws from `TRAINING`; every other use counts up from its own first seed.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FIRST_TEST_SEED", "HELD_OUT", "TRAINING", "held_out_seeds"]

TRAINING = range(1_000_000)

FIRST_TEST_SEED = 9_000_000
"""Scenes with this seed and above are never trained on."""

HELD_OUT: Mapping[str, int] = {
    "report": FIRST_TEST_SEED,  # evaluate --scenes, model cards, demonstrations, an export's parity, benches
    "conversion": FIRST_TEST_SEED + 1_000,  # what a converted graph may lose
    "test": FIRST_TEST_SEED + 100_000,  # splits of the data sets "scenes", "scenes_nir" and "scenes_swir"
    "val": FIRST_TEST_SEED + 200_000,
    "ablation": FIRST_TEST_SEED + 300_000,
    "calibration": FIRST_TEST_SEED + 400_000,  # ranges of values of a graph in 8 bits
    "curves": FIRST_TEST_SEED + 500_000,  # scores while a model is fine-tuned
    "pretraining": FIRST_TEST_SEED + 700_000,  # validation losses, retrieval
}
"""First seed by use."""


def held_out_seeds(use: str, count: int) -> range:
    """The first `count` seeds of a key of `HELD_OUT`."""
    return range(HELD_OUT[use], HELD_OUT[use] + count)
