"""Registrations from numbers and from both cameras' CameraInfo over a plane, and the checkerboard."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.calibration.camera_geometry import (
    registration_from_camera_infos,
    rotation_matrix,
)
from spectradino_core.calibration.checkerboard import checkerboard
from spectradino_core.calibration.registration import Registration, RegistrationError
from tests.examples import examples

IR, RGB = (640, 512), (1280, 1024)


def info(size, focal, model="plumb_bob", d=(), centre=None, **more) -> SimpleNamespace:
    cx, cy = centre or ((size[0] - 1) / 2, (size[1] - 1) / 2)
    k = [focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0]
    p = [focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    r = np.eye(3).reshape(-1).tolist()
    return SimpleNamespace(
        width=size[0], height=size[1], distortion_model=model, d=list(d), k=k, r=r, p=p, **more
    )  # the fields of sensor_msgs/CameraInfo


RGB_INFO, IR_INFO = info(RGB, 1100.0), info(IR, 600.0, centre=(330.0, 250.0))
TURN = cv2.Rodrigues(np.array([0.02, -0.03, 0.015]))[0]
SHIFT = (0.12, -0.02, 0.01)


def quaternion(turn: np.ndarray) -> tuple[float, float, float, float]:
    vector = cv2.Rodrigues(turn)[0].ravel()
    angle = np.linalg.norm(vector)
    return (*(np.sin(angle / 2) * vector / angle), np.cos(angle / 2))


def on_plane(pixels: np.ndarray, camera, distance: float, normal) -> np.ndarray:
    """Intersect the rays of IR pixels with the plane, in the IR camera's frame."""
    k = np.reshape(camera.k, (3, 3))
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(k).T
    normal = np.asarray(normal) / np.linalg.norm(normal)
    return rays * (distance / (rays @ normal))[:, None]


class TestRotation:
    def test_quaternion_and_matrix_agree(self):
        np.testing.assert_allclose(rotation_matrix(quaternion(TURN)), TURN, atol=1e-12)
        np.testing.assert_allclose(rotation_matrix(TURN.reshape(-1).tolist()), TURN)

    def test_a_quarter_turn_about_z_by_hand(self):
        half = np.sqrt(0.5)
        np.testing.assert_allclose(rotation_matrix((0, 0, half, half)) @ [1, 0, 0], [0, 1, 0], atol=1e-12)

    @pytest.mark.parametrize(
        "values", [(1, 0, 0), (0, 0, 0, 0), (1,) * 9, tuple(np.diag([1, 1, -1]).reshape(-1)), (float("nan"), 0, 0, 1)]
    )
    def test_what_is_none_is_refused(self, values):
        with pytest.raises(RegistrationError, match="rotation"):
            rotation_matrix(values)


