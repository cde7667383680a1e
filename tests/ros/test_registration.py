"""Registration, clocks and the thermal range, from parameters to results over DDS: each source, and refusals."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from spectradino_core.calibration.registration import Registration
from spectradino_core.streams.calibration_file import Calibration, save_calibration
from tests.ros.harness import LATCHED, RELIABLE, NodeProcess, corners, ir_pixels, rgb_pixels, running, to_ns, wait_until
from tests.ros.rig import Rig

# slow: a node for most; tests/core/calibration and test_registering cover the decisions.
pytestmark = pytest.mark.slow

RGB_SIZE, IR_SIZE = (640, 480), (320, 240)
RED, HOT = (300, 200, 380, 260), (100, 80, 160, 140)
MATRIX = (1.5, 0.0, 60.0, 0.0, 1.5, 40.0, 0.0, 0.0, 1.0)
WIDE = (1.5, 0.1, 40.0, -0.05, 1.6, 30.0, 1e-4, 0.0, 1.0)
OFFSET_MS = 60.0


def on_colour(matrix: tuple[float, ...], box: tuple[int, int, int, int]) -> np.ndarray:
    """Return the extent x1 y1 x2 y2, in RGB pixels, of a mapped infrared box."""
    x1, y1, x2, y2 = (edge - 0.5 for edge in box)  # the centre of the first pixel is 0
    points = np.array([[x1, y1, 1], [x2, y1, 1], [x2, y2, 1], [x1, y2, 1]]) @ np.reshape(matrix, (3, 3)).T
    points = points[:, :2] / points[:, 2:] + 0.5
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def hot_box(detections) -> np.ndarray:
    (found,) = (d for d in detections.detections if d.results[0].hypothesis.class_id == "1")
    return corners(found)


def numbers(matrix: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:g}" if value % 1 else f"{value:.1f}" for value in matrix) + "]"


@pytest.fixture(scope="module")
def by_parameter(blob_model, peer):
    with running(
        "-r", "__ns:=/numbers", model=blob_model, device="cpu", threads=1, ir_to_rgb=numbers(MATRIX),
        sync_slop_ms=20.0, learn_ir_time_offset=True, fallback_mode="fused_only",
    ) as node:  # fmt: skip
        rig = Rig(peer, "numbers")
        rig.wait_for_node()
        rig.process = node
        yield rig


def test_a_homography_parameter_maps_infrared_to_rgb(by_parameter):
    detections, _report = by_parameter.answer_to(rgb_pixels(RGB_SIZE, None), ir_pixels(IR_SIZE, HOT))
    np.testing.assert_allclose(hot_box(detections), on_colour(MATRIX, HOT), atol=2.0)
    by_parameter.wait_for_fact("registration", "parameter ir_to_rgb")
    assert by_parameter.process.count("their shapes differ") == 0


def test_the_checkerboard_is_drawn_for_a_listener_only(by_parameter, peer):
    rgb, ir = rgb_pixels(RGB_SIZE, RED), ir_pixels(IR_SIZE, HOT)
    _detections, report = by_parameter.answer_to(rgb, ir)
    assert "registration" not in [step.name for step in report.steps]
    images: list[Image] = []
    subscription = peer.node.create_subscription(
        Image, f"{by_parameter.name}/debug/registration", images.append, RELIABLE
    )

    def drawn() -> bool:
        _detections, report = by_parameter.answer_to(rgb, ir)
        return bool(images) and "registration" in [step.name for step in report.steps]

    wait_until(drawn, "a checkerboard")
    image = images[-1]
    assert (image.width, image.height, image.encoding) == (*RGB_SIZE, "rgb8")
    assert image.header.frame_id == "rgb_optical"
    pixels = np.frombuffer(image.data, np.uint8).reshape(*RGB_SIZE[::-1], 3).astype(int)
    assert pixels[470, 630].tolist() == [int(90 * 0.35)] * 3, "colour alone, darkened, where infrared sees nothing"
    # Two tiles of 80 pixels beside one another: an infrared one, cold and so nearly black, and a colour one.
    assert pixels[100, 200].sum() < 60 < 250 < pixels[100, 120].sum()
    peer.node.destroy_subscription(subscription)


def test_the_offset_of_the_clocks_is_learnt_shown_and_applied(by_parameter, peer):
    """Synchronous cameras, whose period is longer than twice the offset; sent faster than stamped."""
    rig, lines = by_parameter, len(by_parameter.process.lines)
    rig.wait_for_fact("ir time offset learnt", "not yet")
    rgb, ir = rgb_pixels((160, 120), None), ir_pixels((160, 120), (40, 40, 80, 80))
    start, before, sent = peer.now() - 3_600_000_000_000, len(rig.reports), 0

    def answered() -> bool:
        nonlocal sent
        for _ in range(10):
            sent += 1
            stamp = start + sent * 200_000_000
            rig.send(rgb, ir, stamp, stamp + round(OFFSET_MS * 1e6))
            time.sleep(0.015)
        return len(rig.reports) >= before + 5

    wait_until(answered, "pairs with the learnt offset")
    rig.process.wait_for_line(rf"\[INFO\].*infrared time offset learnt: \+{OFFSET_MS:.1f} ms \(cameras in step", lines)
    for report in rig.reports[before:]:
        assert to_ns(report.rgb_stamp) - start >= 50 * 200_000_000, "60 ms is beyond the slop until it is learnt"
        assert to_ns(report.ir_stamp) - to_ns(report.rgb_stamp) == round(OFFSET_MS * 1e6)
        assert abs(report.ir_offset_ms) < 1.0
    rig.wait_for_fact("ir time offset learnt", f"+{OFFSET_MS:.1f} ms")
    assert float(rig.facts()["ir time offset in force [ms]"]) == pytest.approx(OFFSET_MS, abs=1.0)
    rig.wait_for_fact("ir stamp minus rgb stamp, median [ms]", f"{OFFSET_MS:.2f}")


@pytest.fixture(scope="module")
def by_file(blob_model, peer, tmp_path_factory):
    """Calibration for images of half the RGB image's size, a clock that is 60 ms late, and a fixed range."""
    half = tuple(np.array(MATRIX) * ([0.5] * 6 + [1.0] * 3))
    path = tmp_path_factory.mktemp("rig") / "rig.yaml"
    registration = Registration(half, IR_SIZE, (RGB_SIZE[0] // 2, RGB_SIZE[1] // 2))
    save_calibration(path, Calibration(registration, time_offset_ms=OFFSET_MS, residual_px=0.75))
    with running(
        "-r", "__ns:=/file", model=blob_model, device="cpu", threads=1, calibration_file=path, sync_slop_ms=20.0,
        fallback_mode="fused_only", ir_normalization="fixed", ir_range_low=20000.0, ir_range_high=36000.0,
    ) as node:  # fmt: skip
        rig = Rig(peer, "file")
        rig.wait_for_node()
        rig.process = node
        yield rig


def answer_by_file(rig: Rig, ir: np.ndarray):
    return rig.answer_to(rgb_pixels(RGB_SIZE, RED), ir, ir_late_ns=round(OFFSET_MS * 1e6))


def test_a_calibration_file_gives_homography_and_time_offset(by_file):
    detections, report = answer_by_file(by_file, ir_pixels(IR_SIZE, HOT))
    # The file is for half the size: pixel centres of twice the size lie half a pixel to the right and below.
    expected = 2 * on_colour(tuple(np.array(MATRIX) * ([0.5] * 6 + [1.0] * 3)), HOT)
    np.testing.assert_allclose(hot_box(detections), expected, atol=2.0)
    assert report.ir_offset_ms == pytest.approx(0.0, abs=0.01)
    assert to_ns(report.ir_stamp) - to_ns(report.rgb_stamp) == round(OFFSET_MS * 1e6)
    assert "rig.yaml, for 320x240 on 320x240, residual 0.75 px" in by_file.wait_for_fact("registration", "/")
    assert by_file.facts()["registration residual [px]"] == "0.75"
    assert by_file.facts()["ir time offset in force [ms]"] == "60.00"


def test_the_configured_range_decides_what_is_hot(by_file):
    ir = ir_pixels(IR_SIZE, HOT)
    ir[HOT[1] : HOT[3], HOT[0] : HOT[2]] = 25000  # hot by percentiles, cold between 20000 and 36000
    detections, _report = answer_by_file(by_file, ir)
    assert [d.results[0].hypothesis.class_id for d in detections.detections] == ["0"]
    assert by_file.wait_for_fact("thermal contract", "fixed") == "fixed 20000 to 36000 counts, 16-bit"


@pytest.mark.parametrize(
    ("ir", "cause", "line"),
    [
        (ir_pixels((320, 200), HOT), "registration", r"rig.yaml was calibrated for IR images of 320x240, .*320x200"),
        (ir_pixels(IR_SIZE, HOT, np.uint8), "ir_thermal_mismatch", r"needs 16-bit infrared frames.*these are 8-bit"),
    ],
)
def test_unfit_frames_are_reported_once_and_the_next_pair_gets_a_result(by_file, ir, cause, line):
    peer, rgb, late = by_file.peer, rgb_pixels(RGB_SIZE, RED), round(OFFSET_MS * 1e6)
    _detections, report = answer_by_file(by_file, ir_pixels(IR_SIZE, HOT))
    before = {d.cause: d.count for d in report.drops}.get(cause, 0)
    refused = [peer.now() + count * 1_000_000 for count in range(3)]
    for stamp in refused:
        by_file.send(rgb, ir, stamp, stamp + late)
        time.sleep(0.1)
    _detections, report = answer_by_file(by_file, ir_pixels(IR_SIZE, HOT))
    # The node is one pair behind at the most, so it looked at more than one of them however busy the machine is.
    assert before + 2 <= {d.cause: d.count for d in report.drops}[cause] <= before + 3
    assert [stamp for stamp in refused if by_file.find(stamp)] == []
    by_file.process.wait_for_line(rf"\[ERROR\].*{line}")
    assert by_file.process.count(line) == 1, "throttled"
    reported = rf"dropped lately: .*{cause}"
    wait_until(lambda: re.search(reported, by_file.status().message), "a warning in diagnostics")
    assert int(by_file.facts()[f"dropped: {cause}"]) >= before + 2


def info(size: tuple[int, int], focal: float) -> CameraInfo:
    cx, cy = (size[0] - 1) / 2, (size[1] - 1) / 2
    k = [focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0]
    message = CameraInfo(width=size[0], height=size[1], distortion_model="plumb_bob", k=k, d=[0.0] * 5)
    message.p = [focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    return message


def test_a_registration_is_made_from_camera_info_extrinsics_and_a_plane(blob_model, peer):
    """Infrared has half the pixels over the same angle and is 0.1 m to the right: 30 RGB pixels at 2 m."""
    with running(
        "-r", "__ns:=/info", "-r", "rgb/image_raw:=cam/image", model=blob_model, device="cpu", threads=1,
        registration_from_camera_info=True, extrinsic_translation="[0.1, 0.0, 0.0]", plane_distance_m=2.0,
        fallback_mode="fused_only",
    ) as node:  # fmt: skip
        rig = Rig(peer, "info")
        rig.cameras["rgb"] = peer.node.create_publisher(Image, "/info/cam/image", RELIABLE)
        rig.wait_for_node()
        publishers = {
            "rgb": peer.node.create_publisher(CameraInfo, "/info/cam/camera_info", qos_profile_sensor_data),
            "ir": peer.node.create_publisher(CameraInfo, "/info/ir/camera_info", qos_profile_sensor_data),
        }
        wait_until(lambda: all(p.get_subscription_count() for p in publishers.values()), "subscriptions")
        rgb, ir = rgb_pixels(RGB_SIZE, None), ir_pixels(IR_SIZE, HOT)

        def refused() -> bool:
            stamp = peer.now()
            rig.send(rgb, ir, stamp)
            time.sleep(0.05)
            return node.count(r"\[ERROR\].*no message on rgb/camera_info and ir/camera_info yet") > 0

        wait_until(refused, "pairs refused while no calibration is known")
        assert rig.reports == []
        rig.wait_for_fact("registration", "waits for rgb/camera_info and ir/camera_info")

        def made() -> bool:
            for key, message in (("rgb", info(RGB_SIZE, 600.0)), ("ir", info(IR_SIZE, 300.0))):
                publishers[key].publish(message)
            time.sleep(0.05)
            return node.count(r"\[INFO\].*registration made: camera_info and a plane at 2 m, .*residual 0.00 px") > 0

        wait_until(made, "a registration")
        detections, _report = rig.answer_to(rgb, ir)
        expected = 2 * np.array(HOT) + [30, 0, 30, 0]
        np.testing.assert_allclose(hot_box(detections), expected, atol=2.5)
        assert rig.wait_for_fact("registration", "camera_info and a plane at 2 m")
        assert rig.wait_for_fact("registration residual [px]", "0.00")
        assert node.count("registration made") == 1, "the same calibration again makes nothing new"


def on_robot(parent: str, child: str, right_m: float) -> TransformStamped:
    """Return the pose of a camera's link, `right_m` to the right of its parent."""
    pose = Transform(translation=Vector3(y=-right_m), rotation=Quaternion(w=1.0))
    return TransformStamped(header=Header(frame_id=parent), child_frame_id=child, transform=pose)


def optical(camera: str) -> TransformStamped:
    pose = Transform(rotation=Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5))
    return TransformStamped(
        header=Header(frame_id=f"{camera}_link"), child_frame_id=f"{camera}_optical", transform=pose
    )


def test_extrinsics_come_from_tf_static(blob_model, peer):
    """The cameras of the test above, each in the tree of its own publisher; then moved apart by 0.1 m more."""
    messages = pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not built here: run `make msgs`")
    with running(
        "-r", "__ns:=/tf", model=blob_model, device="cpu", threads=1, registration_from_camera_info=True,
        extrinsics_from_tf=True, plane_distance_m=2.0, fallback_mode="fused_only", warning_period_s=0.1,
    ) as node:  # fmt: skip
        rig = Rig(peer, "tf")
        rig.wait_for_node()
        static = [peer.node.create_publisher(messages.TFMessage, "/tf_static", LATCHED) for _ in range(2)]
        static[0].publish(messages.TFMessage(transforms=[on_robot("base_link", "rgb_link", -0.05), optical("rgb")]))
        infos = []
        for key, size, focal in (("rgb", RGB_SIZE, 600.0), ("ir", IR_SIZE, 300.0)):
            message = info(size, focal)
            message.header.frame_id = f"{key}_optical"
            infos.append((peer.node.create_publisher(CameraInfo, f"/tf/{key}/camera_info", LATCHED), message))
        rgb, ir = rgb_pixels(RGB_SIZE, None), ir_pixels(IR_SIZE, HOT)
        lacking = "no transform from frame 'ir_optical' to frame 'rgb_optical' in /tf_static: 'ir_optical' is not known"

        def refused() -> bool:
            for publisher, message in infos:  # with each pair, as drivers do
                publisher.publish(message)
            rig.send(rgb, ir, peer.now())
            time.sleep(0.05)
            return node.count(rf"\[ERROR\].*{lacking}") > 0

        wait_until(refused, "pairs refused while the transform is not known")
        rig.wait_for_fact("registration", f"waits for the extrinsics: {lacking}")
        wait_until(lambda: lacking in rig.status().message, "a warning in diagnostics")
        assert rig.reports == []
        for right_m, shift in ((0.05, 30), (0.15, 60)):
            time.sleep(0.2)  # else the line would fall into the warning period of the one before
            made = len(node.lines)
            static[1].publish(messages.TFMessage(transforms=[on_robot("base_link", "ir_link", right_m), optical("ir")]))
            node.wait_for_line(r"\[INFO\].*registration made: camera_info, /tf_static and a plane at 2 m", made)
            detections, _report = rig.answer_to(rgb, ir)
            np.testing.assert_allclose(hot_box(detections), 2 * np.array(HOT) + [shift, 0, shift, 0], atol=2.5)


def test_calibrations_of_two_cameras_on_one_topic_do_not_flood_the_log(blob_model, peer):
    """As with two drivers that publish camera_info without a namespace: each message logged a line."""
    with running(
        "-r", "__ns:=/twice", model=blob_model, device="cpu", threads=1, registration_from_camera_info=True,
        warning_period_s=300.0,
    ) as node:  # fmt: skip
        topics = {key: f"/twice/{key}/camera_info" for key in ("rgb", "ir")}
        ours = {key: peer.node.create_publisher(CameraInfo, topic, 5) for key, topic in topics.items()}
        other = peer.node.create_publisher(CameraInfo, topics["rgb"], 5)
        wait_until(lambda: all(p.get_subscription_count() for p in (*ours.values(), other)), "subscriptions")
        unfit = info(RGB_SIZE, 600.0)
        unfit.k = [0.0] * 9
        different = r"\[WARN\].*publishers send different calibrations"
        for message, told in (
            (info(RGB_SIZE, 610.0), different),
            (unfit, r"\[ERROR\].*no registration: the rgb camera"),
        ):
            sent = 0
            while sent < 15 or not (node.count(told) or sent > 500):  # the node may discover a publisher late
                ours["rgb"].publish(info(RGB_SIZE, 600.0))
                ours["ir"].publish(info(IR_SIZE, 300.0))
                other.publish(message)
                sent += 1
                time.sleep(0.02)
        line = node.wait_for_line(different)
        assert "2 publishers" in line
        assert "on /twice/rgb/camera_info" in line
        assert "rgb_info_topic" in line
        node.wait_for_line(r"\[ERROR\].*no registration: the rgb camera is not calibrated")
        assert node.count("registration") == 4, node.log  # one at the start


def test_a_camera_that_comes_back_with_another_size_is_named(blob_model, peer):
    """A homography given as numbers does not know its image sizes."""
    with running("-r", "__ns:=/resized", model=blob_model, device="cpu", threads=1, ir_to_rgb=numbers(MATRIX)) as node:
        rig = Rig(peer, "resized")
        rig.wait_for_node()
        for size in (RGB_SIZE, (320, 240), (320, 240), RGB_SIZE):
            rig.answer_to(rgb_pixels(size, None), ir_pixels(IR_SIZE, HOT))
        line = node.wait_for_line(r"\[WARN\].*size of /resized/rgb/image_raw changed from 640x480 to 320x240")
        assert "set it for the new size" in line
        assert node.count("image size of .* changed") == 1


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (
            {"ir_to_rgb": numbers(MATRIX), "registration_from_camera_info": True},
            "parameters 'ir_to_rgb' and 'registration_from_camera_info' each give a registration: keep one",
        ),
        ({"ir_to_rgb": numbers((1.0,) * 9)}, r"parameter ir_to_rgb: the homography is singular"),
        ({"calibration_file": "nowhere.yaml"}, r"calibration file nowhere.yaml does not exist"),
        (
            {"registration_from_camera_info": True, "extrinsic_rotation": "[0.0, 0.0, 0.0, 0.0]"},
            r"the rotation must be nine numbers of a rotation matrix",
        ),
        ({"ir_normalization": "fixed"}, r"ir_normalization 'fixed' needs ir_range_low and ir_range_high"),
        (
            {"ir_range_high": 30000.0},
            r"have no effect with ir_normalization 'model' \(the model's is percentile 1 to 99",
        ),
    ],
)
def test_what_makes_no_sense_stops_the_start_with_the_reason(blob_model, parameters, reason):
    node = NodeProcess(model=blob_model, device="cpu", **parameters)
    try:
        assert node.wait() == 1, node.log
    finally:
        node.stop()
    assert node.count(rf"\[ERROR\].*cannot configure: .*{reason}") == 1, node.log
    assert "Traceback" not in node.log
