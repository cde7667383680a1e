"""Time offset estimation from motion: success and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.calibration.estimation import CalibrationError
from spectradino_core.calibration.estimation.time_offset import Activity, estimate_time_offset

MS = 1_000_000


def frame(t: float, paths: np.ndarray, thermal: bool) -> np.ndarray:
    """Draw moving discs: RGB uint8 [h, w, 3], or IR uint16 [h, w] with different contrast signs."""
    rows, columns = np.mgrid[0:96, 0:128]
    ground = ((columns // 16 + rows // 16) % 2) * 40.0 + 80
    for k, (x, y, speed, phase, radius) in enumerate(paths):
        at = (
            x + 44 * np.sin(speed * t + phase) + 12 * np.sin(2 * speed * t),
            y + 20 * np.sin(speed * t + 2 * phase),
        )
        shade = (190 if k % 2 else 40) if not thermal else (150 if k % 3 else 20)
        ground = np.where((columns - at[0]) ** 2 + (rows - at[1]) ** 2 < radius**2, shade, ground)
    noise = np.random.default_rng(round(t * 1e6)).normal(0, 2, ground.shape)
    if thermal:
        return (29000 + 4 * (ground + noise)).astype(np.uint16)
    return np.repeat(np.clip(ground + noise, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def watch(
    rate: float, seconds: float, offset_ms: float, thermal: bool, paths: np.ndarray, start: float = 0.0, lapses=()
) -> Activity:
    """Record `frame`s; `lapses` are stamps [ns] of extra first frames, with the others 50 years later."""
    activity = Activity()
    for stamp_ns in lapses:
        activity.add(stamp_ns, frame(0, paths, thermal))
    offset_ms += 50 * 365 * 86400e3 * bool(lapses)
    for t in np.arange(start, seconds, 1 / rate):
        activity.add(round(t * 1e9) + round(offset_ms * MS), frame(t, paths, thermal))
    return activity


def several(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.column_stack(
        [
            rng.uniform(30, 100, 5),
            rng.uniform(20, 76, 5),
            rng.uniform(0.5, 1.9, 5),
            rng.uniform(0, 6, 5),
            rng.uniform(6, 12, 5),
        ]
    )


# slow: an infrared camera that is faster is tried at once; the recordings with unset stamps cover slower and late ones.
SLOW = pytest.mark.slow


@pytest.mark.slow  # unset stamps cover slower and late cameras
@pytest.mark.parametrize(
    ("rgb_hz", "ir_hz", "offset"),
    [pytest.param(30, 9, 37.0, marks=SLOW), pytest.param(15, 15, -212.0, marks=SLOW), (9, 30, 3.0)],
)
def test_offsets_at_different_frame_rates(rgb_hz, ir_hz, offset):
    rgb = watch(rgb_hz, 12, 0, False, several())
    ir = watch(ir_hz, 12, offset, True, several(), start=0.013)
    found = estimate_time_offset(rgb, ir)
    assert found.offset_ms == pytest.approx(offset, abs=3.0)
    assert found.spread_ms < 4
    assert 0.5 < found.confidence <= 1
    assert "later" in str(found) if offset > 0 else "earlier" in str(found)


@pytest.mark.slow  # short recordings and order are tested below
def test_unset_stamps_and_sampled_recordings_are_not_interpolated():
    """Interpolating half a century at 4 ms would exhaust the memory."""
    lapses = (0, 700 * 10**9, 701 * 10**9)
    rgb = watch(15, 12, 0, False, several(), lapses=lapses)
    ir = watch(9, 12, 21, True, several(), start=0.013, lapses=lapses)
    found = estimate_time_offset(rgb, ir)
    assert found.offset_ms == pytest.approx(21, abs=3.0)
    assert found.seconds < 15
    assert found.stretches <= 7


def test_static_scene_is_refused():
    still = several()
    still[:, 2] = 0
    with pytest.raises(CalibrationError, match="nothing moves in view of the RGB camera"):
        estimate_time_offset(watch(15, 11, 0, False, still), watch(9, 11, 0, True, still))


@pytest.mark.slow  # the static scene covers the refusal
def test_different_scenes_are_refused():
    with pytest.raises(CalibrationError):
        estimate_time_offset(watch(15, 11, 0, False, several(1)), watch(9, 11, 0, True, several(2)))


@pytest.mark.slow  # the static scene covers the refusal
def test_periodic_motion_within_the_window_is_refused():
    pendulum = np.array([[64.0, 48.0, 2 * np.pi * 1.6, 0.0, 10.0]])
    with pytest.raises(CalibrationError, match="several offsets|border of the window|disagree"):
        estimate_time_offset(watch(30, 11, 0, False, pendulum), watch(15, 11, 20, True, pendulum))


@pytest.mark.slow  # the static scene covers the refusal
def test_offset_at_or_beyond_the_window_is_refused():
    rgb, ir = watch(15, 11, 0, False, several()), watch(15, 11, 200, True, several())
    for window_ms in (210, 150):
        with pytest.raises(CalibrationError, match="border of the window|does not agree|disagree"):
            estimate_time_offset(rgb, ir, window_ms=window_ms)


def test_short_recordings_are_refused():
    rgb, ir = watch(15, 4, 0, False, several()), watch(9, 4, 0, True, several())
    with pytest.raises(CalibrationError, match="IR camera has 36 frames"):
        estimate_time_offset(rgb, ir)
    late = watch(9, 5, 3_600_000, True, several())
    with pytest.raises(CalibrationError, match="overlap by 0.0 s"):
        estimate_time_offset(rgb, late)
    with pytest.raises(CalibrationError, match="window of offsets"):
        estimate_time_offset(rgb, ir, window_ms=1)


def test_out_of_order_frames_are_skipped():
    activity = Activity()
    assert activity.changes()[2].shape[0] == 0
    image = frame(0, several(), True)
    for stamp in (10, 10, 5, 20):
        activity.add(stamp, image)
    assert activity.stamps_ns.tolist() == [10, 20]
    assert activity.period_ns == 10
    assert activity.changes()[0].tolist() == [15]