class TestCameraInfo:
    @settings(max_examples=examples(40), deadline=None)
    @given(
        st.floats(2.0, 60.0),
        st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
        st.floats(-0.2, 0.2),
        st.integers(0, 999),
    )
    def test_points_of_the_plane_land_where_both_cameras_project_them(self, distance, tilt, shift, seed):
        """The ground truth is computed from the scene: points on the plane, moved to the RGB camera and projected."""
        normal, translation = (*tilt, 1.0), (shift, 0.03, -0.02)
        got = registration_from_camera_infos(RGB_INFO, IR_INFO, TURN, translation, distance, normal)
        pixels = np.random.default_rng(seed).random((20, 2)) * np.array(IR)
        scene = on_plane(pixels, IR_INFO, distance, normal)
        seen = scene @ TURN.T + np.array(translation)
        truth = seen @ np.reshape(RGB_INFO.k, (3, 3)).T
        np.testing.assert_allclose(
            got.registration.points(pixels, IR, RGB), truth[:, :2] / truth[:, 2:], rtol=1e-6, atol=1e-5
        )
        assert got.residual_px == 0
        assert (got.registration.ir_size, got.registration.rgb_size) == (IR, RGB)

    def test_by_hand(self):
        """The RGB camera 0.1 m to the left sees a plane at 10 m moved right by f b
        d = 1100 * 0.1
        10 pixels."""
        rgb, ir = info(RGB, 1100.0), info(RGB, 1100.0)
        got = registration_from_camera_infos(rgb, ir, (0, 0, 0, 1), (0.1, 0, 0), 10.0)
        np.testing.assert_allclose(got.registration.matrix, (1, 0, 11, 0, 1, 0, 0, 0, 1), atol=1e-12)
        far = registration_from_camera_infos(rgb, ir, (0, 0, 0, 1), (0.1, 0, 0), float("inf"))
        np.testing.assert_allclose(far.registration.matrix, np.eye(3).reshape(-1), atol=1e-12)

    def test_binning_and_region_of_interest(self):
        full = registration_from_camera_infos(RGB_INFO, IR_INFO, TURN, SHIFT, 10.0).registration
        roi = SimpleNamespace(x_offset=100, y_offset=60, width=800, height=640)
        cut = info(RGB, 1100.0, roi=roi, binning_x=2, binning_y=2)
        part = registration_from_camera_infos(cut, IR_INFO, TURN, SHIFT, 10.0).registration
        assert part.rgb_size == (400, 320)
        pixels = np.array([[300.0, 250.0], [350.0, 200.0]])
        wanted = (full.points(pixels, IR, RGB) - [100, 60] + 0.5) / 2 - 0.5
        np.testing.assert_allclose(part.points(pixels, IR, (400, 320)), wanted, atol=1e-9)

    @pytest.mark.parametrize(
        ("model", "d"),
        [
            ("plumb_bob", (-0.12, 0.05, 0.001, -0.0005, 0.0)),
            ("rational_polynomial", (-0.1, 0.03, 0.0, 0.0, 0.0, 0.02, 0.0, 0.0)),
            ("equidistant", (0.01, -0.002, 0.0, 0.0)),
        ],
    )
    def test_distortion_is_met_as_nearly_as_a_homography_can(self, model, d):
        rgb = info(RGB, 1100.0, model, d)
        got = registration_from_camera_infos(rgb, IR_INFO, TURN, SHIFT, 12.0)
        columns, rows = np.meshgrid(np.linspace(20, 620, 9), np.linspace(20, 490, 7))
        pixels = np.stack([columns.ravel(), rows.ravel()], axis=1)
        scene = on_plane(pixels, IR_INFO, 12.0, (0, 0, 1))
        k = np.reshape(rgb.k, (3, 3))
        if model == "equidistant":
            truth = cv2.fisheye.projectPoints(scene[:, None], cv2.Rodrigues(TURN)[0], np.array(SHIFT), k, np.array(d))[
                0
            ][:, 0]
        else:
            truth = cv2.projectPoints(scene, cv2.Rodrigues(TURN)[0], np.array(SHIFT), k, np.array(d))[0][:, 0]
        inside = ((truth > 0) & (truth < np.array(RGB) - 1)).all(axis=1)
        assert inside.sum() > 20
        off = np.linalg.norm(got.registration.points(pixels[inside], IR, RGB) - truth[inside], axis=1)
        assert off.max() <= got.residual_px * 1.05
        ideal = registration_from_camera_infos(info(RGB, 1100.0), IR_INFO, TURN, SHIFT, 12.0)
        plain = np.linalg.norm(ideal.registration.points(pixels[inside], IR, RGB) - truth[inside], axis=1)
        assert off.mean() < 0.7 * plain.mean()

    def test_rectified_images_take_p_and_the_rectifying_rotation(self):
        rgb = info(RGB, 900.0, d=(-0.3, 0.1, 0, 0, 0))
        tilt = cv2.Rodrigues(np.array([0.0, 0.05, 0.0]))[0]
        rgb.r = tilt.reshape(-1).tolist()
        rgb.p[0] = rgb.p[5] = 1000.0
        got = registration_from_camera_infos(rgb, IR_INFO, TURN, SHIFT, 10.0, rectified=True)
        pixels = np.array([[320.0, 256.0], [200.0, 300.0]])
        scene = on_plane(pixels, IR_INFO, 10.0, (0, 0, 1)) @ TURN.T + np.array(SHIFT)
        truth = scene @ tilt.T @ np.reshape(rgb.p, (3, 4))[:, :3].T
        assert got.residual_px == 0
        np.testing.assert_allclose(got.registration.points(pixels, IR, RGB), truth[:, :2] / truth[:, 2:], atol=1e-6)

    def test_fields_that_are_not_used_may_be_empty_or_odd(self):
        """Raw images need no P, rectified ones neither K nor a known distortion model."""
        nan = float("nan")
        raw = info(RGB, 1100.0)
        raw.p = [nan] * 12
        registration_from_camera_infos(raw, IR_INFO, TURN, SHIFT, 10.0)
        rectified = info(RGB, 1100.0, "kannala", (nan,))
        rectified.k = [nan] * 9
        registration_from_camera_infos(rectified, IR_INFO, TURN, SHIFT, 10.0, rectified=True)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"rgb": {"k": [0.0] * 9}}, "rgb camera is not calibrated.*camera_calibration"),
            ({"ir": {"k": [float("nan")] * 9}}, "ir camera is not calibrated: k of .*not finite"),
            ({"rgb": {"d": [0.1, float("nan"), 0.0, 0.0, 0.0]}}, "rgb camera is not calibrated: d of .*not finite"),
            ({"rgb": {"d": [float("inf")], "distortion_model": ""}}, "rgb camera is not calibrated: d of"),
            ({"rgb": {"p": [float("nan")] * 12}, "rectified": True}, "rgb camera is not calibrated: p of .*not finite"),
            ({"ir": {"r": [float("nan")] * 9}, "rectified": True}, "ir camera is not calibrated: r of .*not finite"),
            ({"ir": {"r": [2.0] * 9}, "rectified": True}, "^r of the ir camera's camera_info is not usable"),
            ({"ir": {"k": [600.0] * 4}}, "^k of the ir camera's camera_info has 4 numbers, not 9"),
            ({"ir": {"binning_y": 4000}}, "^binning_y of the ir camera's camera_info is 4000"),
            ({"rgb": {"roi": SimpleNamespace(x_offset=1200, y_offset=0, width=800, height=640)}}, "^roi of the rgb"),
            ({"rgb": {"distortion_model": "kannala"}}, "distortion model 'kannala'"),
            ({"ir": {"d": [0.0] * 9}}, "^d of the ir camera's camera_info has 9 distortion coefficients"),
            ({"ir": {"width": 0}}, "no image size"),
            ({"distance_m": 0.0}, "in front of the camera"),
            ({"distance_m": float("nan")}, "in front of the camera"),
            ({"normal": (0.0, 0.0, 0.0)}, "in front of the camera"),
            ({"translation": (0.0, 0.0)}, "translation must be three"),
            ({"rotation": (0.0, 1.0, 0.0, 0.0)}, "plane at"),  # the RGB camera looks the other way
        ],
    )
    def test_what_cannot_be_right_is_refused(self, change, words):
        change = dict(change)
        rgb, ir = info(RGB, 1100.0), info(IR, 600.0)
        vars(rgb).update(change.pop("rgb", {}))
        vars(ir).update(change.pop("ir", {}))
        arguments = {"rotation": TURN, "translation": SHIFT, "distance_m": 10.0} | change
        with pytest.raises(RegistrationError, match=words):
            registration_from_camera_infos(rgb, ir, **arguments)


