"""Track identities on made trajectories."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_core.runtime.tracking import Tracker

SIZE = (640, 512)
PERIOD_NS = 33_000_000


def frame(*found: tuple, size: tuple[int, int] = SIZE) -> PerceptionResult:
    """Detections of (centre x, centre y, width, height, label, score), in pixels of 640x512."""
    rows = np.array([row[:4] for row in found], float).reshape(-1, 4)
    boxes = np.concatenate([rows[:, :2] - rows[:, 2:] / 2, rows[:, :2] + rows[:, 2:] / 2], axis=1)
    boxes *= np.tile(np.array(size) / SIZE, 2)
    return PerceptionResult(
        boxes.astype(np.float32),
        np.array([row[5] for row in found], np.float32),
        np.array([row[4] for row in found], np.int64),
        None,
        Mode.FUSED,
        size,
    )


def follow(tracker: Tracker, frames: dict[int, PerceptionResult]) -> list[tuple[str, ...]]:
    """Identities of frames given by their numbers, with a threshold of 0.4."""
    return [tracker(found, np.full(len(found), 0.4), number * PERIOD_NS) for number, found in frames.items()]


def person(x: float, score: float = 0.9, label: int = 0) -> tuple:
    return (x, 200, 12, 30, label, score)


def test_objects_that_cross_keep_their_identities() -> None:
    # Two persons of 12 x 30 pixels pass each other at 8 pixels a frame, one hidden behind the other for three frames.
    frames = {}
    for number in range(40):
        left, right = 100 + 8 * number, 420 - 8 * number
        rows = [(left, 200, 12, 30, 0, 0.9), (right, 214, 12, 30, 0, 0.8)]
        frames[number] = frame(*(rows[:1] if abs(left - right) < 20 else rows))
    names = follow(Tracker(), frames)
    assert names[0] == ("", "")  # a single detection may be false
    assert names[1] == ("1", "2")
    assert names[-1] == ("1", "2")
    assert all(len(set(row)) == len(row) for row in names[1:])


def test_short_loss_keeps_identity_and_long_loss_ends_it() -> None:
    numbers = [0, 1, 2, 3, 20, 21, 60, 61]  # half a second without it, then more than a second
    names = follow(Tracker(memory_s=1.0), {n: frame(person(100 + 3 * n)) for n in numbers})
    assert names == [("",), ("1",), ("1",), ("1",), ("1",), ("1",), ("",), ("2",)]


def test_dip_of_score_continues_the_track_and_begins_none() -> None:
    scores = [0.9, 0.9, 0.25, 0.25, 0.9]
    names = follow(Tracker(), {n: frame(person(100, s)) for n, s in enumerate(scores)})
    assert names == [("",), ("1",), ("1",), ("1",), ("1",)]
    assert follow(Tracker(), {n: frame(person(100, 0.25)) for n in range(4)}) == [("",)] * 4
    weaker = follow(Tracker(), {n: frame(person(100, s)) for n, s in enumerate([0.9, 0.9, 0.1])})
    assert weaker[-1] == ("",)


def test_false_detections_of_single_frames_get_no_identity() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform((200, 50), (620, 450), (60, 2))
    frames = {n: frame(person(100 + n), (*places[n], 12, 30, 0, 0.9)) for n in range(60)}
    names = follow(Tracker(), frames)
    assert {row[0] for row in names[1:]} == {"1"}
    assert sum(bool(row[1]) for row in names) <= 1


def test_classes_are_tracked_apart() -> None:
    names = follow(Tracker(), {n: frame(person(100), person(100, label=2)) for n in range(3)})
    assert names[-1] == ("1", "2")
    names = follow(Tracker(), {n: frame(person(100, label=n // 2)) for n in range(4)})
    assert names == [("",), ("1",), ("",), ("2",)]


def test_change_of_resolution_keeps_identities() -> None:
    """As when only a thermal camera of 160x128 is left."""
    tracker = Tracker()
    follow(tracker, {n: frame(person(100 + n), person(300)) for n in range(5)})
    small = {n: frame(person(100 + n), person(300), size=(160, 128)) for n in range(5, 8)}
    assert follow(tracker, small) == [("1", "2")] * 3


@pytest.mark.parametrize("fps", [30.0, 5.0])
def test_motion_is_predicted_in_seconds(fps: float) -> None:
    """A car at 160 pixels a second, 24 wide: at 5 Hz it moves by more than its width between two frames."""
    tracker = Tracker()
    names = [
        tracker(frame((60 + 160 * n / fps, 200, 24, 20, 1, 0.9)), np.array([0.4]), round(n / fps * 1e9))
        for n in range(12)
    ]
    assert {row[0] for row in names[1:]} == {"1"}


def test_reset_ends_tracks_without_reusing_identities() -> None:
    tracker = Tracker()
    follow(tracker, {n: frame(person(100)) for n in range(3)})
    tracker.reset()
    assert follow(tracker, {n: frame(person(100)) for n in range(3)}) == [("",), ("2",), ("2",)]


def test_frames_without_detections_and_repeated_stamps() -> None:
    tracker = Tracker()
    assert follow(tracker, {0: frame(), 1: frame(person(100)), 2: frame(person(100)), 3: frame()})[-1] == ()
    assert tracker(frame(person(100)), np.array([0.4]), 3 * PERIOD_NS) == ("1",)
    assert tracker(frame(person(100)), np.array([0.4]), 2 * PERIOD_NS) == ("1",)


def test_tracks_of_another_time_end() -> None:
    """After a jump of the clock back, tracks that were seen in the future would never expire."""
    tracker = Tracker(memory_s=1.0)
    follow(tracker, {n: frame(person(100)) for n in range(1000, 1003)})
    assert follow(tracker, {n: frame(person(100)) for n in range(3)}) == [("",), ("2",), ("2",)]


def test_number_of_tracks_is_bounded() -> None:
    """Objects that are seen twice each, within the memory: those unseen for longest are dropped."""
    tracker = Tracker(memory_s=60.0)
    for number in range(24):
        place = number // 2
        rows = [(10 + 12 * x, 2 + 40 * place + 12 * y, 8, 8, place, 0.9) for x in range(50) for y in range(2)]
        tracker(frame(*rows), np.full(len(rows), 0.4), number * PERIOD_NS)
    assert len(tracker._tracks) == 1000
    names = tracker(frame(*rows), np.full(len(rows), 0.4), 24 * PERIOD_NS)
    assert all(names)
    first = [(10 + 12 * x, 2, 8, 8, 0, 0.9) for x in range(50)]
    assert tracker(frame(*first), np.full(50, 0.4), 25 * PERIOD_NS) == ("",) * 50
