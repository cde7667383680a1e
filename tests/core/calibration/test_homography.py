"""Homography estimation from image pairs: success and refusals."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spectradino_core.calibration.estimation import CalibrationError
from spectradino_core.calibration.estimation.homography import estimate_homography
from spectradino_core.calibration.estimation.matching import INLIER_PX, Matches, fit, relative_information
from spectradino_core.calibration.registration import transfer
from tests.core.calibration.drawings import distance, drawing, seen_through

TRUE = np.array([[1.75, 0.03, 38.0], [-0.02, 1.73, 25.0], [1.5e-5, -1e-5, 1.0]])
IR_SIZE = (320, 256)


def matrix_of(estimate) -> np.ndarray:
    return np.reshape(estimate.registration.matrix, (3, 3))


# slow: the camera with a wider view covers bright heat, and the other row different sizes.
@pytest.mark.parametrize("polarity", [pytest.param("hot is bright", marks=pytest.mark.slow), "hot is dark"])
def test_pair_with_different_sizes_depths_and_polarity(polarity):
    rgb, infrared = drawing()
    thermal = seen_through(infrared, TRUE, IR_SIZE)
    if polarity == "hot is dark":
        thermal = (60000 - thermal).astype(np.uint16)
    found = estimate_homography([(rgb, thermal)])
    assert distance(matrix_of(found), TRUE, IR_SIZE) < 1.0
    assert found.registration.ir_size == IR_SIZE
    assert found.registration.rgb_size == (640, 480)
    assert found.evidence.residual_px < 2.0
    assert found.evidence.hits >= 110
    assert "RGB pixels" in str(found)


@pytest.mark.slow  # other sizes are tested above
def test_8_bit_camera_with_a_wider_view_than_the_rgb_camera():
    rgb, infrared = drawing(1)
    true = np.array([[1.2, 0.0, 30.0], [0.0, 1.2, 14.0], [0, 0, 1.0]])
    thermal = cv2.normalize(seen_through(infrared, true, (460, 340)), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    window = np.ascontiguousarray(rgb[60:420, 80:560])
    moved = np.array([[1, 0, -80.0], [0, 1, -60.0], [0, 0, 1]]) @ true
    assert distance(matrix_of(estimate_homography([(window, thermal)])), moved, (460, 340)) < 1.0


@pytest.mark.slow
def test_images_of_different_scenes_are_refused():
    rgb, _ = drawing(2)
    _, other = drawing(3)
    with pytest.raises(CalibrationError, match="patches agree|found again|in common|cameras side by side"):
        estimate_homography([(rgb, seen_through(other, TRUE, IR_SIZE))])


@pytest.mark.parametrize("level", [0, pytest.param(128, marks=pytest.mark.slow)])  # slow: as constant as black
def test_images_without_content_are_refused(level):
    rgb, _ = drawing()
    with pytest.raises(CalibrationError):
        estimate_homography([(rgb, np.full((256, 320), level, np.uint8))])


@pytest.mark.slow
def test_agreement_in_one_corner_only_is_refused():
    rgb, infrared = drawing(4)
    rng = np.random.default_rng(0)
    thermal = seen_through(infrared, TRUE, IR_SIZE)
    noise = rng.integers(29000, 30500, thermal.shape).astype(np.uint16)
    noise[:110, :140] = thermal[:110, :140]
    with pytest.raises(CalibrationError):
        estimate_homography([(rgb, noise)])


@pytest.mark.slow
def test_cameras_that_are_not_rigidly_mounted_are_refused():
    rgb, infrared = drawing(5)
    other = TRUE @ np.array([[1, 0, 9.0], [0, 1, 6.0], [0, 0, 1]])
    with pytest.raises(CalibrationError):
        estimate_homography([(rgb, seen_through(infrared, m, IR_SIZE)) for m in (TRUE, other)])


@pytest.mark.slow
def test_mirrored_image_is_refused():
    rgb, infrared = drawing(6)
    with pytest.raises(CalibrationError):
        estimate_homography([(rgb, np.ascontiguousarray(seen_through(infrared, TRUE, IR_SIZE)[:, ::-1]))])


def test_missing_pairs_mixed_sizes_and_tiny_images_are_refused():
    rgb, infrared = drawing()
    with pytest.raises(CalibrationError, match="no pair"):
        estimate_homography([])
    with pytest.raises(CalibrationError, match="several sizes"):
        estimate_homography([(rgb, infrared), (rgb, infrared[:-2])])
    with pytest.raises(CalibrationError, match="too small"):
        estimate_homography([(rgb[:40, :40], infrared[:40, :40])])


def test_fit_tolerates_outliers_and_edges_localised_across_only():
    rng = np.random.default_rng(0)
    points = rng.uniform((0, 0), (640, 512), (300, 2))
    true = np.array([[1.01, 0.004, -3.0], [-0.003, 1.008, 2.0], [1e-5, -5e-6, 1.0]])
    shifts = transfer(true, points) - points + rng.normal(0, 0.3, points.shape)
    shifts[:100] = rng.uniform(-8, 8, (100, 2))
    information = np.tile(np.eye(2) * 0.05, (300, 1, 1))
    information[100:200] = np.diag([0.05, 1e-6])  # vertical edges: no information along y
    shifts[100:200, 1] = rng.uniform(-8, 8, 100)
    cells = (points // 12).astype(np.int64)
    correction = fit(Matches(points, shifts, information, cells), (640, 512))
    corners = np.array([[0, 0], [639, 0], [639, 511], [0, 511.0]])
    assert np.linalg.norm(transfer(correction, corners) - transfer(true, corners), axis=1).max() < 1.0
    rest = shifts - (transfer(correction, points) - points)
    inliers = np.einsum("ni,nij,nj->n", rest, relative_information(information), rest) < INLIER_PX**2
    assert inliers[100:].mean() > 0.98
    assert inliers[:100].mean() < 0.3
