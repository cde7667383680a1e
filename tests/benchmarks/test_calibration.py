"""Registration of real pairs of RoadScene recorded by two simulated cameras."""

from __future__ import annotations

import pytest

from benchmarks.calibration import WITHIN_PX, evaluate_pair
from spectradino_core.data.paired_folder import PairedFolder

DAYS = ("FLIR_00452", "FLIR_00548", "FLIR_00594")


@pytest.mark.slow
def test_three_days_are_found_and_the_infrared_image_of_another_pair_is_refused(shared_data):
    root = shared_data / "roadscene_rgb_lwir"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    folder = PairedFolder(root, "train", infrared="lwir", classes=("person", "bicycle", "car"))
    pairs = {item.id: item for item in folder if item.id in DAYS}
    assert sorted(pairs) == list(DAYS)
    for seed, name in enumerate(DAYS):
        found = evaluate_pair(pairs[name].load_rgb(), pairs[name].load_infrared(), seed, compensate=False)
        assert found["status"] == "answered", found
        assert found["error_px"] < WITHIN_PX
    rgb, other = pairs[DAYS[0]].load_rgb(), pairs[DAYS[2]].load_infrared()
    height, width = (min(a, b) for a, b in zip(rgb.shape, other.shape))
    assert (
        evaluate_pair(rgb[:height, :width].copy(), other[:height, :width], 0, compensate=False)["status"] == "refused"
    )
