"""IR to RGB pixels: mapped points, refusals, and a warp that neither shifts nor aliases."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.calibration.registration import Registration, RegistrationError, Warp
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.preprocess import Letterbox, infrared_input
from spectradino_core.thermal import ThermalContract, ThermalError, ThermalNormaliser
from tests.blob_model import make_blob_model
from tests.examples import examples

IR, RGB = (640, 512), (1280, 1024)
SHIFTED = (1.6, 0.03, 90.0, -0.02, 1.62, 70.0, 1e-5, -2e-5, 1.0)
"""An infrared camera of a narrower field than the colour camera's, a little turned."""


def blob(size: tuple[int, int], centre: tuple[float, float], sigma: float, peak: float = 3000.0) -> np.ndarray:
    """Gaussian on counts 28000, uint16 [h, w], with its centre at (x, y) in pixel-centre coordinates."""
    x, y = np.arange(size[0]), np.arange(size[1])[:, None]
    return (28000 + peak * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * sigma**2))).astype(np.uint16)


def centroid(values: np.ndarray) -> np.ndarray:
    weights = np.clip(values.astype(np.float64) - 28050, 0, None)
    x, y = np.arange(values.shape[1]), np.arange(values.shape[0])[:, None]
    return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()


class TestMatrix:
    def test_it_is_normalised_and_can_be_a_key(self):
        a, b = Registration(tuple(2 * v for v in SHIFTED)), Registration(tuple(-3 * v for v in SHIFTED))
        np.testing.assert_allclose(a.matrix, SHIFTED, rtol=1e-12)
        np.testing.assert_allclose(b.matrix, SHIFTED, rtol=1e-12)
        assert hash(a) == hash(Registration(a.matrix))

    def test_points_by_hand(self):
        """Twice as large and 10 to the right: the IR pixel (3, 4) is the RGB pixel (16, 8)."""
        got = Registration((2, 0, 10, 0, 2, 0, 0, 0, 1)).points(np.array([[3.0, 4.0]]), IR, RGB)
        np.testing.assert_allclose(got, [[16, 8]])

    def test_without_registration_corner_meets_corner(self):
        whole = Registration.whole(IR, RGB)
        corners = np.array([[-0.5, -0.5], [639.5, 511.5]])
        np.testing.assert_allclose(whole.points(corners, IR, RGB), [[-0.5, -0.5], [1279.5, 1023.5]])

    @settings(max_examples=examples(40), deadline=None)
    @given(st.sampled_from([0.25, 0.5, 1.5, 2.0]), st.sampled_from([0.5, 0.75, 2.0]), st.integers(0, 99))
    def test_scaled_images_see_the_same_places(self, ir_scale, rgb_scale, seed):
        """Points at the same fraction of the field correspond at any image size."""
        registration = Registration(SHIFTED, IR, RGB)
        ir_size, rgb_size = tuple(round(v * ir_scale) for v in IR), tuple(round(v * rgb_scale) for v in RGB)
        share = np.random.default_rng(seed).random((5, 2))
        full = (registration.points(share * IR - 0.5, IR, RGB) + 0.5) / RGB
        scaled = (registration.points(share * ir_size - 0.5, ir_size, rgb_size) + 0.5) / rgb_size
        np.testing.assert_allclose(scaled, full, atol=1e-9)

    @pytest.mark.parametrize(
        ("matrix", "words"),
        [
            ((1, 0, 0, 0, 1, 0), "nine numbers"),
            ("abc", "nine numbers"),
            ((1, 0, 0, 0, float("nan"), 0, 0, 0, 1), "not finite"),
            ((1, 0, 0, 0, float("inf"), 0, 0, 0, 1), "not finite"),
            ((0,) * 9, "infinity"),
            ((1, 0, 0, 0, 1, 0, 1, 0, 0), "infinity"),
            ((1, 2, 0, 2, 4, 0, 0, 0, 1), "singular"),
            ((1e-5, 0, 0, 0, 1e-5, 0, 0, 0, 1), "singular"),
            ((-1, 0, 640, 0, 1, 0, 0, 0, 1), "mirrors"),
        ],
    )
    def test_what_is_no_map_between_two_cameras_is_refused(self, matrix, words):
        with pytest.raises(RegistrationError, match=f"parameter x: .*{words}"):
            Registration(matrix, source="parameter x")

    @pytest.mark.parametrize("size", [(0, 5), (5,), (1.5, 2), "ab", 7, (float("inf"), 2)])
    def test_sizes_that_are_none_are_refused(self, size):
        with pytest.raises(RegistrationError, match="ir_size"):
            Registration(SHIFTED, ir_size=size)

    def test_images_of_another_shape_are_refused_with_both_sizes(self):
        registration = Registration(SHIFTED, IR, RGB, "rig.yaml")
        with pytest.raises(RegistrationError, match="rig.yaml was calibrated for IR images of 640x512.*640x480"):
            registration.for_sizes((640, 480), RGB)
        with pytest.raises(RegistrationError, match="RGB images of 1280x1024.*1280x720"):
            registration.for_sizes(IR, (1280, 720))
        registration.for_sizes((320, 256), (640, 512))

    def test_images_that_do_not_meet_are_refused(self):
        with pytest.raises(RegistrationError, match="hardly overlap"):
            Registration((2, 0, 5000, 0, 2, 0, 0, 0, 1), IR, RGB)
        with pytest.raises(RegistrationError, match="14% of the smaller"):
            Registration((2, 0, 1100, 0, 2, 0, 0, 0, 1)).for_sizes(IR, RGB)

    def test_a_horizon_in_the_image_is_refused(self):
        with pytest.raises(RegistrationError, match="horizon"):
            Registration((1, 0, 0, 0, 1, 0, -1 / 300, 0, 1), IR, RGB)

    def test_the_inverse_is_recognised(self):
        there = np.array([[8.0, 0, -400], [0, 8.0, -300], [0, 0, 1]])  # a wide infrared camera, an RGB telephoto
        Registration(tuple(there.reshape(-1)), IR, RGB)
        with pytest.raises(RegistrationError, match="check that it maps IR to RGB"):
            Registration(tuple(np.linalg.inv(there).reshape(-1)), IR, RGB)


