"""Results of pairs over DDS: one per pair, with copied headers and boxes on the right pixels."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from sensor_msgs.msg import Image
from spectradino_msgs.msg import FrameReport
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionInfo

from tests.blob_model import HOT_SCORE, RED_SCORE
from tests.ros.harness import LATCHED, RELIABLE, corners, image, ir_pixels, rgb_pixels, running, to_ns, wait_until

SIZE = (640, 480)
RED = (100, 40, 180, 90)
HOT = (200, 60, 300, 120)


class Answers:
    """All published messages by stamp."""

    def __init__(self, peer) -> None:
        self.peer = peer
        self.detections = peer.collect(Detection2DArray, "/detector_node/detections")
        self.masks = peer.collect(Image, "/detector_node/segmentation/mask")
        self.reports = peer.collect(FrameReport, "/detector_node/frame_report")

    def to(self, rgb: np.ndarray, ir: np.ndarray, rgb_encoding="rgb8", ir_encoding="16UC1", **ir_options):
        """Send one pair and wait for its detections, mask and report."""
        stamp = self.peer.now()
        self.peer.send(
            image(rgb, rgb_encoding, stamp, "rgb_optical"), image(ir, ir_encoding, stamp, "ir_optical", **ir_options)
        )
        return self.wait(stamp)

    def wait(self, stamp: int):
        def find():
            found = [
                next((m for m in list(messages) if to_ns(m.header.stamp) == stamp), None)
                for messages in (self.detections, self.masks, self.reports)
            ]
            return found if all(m is not None for m in found) else None

        return wait_until(find, f"the answer to the pair stamped {stamp}")


@pytest.fixture(scope="module")
def node(blob_model):
    with running(model=blob_model, device="cpu", threads=1) as node:
        yield node


@pytest.fixture(scope="module")
def answers(node, peer):
    answers = Answers(peer)
    peer.wait_for_node()

    def first() -> bool:
        stamp = peer.now()
        peer.send(
            image(rgb_pixels(SIZE, RED), "rgb8", stamp, "rgb_optical"),
            image(ir_pixels(SIZE, HOT), "mono16", stamp, "ir_optical"),
        )
        time.sleep(0.1)
        return bool(answers.detections and answers.masks and answers.reports)

    wait_until(first, "a first answer on all topics")
    return answers


def test_every_pair_at_10_hz_gets_a_result_with_the_rgb_header(answers, peer):
    rgb, ir = rgb_pixels(SIZE, RED), ir_pixels(SIZE, HOT)
    sent = []
    due = time.monotonic()
    for _ in range(30):
        # One pair may be at work and one wait: a third, should the machine halt for a while, would rightly be dropped.
        if len(sent) >= 2:
            answers.wait(sent[-2])
        sent.append(peer.now())
        peer.send(image(rgb, "rgb8", sent[-1], "rgb_optical"), image(ir, "mono16", sent[-1] + 3_000_000, "ir_optical"))
        due += 0.1
        time.sleep(max(0.0, due - time.monotonic()))
    for stamp in sent:
        detections, mask, report = answers.wait(stamp)
        for message in (detections, mask, report):
            assert to_ns(message.header.stamp) == stamp
            assert message.header.frame_id == "rgb_optical"
        assert all(d.header == detections.header for d in detections.detections)
        assert [d.results[0].hypothesis.class_id for d in detections.detections] == ["1", "0"]
        assert to_ns(report.rgb_stamp) == stamp
        assert to_ns(report.ir_stamp) == stamp + 3_000_000
        assert report.ir_offset_ms == pytest.approx(3.0)
        assert report.mode == FrameReport.MODE_FUSED
    stamps = [to_ns(m.header.stamp) for m in answers.detections]
    assert len(stamps) == len(set(stamps)), "a pair was answered twice"


@pytest.mark.parametrize(
    ("size", "red", "hot"),
    [
        ((617, 459), (100, 40, 181, 93), (411, 300, 517, 401)),
        ((394, 161), (30, 11, 91, 60), (250, 73, 377, 150)),
        ((640, 480), (0, 0, 90, 60), (540, 400, 640, 480)),  # at the edges
        ((33, 57), (3, 4, 15, 20), (12, 30, 30, 50)),  # portrait, smaller than the network's input
    ],
)
def test_boxes_and_mask_lie_on_source_pixels(answers, size, red, hot):
    detections, mask, _report = answers.to(rgb_pixels(size, red), ir_pixels(size, hot))
    found = {d.results[0].hypothesis.class_id: d for d in detections.detections}
    # A pixel of the network's input is 1.0 or less of these sources, and a blurred edge may fall on either side of it.
    np.testing.assert_allclose(corners(found["0"]), red, atol=1.05)
    np.testing.assert_allclose(corners(found["1"]), hot, atol=1.05)
    assert (mask.width, mask.height, mask.step, mask.encoding) == (*size, size[0], "mono8")
    pixels = np.frombuffer(mask.data, np.uint8).reshape(mask.height, mask.width)
    expected = np.zeros_like(pixels)
    expected[red[1] : red[3], red[0] : red[2]] = 1
    expected[hot[1] : hot[3], hot[0] : hot[2]] = 2
    # Edges may be off by a pixel, surfaces not.
    edges = 2 * ((red[2] - red[0]) + (red[3] - red[1]) + (hot[2] - hot[0]) + (hot[3] - hot[1]))
    assert (pixels != expected).sum() <= edges
    centre = ((hot[1] + hot[3]) // 2, (hot[0] + hot[2]) // 2)
    assert pixels[centre] == 2


def test_infrared_of_another_size_covers_the_same_field(answers):
    hot = (80, 60, 160, 120)
    detections, _mask, _report = answers.to(rgb_pixels(SIZE, None), ir_pixels((320, 240), hot))
    (detection,) = detections.detections
    np.testing.assert_allclose(corners(detection), [2 * v for v in hot], atol=2.05)


def test_scores_are_sorted_and_the_bbox_has_no_rotation(answers):
    detections, _mask, report = answers.to(rgb_pixels(SIZE, RED), ir_pixels(SIZE, HOT))
    scores = [d.results[0].hypothesis.score for d in detections.detections]
    assert scores == pytest.approx([HOT_SCORE, RED_SCORE])
    assert all(d.bbox.center.theta == 0.0 for d in detections.detections)
    assert report.detections == 2


def test_an_empty_result_is_published(answers):
    detections, mask, report = answers.to(rgb_pixels(SIZE, None), ir_pixels(SIZE, None))
    assert list(detections.detections) == []
    assert report.detections == 0
    assert not np.frombuffer(mask.data, np.uint8).any()


def test_the_report_times_each_step_and_names_the_model(answers):
    _detections, _mask, report = answers.to(rgb_pixels(SIZE, RED), ir_pixels(SIZE, HOT))
    steps = {step.name: step.milliseconds for step in report.steps}
    assert list(steps)[:7] == ["decode", "pairing", "queue", "preprocess", "engine", "postprocess", "publish"]
    assert all(ms >= 0 and math.isfinite(ms) for ms in steps.values())
    assert 0 < report.latency_ms < 60_000
    assert sum(steps[name] for name in ("queue", "preprocess", "engine", "postprocess")) <= report.latency_ms
    assert report.model == "blob"
    assert report.deadline_met


@pytest.mark.parametrize(
    ("encoding", "order"), [("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("rgba8", [0, 1, 2, 0]), ("bgra8", [2, 1, 0, 1])]
)
def test_colour_encodings_keep_red_red(answers, encoding, order):
    pixels = rgb_pixels((617, 459), RED)[..., order]
    detections, _mask, _report = answers.to(pixels, ir_pixels((617, 459), None), rgb_encoding=encoding)
    assert [d.results[0].hypothesis.class_id for d in detections.detections] == ["0"]


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "big_endian"),
    [("mono8", False), ("mono16", False), ("mono16", True), ("16UC1", False), ("16UC1", True)],
)
def test_thermal_encodings_of_either_endianness_and_any_step(answers, encoding, big_endian, padding):
    pixels = ir_pixels((394, 161), (250, 73, 377, 150), np.uint8 if encoding == "mono8" else np.uint16)
    detections, _mask, _report = answers.to(
        rgb_pixels((394, 161), None), pixels, ir_encoding=encoding, big_endian=big_endian, padding=padding
    )
    (detection,) = detections.detections
    np.testing.assert_allclose(corners(detection), (250, 73, 377, 150), atol=1.05)


def test_class_names_reach_those_who_come_late(answers, peer):
    labels = peer.collect(LabelInfo, "/detector_node/label_info", LATCHED)
    masks = peer.collect(LabelInfo, "/detector_node/segmentation/label_info", LATCHED)
    wait_until(lambda: labels and masks, "the latched class names")
    assert [(c.class_id, c.class_name) for c in labels[0].class_map] == [(0, "red"), (1, "hot")]
    assert labels[0].threshold == pytest.approx(0.5)
    assert [c.class_name for c in masks[0].class_map] == ["background", "red", "hot"]
    models = peer.collect(VisionInfo, "/detector_node/vision_info", LATCHED)
    wait_until(lambda: models, "the latched model")
    assert (models[0].method, models[0].database_location) == ("blob", "/detector_node/label_info")


def test_the_overlay_is_drawn_for_a_listener(answers, peer):
    overlays = peer.collect(Image, "/detector_node/segmentation/overlay", RELIABLE)
    rgb = rgb_pixels(SIZE, RED)

    def drawn() -> bool:
        answers.to(rgb, ir_pixels(SIZE, HOT))
        return bool(overlays)

    wait_until(drawn, "an overlay")
    overlay = overlays[0]
    assert (overlay.width, overlay.height, overlay.encoding, overlay.step) == (*SIZE, "rgb8", 3 * SIZE[0])
    assert overlay.header.frame_id == "rgb_optical"
    pixels = np.frombuffer(overlay.data, np.uint8).reshape(*SIZE[::-1], 3)
    assert (pixels != rgb).any()
    assert (pixels[300:, :80] == rgb[300:, :80]).all(), "far from any box is background, which is not painted"


def test_the_node_logged_no_warning(node, answers):
    """Last in this module: none of the above is a reason to warn."""
    complaints = [line for line in node.lines if "[WARN]" in line or "[ERROR]" in line or "[FATAL]" in line]
    # Of rates nothing is expected: a test sends when it wants an answer, at 10 Hz, 38 Hz or not at all.
    of_rates = ("no message on", "overload", "are lost")
    assert [c for c in complaints if not any(words in c for words in of_rates)] == []
