"""Seeds of the synthetic scenes by use, in one table, so that no model is evaluated on its training scenes.

A scene is determined by its seed. Training draws from `TRAINING`; every other use has its own range of seeds.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FIRST_TEST_SEED", "HELD_OUT", "TRAINING", "held_out_seeds"]

TRAINING = range(1_000_000)

FIRST_TEST_SEED = 9_000_000
"""First seed of the scenes that are never used for training."""

HELD_OUT: Mapping[str, int] = {
    "report": FIRST_TEST_SEED,  # evaluate --scenes, model cards, demos, parity of exports, benchmarks
    "conversion": FIRST_TEST_SEED + 1_000,  # loss of accuracy of a converted graph
    "test": FIRST_TEST_SEED + 100_000,  # splits of the data sets "scenes", "scenes_nir" and "scenes_swir"
    "val": FIRST_TEST_SEED + 200_000,
    "ablation": FIRST_TEST_SEED + 300_000,
    "calibration": FIRST_TEST_SEED + 400_000,  # value ranges for 8-bit quantisation
    "curves": FIRST_TEST_SEED + 500_000,  # validation scores during fine-tuning
    "pretraining": FIRST_TEST_SEED + 700_000,  # validation losses, retrieval
}
"""First seed by use."""


def held_out_seeds(use: str, count: int) -> range:
    """Return the first `count` seeds of a use of `HELD_OUT`."""
    return range(HELD_OUT[use], HELD_OUT[use] + count)