class TestWarp:
    @settings(max_examples=examples(25), deadline=None)
    @given(
        st.floats(0.7, 2.2),
        st.floats(-0.2, 0.2),
        st.floats(-1e-4, 1e-4),
        st.sampled_from([(1280, 1024), (595, 476), (320, 256), (140, 112)]),
        st.floats(0.35, 0.65),
        st.floats(0.35, 0.65),
    )
    def test_a_warm_spot_lands_where_the_matrix_says(self, scale, angle, tilt, image, x, y):
        centre = np.array([(IR[0] - 1) / 2, (IR[1] - 1) / 2])
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = np.eye(3)
        matrix[:2, :2], matrix[:2, 2] = turn, (np.array(RGB) - 1) / 2 - turn @ centre
        matrix = matrix @ np.array([[1, 0, 0], [0, 1, 0], [tilt, tilt / 2, 1]])
        registration = Registration(tuple(matrix.reshape(-1)))
        spot = np.array([[x * IR[0], y * IR[1]]])
        warp = Warp(registration, IR, RGB, image)
        got = centroid(warp(blob(IR, tuple(spot[0]), sigma=9.0)))
        wanted = (registration.points(spot, IR, RGB)[0] + 0.5) * image[0] / RGB[0] - 0.5
        # The perspective shifts a spot's centroid a little; a quarter pixel is below that of a wrong convention.
        np.testing.assert_allclose(got, wanted, atol=0.25)

    @pytest.mark.parametrize(("ir_size", "rgb_size", "network"), [(IR, RGB, (644, 476)), ((160, 120), IR, (392, 294))])
    def test_the_whole_image_registration_equals_none(self, ir_size, rgb_size, network):
        frame = np.random.default_rng(0).integers(28000, 31000, ir_size[::-1]).astype(np.uint16)
        box = Letterbox.fit(rgb_size, network)
        none = infrared_input(frame, box, ThermalNormaliser(ThermalContract()))
        whole = infrared_input(frame, box, ThermalNormaliser(ThermalContract()), Registration.whole(ir_size, rgb_size))
        assert np.abs(none - whole).max() < 1 / 32  # remap interpolates in steps of 1/32 pixel

    def test_fine_stripes_become_grey_and_no_moire(self):
        """Stripes one pixel wide, reduced to a third: only their mean remains."""
        frame = np.zeros((512, 640), np.uint16)
        frame[:, ::2] = 40000
        angle = 0.02
        matrix = (2 * np.cos(angle), -2 * np.sin(angle), 5, 2 * np.sin(angle), 2 * np.cos(angle), -8, 0, 0, 1)
        warp = Warp(Registration(matrix), IR, RGB, (427, 341))
        got = warp(frame)[30:-30, 30:-30].astype(float)
        assert abs(got.mean() - 20000) < 300
        coarse = cv2.blur(got, (5, 5))  # what is left beyond the size of one pixel
        assert coarse.std() < 1800
        bare = cv2.warpPerspective(
            frame, np.diag([1 / 3, 1 / 3, 1]) @ np.reshape(matrix, (3, 3)), (427, 341), flags=cv2.INTER_LINEAR
        )[30:-30, 30:-30].astype(float)
        assert coarse.std() < 0.4 * cv2.blur(bare, (5, 5)).std()  # so this test can fail

    def test_pixels_that_the_infrared_camera_does_not_see(self):
        registration = Registration((1, 0, 320, 0, 1, 256, 0, 0, 1))
        warp = Warp(registration, IR, RGB, RGB)
        wanted = np.zeros((1024, 1280), bool)
        wanted[256:768, 320:960] = True
        np.testing.assert_array_equal(warp.valid, wanted)
        got = warp(np.full((512, 640), 777, np.uint16))
        assert (got[wanted] == 777).all()  # to the last pixel, nothing is mixed with a filling
        assert Warp(Registration.whole(IR, RGB), IR, RGB, (595, 476)).valid is None

    def test_the_network_sees_0_there_and_the_percentiles_do_not_look(self):
        frame = np.random.default_rng(1).normal(29300, 100, (512, 640)).astype(np.uint16)
        box = Letterbox.fit(RGB, (644, 476))
        centred = Registration((1, 0, 320, 0, 1, 256, 0, 0, 1))
        normaliser = ThermalNormaliser(ThermalContract())
        got = infrared_input(frame, box, normaliser, centred)[0]
        valid = Warp.of(centred, IR, RGB, box.content).valid
        assert (got[: box.content[1], : box.content[0]][~valid] == 0).all()
        low, high = normaliser.range
        assert 28900 < low < high < 29700
        assert 0.4 < got[: box.content[1], : box.content[0]][valid].mean() < 0.6

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_counts_keep_their_type_and_size(self, dtype):
        frame = np.full((512, 640), 200, dtype)
        got = Warp(Registration(SHIFTED), IR, RGB, (595, 476))(frame)
        assert got.dtype == dtype
        assert got.shape == (476, 595)
        assert (got == 200).all()


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return make_blob_model(tmp_path_factory.mktemp("blob") / "blob.onnx")


