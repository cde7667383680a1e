"""Assignment of results to labelled frames, and scores of frames without a result."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.bags.ground_truth import GroundTruth, GroundTruthError, TrueFrame
from spectradino_core.bags.labelled_frames import LabelledFrames, truth_arrays
from spectradino_core.bags.results import score, summary
from spectradino_core.calibration.registration import Registration
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_core.runtime.rgb_grid import in_colour_pixels
from tests.blob_model import blob_info

SIZE = (100, 60)
INFO = blob_info()
BOX = np.array([[10.0, 10.0, 30.0, 30.0]])
MS = 1_000_000


def truth(frames: int = 4, masks: bool = False) -> GroundTruth:
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[:30] = 1
    return GroundTruth(
        [
            TrueFrame(
                n * 100 * MS,
                BOX.copy(),
                np.zeros(1, np.int64),
                np.zeros(1, bool),
                (lambda: mask) if masks else None,
                SIZE,
            )
            for n in range(frames)
        ],
        "test",
    )


def found(
    mode: Mode = Mode.FUSED, boxes: np.ndarray = BOX, score: float = 0.9, mask: np.ndarray | None = None
) -> PerceptionResult:
    count = len(boxes)
    return PerceptionResult(
        boxes.astype(np.float32), np.full(count, score, np.float32), np.zeros(count, np.int64), mask, mode, SIZE
    )


def scored(labelled: LabelledFrames, of: GroundTruth, in_bag: bool = True) -> dict:
    return score([(truth_arrays(of, range(len(of)), [in_bag] * len(of)), labelled.arrays())], INFO)


def test_a_frame_without_a_result_costs_recall_and_is_counted_separately() -> None:
    of = truth(4)
    labelled = LabelledFrames(of, range(4), INFO)
    for stamp in (0, 100, 200):
        assert labelled.add(stamp * MS + 3, found(), MS) == stamp // 100
    figures = scored(labelled, of)
    assert figures["frames"] == {
        "scored": 4, "answered": 3, "missed": 1, "missed_recorded": 1, "missed_not_recorded": 0, "fused": 3,
        "rgb_only": 0, "ir_only": 0,
    }  # fmt: skip
    # Recalls 0, 0.01 .. 0.75 of COCO's 101 are reached, at precision 1.
    assert figures["all"]["map50"] == pytest.approx(76 / 101)
    assert figures["answered"]["map50"] == 1.0
    assert figures["by_mode"]["fused"]["map"] == 1.0
    assert list(figures["by_mode"]) == ["fused"]


def test_results_without_truth_and_duplicate_results_are_counted_not_scored() -> None:
    of = truth(2)
    labelled = LabelledFrames(of, range(2), INFO)
    nothing = found(boxes=np.empty((0, 4)))
    assert labelled.add(0, found(), MS) == 0
    assert labelled.add(0, nothing, MS) is None
    assert labelled.add(50 * MS, nothing, MS) is None
    assert labelled.add(100 * MS, found(), MS) == 1
    assert (labelled.repeated, labelled.without_truth) == (1, 1)
    assert scored(labelled, of)["all"]["map"] == 1.0


def test_the_nearest_infrared_only_result_counts() -> None:
    of = truth(1, masks=True)
    assert of.frames[0].mask is not None
    right, wrong = of.frames[0].mask(), np.zeros((SIZE[1], SIZE[0]), np.uint8)
    labelled = LabelledFrames(of, range(1), INFO)
    nothing = np.empty((0, 4))
    assert labelled.add(-40 * MS, found(Mode.IR_ONLY, nothing, mask=wrong), 50 * MS) == 0
    assert labelled.add(-10 * MS, found(Mode.IR_ONLY, mask=right), 50 * MS) == 0
    assert labelled.add(20 * MS, found(Mode.IR_ONLY, nothing, mask=wrong), 50 * MS) is None
    figures = scored(labelled, of)
    assert figures["all"]["map"] == 1.0
    assert figures["all"]["pixel_accuracy"] == 1.0
    assert labelled.repeated == 2


def test_pixels_of_a_missed_mask_are_missed() -> None:
    of = truth(2, masks=True)
    assert of.frames[0].mask is not None
    labelled = LabelledFrames(of, range(2), INFO)
    labelled.add(0, found(mask=of.frames[0].mask()), MS)
    figures = scored(labelled, of)
    assert figures["all"]["iou"] == {"background": 0.5, "red": 0.5, "hot": None}
    assert figures["answered"]["miou"] == 1.0
    assert labelled.arrays()["confusion"].sum() == 2 * SIZE[0] * SIZE[1]  # asked twice, counted once


def test_many_bags_are_scored_as_one() -> None:
    """One bag with a strong false detection spoils the precision of the other: averages would hide it."""
    parts = []
    for scores_ in (0.5, 0.95):
        of = truth(1)
        labelled = LabelledFrames(of, range(1), INFO)
        labelled.add(0, found(score=scores_, boxes=BOX if scores_ == 0.5 else BOX + 50.0), MS)
        parts.append((truth_arrays(of, range(1), [True]), labelled.arrays()))
    together = score(parts, INFO)
    assert together["all"]["map50"] == pytest.approx(51 / 101 * 0.5, abs=1e-6)
    assert score(parts[:1], INFO)["all"]["map50"] == 1.0
    assert summary(parts, INFO)["map50"] == together["all"]["map50"]
    assert together["all"]["instances"] == {"red": 2, "hot": 0}
    assert list(together["all"]["precision"]) == ["red"]


def test_labels_for_images_of_another_size_are_refused() -> None:
    labelled = LabelledFrames(truth(1), range(1), INFO)
    perception = found()
    perception.size = (200, 120)
    with pytest.raises(
        GroundTruthError, match="labels at 0.000000000 are for images of 100x60, but the bag's are 200x120"
    ):
        labelled.add(0, perception, MS)


def test_infrared_boxes_are_mapped_to_rgb_pixels() -> None:
    doubled = in_colour_pixels(found(Mode.IR_ONLY), None, (200, 120))
    np.testing.assert_allclose(doubled.boxes, [[20, 20, 60, 60]])
    moved = Registration((1, 0, 5, 0, 1, -12, 0, 0, 1), SIZE, SIZE)
    perception = in_colour_pixels(found(Mode.IR_ONLY), moved, SIZE, shift_px=3.0)
    np.testing.assert_allclose(perception.boxes, [[18, 0, 38, 18]], atol=1e-4)
    gone = in_colour_pixels(found(Mode.IR_ONLY, BOX - [0, 10, 0, 20]), moved, SIZE)
    assert len(gone) == len(gone.scores) == 0
    same = found(Mode.FUSED)
    assert in_colour_pixels(same, moved, SIZE) is same


def test_a_mask_of_the_infrared_camera_is_unlabelled_where_it_does_not_see() -> None:
    mask = np.ones((SIZE[1], SIZE[0]), np.uint8)
    moved = Registration((1, 0, 30, 0, 1, 0, 0, 0, 1), SIZE, SIZE)
    perception = in_colour_pixels(found(Mode.IR_ONLY, mask=mask), moved, SIZE)
    assert perception.mask is not None
    assert (perception.mask[:, :30] == 255).all()
    assert (perception.mask[:, 30:] == 1).all()


def test_a_model_without_boxes_is_scored_by_its_masks() -> None:
    info = INFO.with_(box_classes=())
    of = truth(1, masks=True)
    assert of.frames[0].mask is not None
    labelled = LabelledFrames(of, range(1), info)
    labelled.add(0, found(boxes=np.empty((0, 4)), mask=of.frames[0].mask()), MS)
    figures = score([(truth_arrays(of, range(1), [True]), labelled.arrays())], info)["all"]
    assert (figures["miou"], figures["map"], figures["ap"], figures["frames_with_boxes"]) == (1.0, None, {}, 0)
