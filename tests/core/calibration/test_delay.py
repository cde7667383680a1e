"""Time offset correction from displaced patches, on synthetic displacements and drawn scenes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spectradino_core.calibration.estimation import CalibrationError
from spectradino_core.calibration.estimation.displacements import (
    Delay,
    Displacements,
    displacements,
    fit_delay,
    moments,
)
from spectradino_core.calibration.estimation.time_offset import TimeOffsetEstimate, sharpened

MS = 1_000_000


def made_up(delay_s: float, wrong: float = 0.2, seed: int = 0) -> Displacements:
    """Simulate oscillating objects, a registration off by half a pixel, and some mismatched patches."""
    rng = np.random.default_rng(seed)
    moving = np.arange(900) < 600
    points = rng.uniform((-1, -0.75), (1, 0.75), (900, 2))
    velocities = np.where(moving[:, None], rng.normal(0, (60, 12), (900, 2)), 0.0)
    shifts = np.array([0.5, -0.3]) + 0.4 * points[:, ::-1] + delay_s * velocities + rng.normal(0, 0.3, (900, 2))
    lost = rng.random(900) < wrong
    shifts[lost] = rng.uniform(-6, 6, (int(lost.sum()), 2))
    information = np.tile(0.05 * np.eye(2), (900, 1, 1))
    return Displacements(points, shifts, velocities, information, rng.uniform(0, 20, 900))


@pytest.mark.parametrize("delay_ms", [-9.0, 0.0, 6.0])
def test_delay_is_the_part_proportional_to_velocity(delay_ms):
    found = fit_delay(made_up(delay_ms / 1e3))
    assert found is not None
    assert found.ms == pytest.approx(delay_ms, abs=1.0)
    assert 0.5 < found.spread_ms < 4
    assert abs(found.ms - delay_ms) < 2 * found.spread_ms


def test_slow_objects_give_little_and_static_objects_no_evidence():
    things = made_up(0.0)
    fast = fit_delay(things)
    slow = fit_delay(
        Displacements(things.points, things.shifts, 0.2 * things.velocities, things.information, things.seconds)
    )
    assert fast is not None
    assert slow is not None
    assert slow.spread_ms > 2 * fast.spread_ms
    still = np.linalg.norm(things.velocities, axis=1) == 0
    assert fit_delay(things[still]) is None
    assert fit_delay(things[np.zeros(len(things), bool)]) is None


def test_moments_lie_between_neighbouring_frames_and_not_in_gaps():
    rgb = np.delete((np.arange(90) * 1e9 / 30).astype(np.int64), np.s_[40:60])
    ir = (np.arange(27) * 1e9 / 9).astype(np.int64) + 37 * MS
    found = moments(rgb, ir, 37.0)
    assert len(found) > 10
    for moment in found:
        at = moment.infrared[1] - 37 * MS
        first, last = moment.colour
        assert first <= at <= last
        assert moment.fraction == pytest.approx((at - first) / (last - first))
        assert 60 * MS <= last - first < 200 * MS  # long enough for motion, and not across the gap
        assert moment.infrared[0] < moment.infrared[1] < moment.infrared[2]
    many = moments((np.arange(9000) * 1e9 / 30).astype(np.int64), (np.arange(2700) * 1e9 / 9).astype(np.int64), 0.0)
    assert len(many) == 160


def street(seconds: float, thermal: bool) -> np.ndarray:
    """Draw boxes crossing both ways over a chequered ground; in IR they have other shades and a hot front."""
    rows, columns = np.mgrid[0:120, 0:320]
    image = (0.4 + 0.1 * ((columns // 24 + rows // 24) % 2)).astype(np.float32)
    for lane, (y, speed, start) in enumerate(((22, 70.0, 40.0), (60, -90.0, 280.0), (96, 45.0, 90.0))):
        x = 30 + (start + speed * seconds - 30) % 260
        shade = (0.9 if lane % 2 else 0.1) if not thermal else (0.15 if lane % 2 else 0.85)
        box = np.array([[x - 17, y - 9], [x + 17, y - 9], [x + 17, y + 9], [x - 17, y + 9]])
        cv2.fillPoly(image, [np.rint(box * 16).astype(np.int32)], shade, cv2.LINE_AA, 4)
        front = x + np.sign(speed) * 8
        patch = np.array([[front - 5, y - 5], [front + 5, y - 5], [front + 5, y + 5], [front - 5, y + 5]])
        cv2.fillPoly(image, [np.rint(patch * 16).astype(np.int32)], 1.0 if thermal else shade * 0.6, cv2.LINE_AA, 4)
    noise = np.random.default_rng([round(seconds * 1e6), thermal]).normal(0, 0.004, image.shape)
    return np.clip(image + noise, 0, 1).astype(np.float32)


@pytest.mark.slow
def test_displacements_of_drawn_scene_reveal_offset_error():
    rgb, ir = ((np.arange(int(9 * hz)) * 1e9 / hz).astype(np.int64) for hz in (15, 9))
    colour = {int(s): street(s / 1e9, False) for s in rgb}
    infrared = {int(s) + 20 * MS: street(s / 1e9, True) for s in ir}
    chosen = moments(rgb, ir + 20 * MS, 14.0)  # the assumed offset is 6 ms too small
    found = fit_delay(displacements(chosen, colour, infrared, None))
    assert found is not None
    assert found.patches > 150
    assert found.ms == pytest.approx(6.0, abs=2.0)
    assert len(displacements(chosen, {}, infrared, None)) == 0


def test_estimates_are_weighted_by_certainty():
    rough = TimeOffsetEstimate(10.0, 4.0, 0.5, 0.9, 20.0, 10, 30.0, 9.0)
    both = sharpened(rough, Delay(5.0, 2.0, 300))
    assert both.offset_ms == pytest.approx(14.0)
    assert both.spread_ms == pytest.approx(np.sqrt(16 * 4 / 20))
    assert both.patches == 300
    assert both.confidence > rough.confidence
    assert sharpened(rough, None).offset_ms == 10.0
    with pytest.raises(CalibrationError, match="uncertain by 4 ms"):
        sharpened(rough, None, max_spread_ms=3.0)