class TestPipeline:
    def frames(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rgb = np.full((1024, 1280, 3), 60, np.uint8)
        infrared = np.linspace(100, 120, 640 * 512).reshape(512, 640).astype(np.uint16)
        hot = np.array([200, 160, 330, 300])
        infrared[hot[1] : hot[3], hot[0] : hot[2]] = 250
        return rgb, infrared, hot

    def test_a_hot_object_is_detected_in_rgb_pixels(self, path):
        rgb, infrared, hot = self.frames()
        registration = Registration((1.6, 0, 90, 0, 1.6, 70, 0, 0, 1), IR, RGB)
        perception = Pipeline.open(path, device="cpu", registration=registration)(rgb, infrared)
        wanted = hot * 1.6 + np.array([90, 70, 90, 70])
        np.testing.assert_allclose(perception.boxes[0], wanted, atol=2.5)

    def test_results_of_infrared_alone_are_in_its_own_pixels(self, path):
        _, infrared, hot = self.frames()
        pipeline = Pipeline.open(path, device="cpu", registration=Registration(SHIFTED, IR, RGB))
        perception = pipeline(None, infrared)
        assert (perception.mode, perception.size) == (Mode.IR_ONLY, IR)
        np.testing.assert_allclose(perception.boxes[0], hot, atol=1.1)

    def test_it_may_be_set_between_frames(self, path):
        rgb, infrared, hot = self.frames()
        pipeline = Pipeline.open(path, device="cpu")
        np.testing.assert_allclose(pipeline(rgb, infrared).boxes[0], 2 * hot, atol=4.1)
        pipeline.registration = Registration((2, 0, 30, 0, 2, 0, 0, 0, 1))
        np.testing.assert_allclose(pipeline(rgb, infrared).boxes[0], 2 * hot + [30, 0, 30, 0], atol=4.1)

    def test_frames_of_another_shape_are_refused_and_the_next_is_served(self, path):
        rgb, infrared, _ = self.frames()
        pipeline = Pipeline.open(path, device="cpu", registration=Registration(SHIFTED, IR, RGB))
        with pytest.raises(RegistrationError, match="640x400"):
            pipeline(rgb, infrared[:400])
        assert len(pipeline(rgb, infrared)) == 1

    def test_the_contract_may_be_the_users(self, path):
        rgb, infrared, _ = self.frames()
        contract = ThermalContract(kind="fixed", low=0, high=1000, depths=(16,))
        pipeline = Pipeline.open(path, device="cpu", thermal=contract)
        assert pipeline.thermal is contract
        assert len(pipeline(rgb, infrared)) == 0  # 250 of 1000 counts is not bright
        with pytest.raises(ThermalError, match="16-bit"):
            pipeline(rgb, infrared.astype(np.uint8))