class TestCheckerboard:
    RGB_FRAME = np.full((512, 640, 3), (40, 160, 60), np.uint8)
    IR_FRAME = np.random.default_rng(0).normal(29300, 100, (240, 320)).astype(np.uint16)

    def test_tiles_in_turn(self):
        got = checkerboard(self.RGB_FRAME, self.IR_FRAME)
        assert got.shape == self.RGB_FRAME.shape
        assert got.dtype == np.uint8
        is_rgb = (got == (40, 160, 60)).all(axis=2)
        for row in range(6):
            for column in range(8):
                tile = is_rgb[80 * row + 4 : 80 * row + 76, 80 * column + 4 : 80 * column + 76]
                assert tile.all() if (row + column) % 2 == 0 else not tile.any()

    def test_a_right_registration_joins_an_edge_and_a_wrong_one_breaks_it(self):
        """A bright half in both bands: at its border IR tiles must change where the RGB tiles do."""
        registration = Registration((1.5, 0, 80, 0, 1.5, 76, 0, 0, 1))
        rgb = np.zeros((512, 640, 3), np.uint8)
        rgb[:, 340:] = 255
        infrared = np.full((240, 320), 28000, np.uint16)
        infrared[:, round((340 - 80) / 1.5) :] = 30000

        def edge(image: np.ndarray, row: int) -> int:
            line = image[row, 325:395].astype(int).sum(axis=1)
            return 325 + int(np.abs(np.diff(line)).argmax()) + 1

        tiles = [(120, "infrared" if (120 // 80 + 340 // 80) % 2 else "colour"), (200, "other")]
        right = checkerboard(rgb, infrared, registration)
        assert all(abs(edge(right, row) - 340) <= 2 for row, _ in tiles)
        wrong = checkerboard(rgb, infrared, Registration((1.5, 0, 110, 0, 1.5, 76, 0, 0, 1)))
        assert any(abs(edge(wrong, row) - 340) > 20 for row, _ in tiles)

    def test_tiles_outside_the_infrared_view_are_dark_rgb(self):
        got = checkerboard(self.RGB_FRAME, self.IR_FRAME, Registration((1, 0, 160, 0, 1, 136, 0, 0, 1)))
        np.testing.assert_array_equal(got[:100, :100], (self.RGB_FRAME[:100, :100] * 0.35).astype(np.uint8))
        assert (got[250:270, 300:310] != 0).any()

    @pytest.mark.parametrize(
        ("rgb", "infrared"),
        [(np.zeros((4, 4), np.uint8), IR_FRAME), (RGB_FRAME, np.zeros((4, 4), np.float32))],
    )
    def test_non_images_are_refused(self, rgb, infrared):
        with pytest.raises(ValueError, match="frame"):
            checkerboard(rgb, infrared)

    def test_inputs_stay_as_they_are(self):
        rgb, infrared = self.RGB_FRAME.copy(), self.IR_FRAME.copy()
        for image in (rgb, infrared):
            image.flags.writeable = False
        checkerboard(rgb, infrared, Registration((1, 0, 160, 0, 1, 136, 0, 0, 1)))


@pytest.mark.parametrize("side", ["rgb", "ir"])
@pytest.mark.parametrize(("model", "d"), [("plumb_bob", (0.1, 0.01, 0.002)), ("equidistant", (0.02,))])
def test_coefficients_that_are_not_given_are_zero(side, model, d):
    """Some drivers send three; OpenCV takes 4, 5, 8, 12 or 14 and fails on any other number."""
    cameras = {"rgb": RGB_INFO, "ir": IR_INFO}
    size, focal = (RGB, 1100.0) if side == "rgb" else (IR, 600.0)
    found = [
        registration_from_camera_infos(
            **(cameras | {side: info(size, focal, model, given)}), rotation=TURN, translation=SHIFT, distance_m=20.0
        )
        for given in (d, (*d, *[0.0] * (4 - len(d))))
    ]
    assert found[0] == found[1]
    assert found[0].residual_px > 0


@pytest.mark.parametrize("side", ["rgb", "ir"])
def test_coefficients_that_bend_every_ray_away_are_refused(side):
    cameras = {"rgb": RGB_INFO, "ir": IR_INFO} | {
        side: info(RGB if side == "rgb" else IR, 600.0, d=(1e300, 1e300, 0.0, 0.0, 0.0))
    }
    with pytest.raises(RegistrationError, match="fields of view hardly overlap"), np.errstate(all="ignore"):
        registration_from_camera_infos(**cameras, rotation=TURN, translation=SHIFT, distance_m=20.0)
