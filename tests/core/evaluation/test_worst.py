"""Selection and colours of the frames with the most mistakes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spectradino_core.evaluation.worst import TrueBoxes, WorstFrames
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from tests.blob_model import blob_info

INFO = blob_info()
S = 1_000_000_000
IMAGE = np.full((60, 100, 3), 128, np.uint8)
TRUE = (np.array([[5.0, 20, 25, 40]]), np.zeros(1, np.int64), np.zeros(1, bool))
NOTHING = (np.empty((0, 4)), np.empty(0, np.int64), np.empty(0, bool))


def detections(boxes: int, score: float = 0.9) -> PerceptionResult:
    """Detections that are all false positives."""
    corners = np.array([[60, 20 + n, 80, 50] for n in range(boxes)], np.float32).reshape(-1, 4)
    return PerceptionResult(
        corners, np.full(boxes, score, np.float32), np.zeros(boxes, np.int64), None, Mode.FUSED, (100, 60)
    )


def test_the_worst_are_kept_the_worst_first_a_second_apart() -> None:
    worst = WorstFrames(INFO, 0.5, max_frames=3, min_spacing_ns=S)
    # Seconds and false detections; each frame misses its true box besides.
    for second, false in ((0, 0), (0.4, 3), (0.8, 1), (2, 1), (4, 5), (4.5, 5), (6, 0), (8, 2)):
        worst.add("a frame", detections(false), lambda: [IMAGE], TRUE, round(second * S))
    assert [(p.stamp_ns / S, p.mistakes) for p in worst.frames()] == [(4, 6), (0.4, 4), (8, 3)]
    assert worst.frames()[0].caption == "a frame: 0 correct, 5 false, 1 missed (red 1)"


def test_what_the_node_would_not_publish_is_no_mistake() -> None:
    worst = WorstFrames(INFO, 0.5)
    worst.add("a frame", detections(3, score=0.4), lambda: [IMAGE], NOTHING)
    assert worst.frames() == []


def test_correct_false_and_missed_boxes_have_their_colours() -> None:
    worst = WorstFrames(INFO, 0.5)
    worst.add("a frame", detections(1), lambda: [IMAGE, IMAGE], TRUE)
    image = cv2.imdecode(np.frombuffer(worst.frames()[0].jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (60, 200, 3)  # side by side
    blue, green, red = image[50, 70].astype(int)  # lower edge of the false one
    assert red > green + 60
    assert red > blue + 60
    blue, green, red = image[30, 5].astype(int)  # left edge of the missed one: yellow
    assert min(red, green) > blue + 60


def test_without_truth_frames_are_spread_over_the_recording() -> None:
    shown = WorstFrames(INFO, 0.5, max_frames=4)
    for second in range(37):
        shown.add("a frame", detections(1), lambda: [IMAGE], None, second * S)
    stamps = [p.stamp_ns // S for p in shown.frames()]
    assert len(stamps) in (3, 4)
    assert stamps[0] == 0
    assert stamps[-1] >= 20
    assert len(set(np.diff(stamps))) == 1


@pytest.mark.parametrize("true", [TRUE, None])
def test_none_are_kept_where_none_are_wanted(true: TrueBoxes | None) -> None:
    worst = WorstFrames(INFO, 0.5, max_frames=0)
    worst.add("a frame", detections(2), lambda: [IMAGE], true)
    assert worst.frames() == []
