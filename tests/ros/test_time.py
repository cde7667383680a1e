"""Clocks, losses and refusals over DDS, with cameras as they really are, and the node's reports."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import numpy as np
import pytest
from spectradino_msgs.msg import FrameReport

from spectradino_core.calibration.registration import Registration
from spectradino_core.streams.calibration_file import Calibration, save_calibration
from tests.core.streams.scene import view
from tests.ros.harness import corners, image, ir_pixels, rgb_pixels, running, to_ns, wait_until
from tests.ros.rig import Rig

# slow: a node for each; tests/core/streams/test_feed_time.py covers the decisions.
pytestmark = pytest.mark.slow

SIZE, IR_SIZE = (160, 120), (80, 60)
RED, HOT = (20, 20, 60, 50), (40, 30, 60, 50)
MS = 1_000_000


def test_a_camera_that_stamps_with_the_time_since_its_start_is_fused(blob_model, peer):
    with running("-r", "__ns:=/uptime", model=blob_model, device="cpu", threads=1) as node:
        rig = Rig(peer, "uptime")
        rig.wait_for_node()
        start, sent = time.monotonic(), []

        def fused() -> bool:
            stamp = peer.now()
            sent.append(stamp)
            since = round((4211 + time.monotonic() - start) * 1e9)
            rig.send(rgb_pixels(SIZE, RED), ir_pixels(SIZE, HOT), stamp, since)
            time.sleep(0.05)
            return sum(report.mode == FrameReport.MODE_FUSED for report in list(rig.reports)) > 5

        wait_until(fused, "fused answers")
        node.wait_for_line(
            r"\[WARN\].*stamps count from a camera's start \(ir with 421\d s\).*paired by their times of"
        )
        assert node.count("arrive much later|synchronise the clocks") == 0
        report = rig.reports[-1]
        assert to_ns(report.header.stamp) in sent, "the RGB frame's own stamp"
        assert 4211 <= to_ns(report.ir_stamp) / 1e9 < 5000
        assert abs(report.ir_offset_ms) < 50
        rig.wait_for_fact("paired by", "arrival")


def test_frames_that_never_get_results_are_reported_repeatedly(blob_model, peer):
    """Constant stamps: both cameras send and every frame is dropped, which used to be logged only once at the start."""
    with running(
        "-r", "__ns:=/still", model=blob_model, device="cpu", no_message_timeout_s=1.0, warning_period_s=0.5
    ) as node:
        rig = Rig(peer, "still")
        rig.wait_for_node()
        frames = rgb_pixels(SIZE, RED), ir_pixels(SIZE, HOT)
        rig.answer_to(*frames)
        still = peer.now()

        def named() -> bool:
            rig.send(*frames, still)
            time.sleep(0.03)
            return node.count(r"\[WARN\].*no result for \d+ s, in which \d+ frames arrived") > 2

        wait_until(named, "the silence in the log")
        assert re.search(r"since the activation: duplicate_stamp \d+", node.wait_for_line("no result for"))
        rig.answer_to(*frames)
        count = node.count("no result for")
        for _ in range(50):
            rig.send(*frames, peer.now())
            time.sleep(0.03)
        assert node.count("no result for") == count


def test_refused_frames_are_not_called_silence_and_a_dead_camera_has_no_rate(blob_model, peer):
    with running("-r", "__ns:=/refused", model=blob_model, device="cpu", threads=1, stale_ms=500.0) as node:
        rig = Rig(peer, "refused")
        rig.wait_for_node()

        def send() -> None:
            stamp = peer.now()
            rig.send(rgb_pixels(SIZE, RED), None, stamp)
            rig.cameras["ir"].publish(image(np.zeros((60, 80, 3), np.uint8), "sbggr77", stamp, "ir_optical"))
            time.sleep(0.05)

        def alone() -> bool:
            send()
            return bool(rig.modes) and rig.modes[-1].data == "rgb_only"

        wait_until(alone, "rgb alone")
        node.wait_for_line(r"mode fused -> rgb_only: ir sends frames that are refused \(.*sbggr77.*\)")
        # Before the first frame it may be said of both, as information.
        assert node.count(r"\[WARN\].*ir has sent nothing") == 0

        def is_said() -> bool:
            send()
            return "refused" in rig.facts().get("mode reason", "")

        wait_until(is_said, "the refusal in the diagnostics")
        assert float(rig.facts()["/refused/ir/image_raw rate [Hz]"]) > 2
        wait_until(lambda: rig.facts()["/refused/ir/image_raw rate [Hz]"] == "0.00", "no rate", 15.0)
        assert float(rig.facts()["/refused/ir/image_raw age [s]"]) < 9


@pytest.fixture(params=["calibration_file", "ir_to_rgb"])
def registered(request, tmp_path):
    """Registration by parameter: infrared has half the resolution and lies 16 and 8 pixels inside the RGB image."""
    matrix = (1.5, 0.0, 16.0, 0.0, 1.5, 8.0, 0.0, 0.0, 1.0)
    if request.param == "ir_to_rgb":
        return {"ir_to_rgb": f"[{', '.join(map(str, matrix))}]"}
    save_calibration(tmp_path / "rig.yaml", Calibration(Registration(matrix, IR_SIZE, SIZE, "test")))
    return {"calibration_file": tmp_path / "rig.yaml"}


def alone_after(rig: Rig, reached: Callable[[], object], what: str) -> None:
    """Send a pair until it has a result, then infrared alone until a condition holds."""
    wait_until(lambda: rig.answer_to(rgb_pixels(SIZE, RED), ir_pixels(IR_SIZE, HOT)), "a fused answer")

    def done() -> object:
        rig.send(None, ir_pixels(IR_SIZE, HOT), rig.peer.now())
        time.sleep(0.05)
        return reached()

    wait_until(done, what)


def answered_alone(rig: Rig) -> bool:
    """The mode alone is no proof: a timer also sets it between two frames."""
    return bool(rig.reports) and rig.reports[-1].mode == FrameReport.MODE_IR_ONLY


def test_with_a_registration_results_of_infrared_alone_are_in_the_rgb_grid(blob_model, peer, registered):
    from sensor_msgs.msg import Image

    name = f"grid_{'file' if 'calibration_file' in registered else 'numbers'}"
    with running(
        "-r", f"__ns:=/{name}", model=blob_model, device="cpu", threads=1, stale_ms=300.0, fallback_mode="rgb_grid",
        **registered,
    ) as node:  # fmt: skip
        rig = Rig(peer, name)
        masks = peer.collect(Image, f"{rig.name}/segmentation/mask")
        overlays = peer.collect(Image, f"{rig.name}/segmentation/overlay")
        rig.wait_for_node()
        alone_after(rig, lambda: answered_alone(rig), "an answer of infrared alone")
        stamps: list[int] = []

        def answered() -> list | None:
            """Return the messages for one of our infrared frames, by its own stamp."""
            stamps.append(peer.now())
            rig.send(None, ir_pixels(IR_SIZE, HOT), stamps[-1])
            time.sleep(0.05)
            for stamp in stamps:
                topics = (rig.detections, rig.reports, masks, overlays)
                of = [[m for m in list(topic) if to_ns(m.header.stamp) == stamp] for topic in topics]
                if all(of):
                    return [messages[0] for messages in of]
            return None

        found, report, mask_image, overlay = wait_until(answered, "answers of infrared alone")
        assert report.mode == FrameReport.MODE_IR_ONLY
        assert found.header.frame_id == "rgb_optical"
        (hot,) = found.detections
        np.testing.assert_allclose(corners(hot), np.array(HOT) * 1.5 + [16, 8, 16, 8], atol=3.0)
        for frame in (mask_image, overlay):
            assert (frame.width, frame.height, frame.header.frame_id) == (*SIZE, "rgb_optical")
        mask = np.frombuffer(mask_image.data, np.uint8).reshape(SIZE[1], SIZE[0])
        assert mask[70, 90] == 2
        assert mask[2, 2] == 255, "infrared does not see it"
        assert node.count("own 80x60 pixels") == 0


def test_without_one_the_change_is_reported_and_can_be_refused(blob_model, peer):
    from tests.ros.management import Manager

    with running("-r", "__ns:=/own", model=blob_model, device="cpu", threads=1, stale_ms=300.0) as node:
        rig = Rig(peer, "own")
        rig.wait_for_node()
        alone_after(rig, lambda: answered_alone(rig), "an answer of infrared alone")
        node.wait_for_line(r"\[WARN\].*own 80x60 pixels and under its frame_id.*fallback_mode rgb_grid")
        wait_until(lambda: rig.detections[-1].header.frame_id == "ir_optical", "infrared's own frame")
        assert Manager(peer, node, rig.name).set("fallback_mode", "rgb_grid") == (True, "")
        refusal = "fallback_mode rgb_grid does not allow ir alone, as no registration to the RGB image is known"
        alone_after(rig, lambda: node.count(refusal), "the refusal")
        rig.wait_for_mode("stale")
        assert node.count("own 80x60 pixels") == 1


def test_images_that_are_lost_on_the_way_are_reported_within_five_seconds_with_the_command(blob_model, peer):
    """A camera at 20 Hz of which two of three images are lost, as with Fast DDS's defaults."""
    large = ir_pixels((640, 480), HOT)
    comes = np.random.default_rng(0).random(1000) < 0.34
    with running("-r", "__ns:=/lossy", model=blob_model, device="cpu", threads=1) as node:
        rig = Rig(peer, "lossy")
        rig.wait_for_node()
        begun, number, start = time.monotonic(), 0, peer.now()
        while not node.count("are lost") and time.monotonic() - begun < 20:
            stamp = start + number * 50 * MS
            rig.send(rgb_pixels(SIZE, RED), large if comes[number] else None, stamp)
            number += 1
            time.sleep(max(0.0, begun + number * 0.05 - time.monotonic()))
        line = node.wait_for_line(r"\[WARN\].*% of the images on /lossy/ir/image_raw are lost")
        assert re.search("about [5-8]", line)
        assert "export FASTRTPS_DEFAULT_PROFILES_FILE=" in line
        assert line.rstrip("'").endswith("fastdds_large_images.xml")
        assert node.count("images on /lossy/rgb/image_raw are lost") == 0
        assert time.monotonic() - begun < 10


def test_an_infrared_clock_that_is_off_is_reported_from_the_images(blob_model, peer):
    with running("-r", "__ns:=/late", model=blob_model, device="cpu", threads=1, frozen_ms=0.0) as node:
        rig = Rig(peer, "late")
        rig.wait_for_node()
        begun, number, start = time.monotonic(), 0, peer.now()
        while not node.count("ir frames look") and time.monotonic() - begun < 60:
            at = number * 50.0
            rig.send(view("rgb", at), view("ir", at), start + round(at * MS), start + round((at + 60) * MS))
            number += 1
            time.sleep(max(0.0, begun + number * 0.05 - time.monotonic()))
        line = node.wait_for_line(r"\[WARN\].*ir frames look about (5|6)\d ms late.*learn_ir_time_offset")
        assert "set ir_time_offset_ms to" in line
