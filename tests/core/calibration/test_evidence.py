"""Acceptance of homographies: no calibration is preferred where nothing needs correcting, and bounds hold."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.calibration_sets import applied, evaluate_halves, rendered_set
from spectradino_core.calibration.estimation.evidence import jackknife_bound, mean_bound
from spectradino_core.calibration.estimation.homography import AlreadyRegisteredError, estimate_homography
from spectradino_core.calibration.estimation.matching import CELL, Surfaces
from spectradino_core.calibration.registration import transfer
from spectradino_core.cli import main
from spectradino_core.commands.calibrate import REGISTERED
from tests.core.calibration.drawings import drawing, seen_through

SIZE = (320, 256)


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    return rendered_set(4, SIZE[0])


@pytest.mark.parametrize("size", [(130, 100), (120, 96)], ids=["with a margin", "whole cells"])
def test_cell_sums_match_a_loop(size):
    rng = np.random.default_rng(0)
    colour, infrared = rng.random((2, 3, size[1], size[0]), dtype=np.float32)
    valid = rng.random(size[::-1]) > 0.2
    surfaces = Surfaces(size, 4)
    surfaces.add(colour, infrared, valid)
    assert surfaces.grid == (10, 8)
    padded = np.pad(colour, ((0, 0), (4, 4), (4, 4)))
    left, top = surfaces._margin
    for dy, dx, row, column in ((0, 0, 0, 0), (4, 4, 3, 4), (8, 1, 7, 9), (2, 8, 2, 6)):
        y, x = top + row * CELL, left + column * CELL
        window = padded[:, y + dy : y + dy + CELL, x + dx : x + dx + CELL]
        cell, seen = infrared[:, y : y + CELL, x : x + CELL], valid[y : y + CELL, x : x + CELL]
        assert surfaces._product[dy, dx, row, column] == pytest.approx((window * cell).sum(), rel=1e-5)
        assert surfaces._colour[dy, dx, row, column] == pytest.approx(((window**2).sum(axis=0) * seen).sum(), rel=1e-5)
        assert surfaces._infrared[row, column] == pytest.approx(((cell**2).sum(axis=0) * seen).sum(), rel=1e-5)


def test_subtracting_a_part_leaves_the_rest():
    rng = np.random.default_rng(0)
    parts = [Surfaces((120, 96), 3) for _ in range(3)]
    for part in parts:
        part.add(*rng.random((2, 2, 96, 120), dtype=np.float32), None)
    rest, expected = (parts[0] + parts[1] + parts[2]) - parts[1], parts[0] + parts[2]
    np.testing.assert_allclose(rest._product, expected._product, rtol=1e-4)


def test_jackknife_of_a_mean_is_its_standard_error_and_wider_for_few_values():
    """For leave-one-out means the spread is known in closed form."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 3, (8, 2))
    left_out = [np.delete(values, k, axis=0).mean(axis=0, keepdims=True) for k in range(8)]
    error = np.sqrt(values.var(axis=0, ddof=1).sum() / 8)
    assert jackknife_bound(left_out) == pytest.approx((2 + 4 / 7) * error)
    assert mean_bound(values[:, 0]) == pytest.approx((2 + 4 / 7) * values[:, 0].std(ddof=1) / np.sqrt(8))
    assert jackknife_bound(left_out[:1]) == mean_bound(values[:1, 0]) == np.inf
    # Over many draws of a few values, about 95 % of the means must lie within their bounds.
    for count in (3, 8):
        draws = rng.normal(0, 1, (2000, count))
        held = np.mean([abs(draw.mean()) <= mean_bound(draw) for draw in draws])
        assert 0.92 < held < 0.98


@pytest.mark.slow  # the command below covers the verdict
def test_registered_scenes_need_no_calibration(scenes):
    with pytest.raises(AlreadyRegisteredError, match=r"already registered within \d+ px") as caught:
        estimate_homography(scenes)
    error = caught.value
    np.testing.assert_allclose(error.registration.matrix, np.eye(3).reshape(-1))
    assert error.estimate.evidence.moved_px < 2.0
    assert error.estimate.evidence.gain < 0.05 * error.estimate.evidence.correlation_before


@pytest.mark.slow
@pytest.mark.parametrize("case", ["as it comes", "homography"])
def test_estimates_from_halves_agree_within_their_bounds(case):
    rows = evaluate_halves(rendered_set(16, SIZE[0]), case)
    assert {row["verdict"] for row in rows} == {"registered" if case == "as it comes" else "found"}, rows
    for row in rows:
        assert row["error_px"] <= row["bound_px"] + 1.0, rows
        assert row["halves_px"] <= row["halves_bound_px"], rows


@pytest.mark.slow
def test_single_pair_is_registered_only_if_misaligned():
    rgb, infrared = drawing(7, SIZE)
    truth = applied("homography", SIZE)
    found = estimate_homography([(rgb, seen_through(infrared, truth, SIZE))])
    corners = np.array([[0, 0], [SIZE[0] - 1, 0], [SIZE[0] - 1, SIZE[1] - 1], [0, SIZE[1] - 1.0]])
    matrix = np.reshape(found.registration.matrix, (3, 3))
    assert np.linalg.norm(transfer(matrix, corners) - transfer(truth, corners), axis=1).max() < 3.0
    assert found.evidence.gain > found.evidence.gain_noise
    assert "95 %" in str(found)
    with pytest.raises(AlreadyRegisteredError):
        estimate_homography([(rgb, infrared)])


def test_command_writes_nothing_for_registered_cameras(scenes, tmp_path, capsys):
    import cv2

    for name, images in (("rgb", [rgb[..., ::-1] for rgb, _ in scenes]), ("lwir", [ir for _, ir in scenes])):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        for number, image in enumerate(images[:2]):
            cv2.imwrite(str(tmp_path / "pairs" / name / f"{number}.png"), image)
    out = tmp_path / "rig.yaml"
    assert main(["calibrate", "registration", str(tmp_path / "pairs"), "--out", str(out)]) == REGISTERED == 3
    said = capsys.readouterr().out
    assert "Nothing to correct, so nothing is written: the cameras are already registered within" in said
    assert said.endswith("\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pairs"]
