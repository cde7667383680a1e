"""Views that cost little of a network: the overlay as JPEG, and detections that Foxglove draws by itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from rclpy.lifecycle import LifecycleNode
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from spectradino_core.bags.messages import DEFINITIONS, writing_types
from spectradino_core.drawing import BOX_COLOURS
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_ros.outputs import Outputs
from tests.blob_model import blob_info
from tests.ros.harness import corners, ir_pixels, rgb_pixels, running, to_ns, wait_until
from tests.ros.rig import Rig

RED, HOT = (20, 20, 60, 50), (40, 30, 60, 50)
RGB_PIXELS, IR_PIXELS = rgb_pixels((160, 120), RED), ir_pixels((80, 60), HOT)
OPTIONS = {"device": "cpu", "threads": 1, "fallback_mode": "fused_only"}


def test_the_overlay_is_published_as_jpeg_alone(blob_model, peer):
    """As image_transport's plugin names it."""
    with running("-r", "__ns:=/light", model=blob_model, **OPTIONS):
        rig = Rig(peer, "light")
        rig.wait_for_node()
        found = peer.collect(CompressedImage, f"{rig.name}/segmentation/overlay/compressed")
        wait_until(lambda: rig.answer_to(RGB_PIXELS, IR_PIXELS) and found, "a compressed overlay")
        detections, report = rig.answer_to(RGB_PIXELS, IR_PIXELS)
        message = wait_until(
            lambda: next((m for m in list(found) if m.header == detections.header), None), "the overlay of a result"
        )
        assert "overlay" in [step.name for step in report.steps]
        assert message.format == "rgb8; jpeg compressed bgr8"
        assert len(message.data) < RGB_PIXELS.nbytes / 4
        image = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert image.shape == RGB_PIXELS.shape
        _, y1, x2, y2 = corners(next(d for d in detections.detections if d.results[0].hypothesis.class_id == "1"))
        edge = image[round((y1 + y2) / 2), round(x2)].astype(int)
        assert np.abs(edge - BOX_COLOURS[1]).max() < 100
        assert np.abs(image[115, 5].astype(int) - 90).max() < 60  # nothing is drawn there but the mask


def test_the_raw_overlay_is_not_published_for_subscribers_of_the_jpeg(peer, monkeypatch):
    node = LifecycleNode("light_outputs", context=peer.context)
    try:
        outputs = Outputs(node, blob_info())
        node.trigger_configure()
        node.trigger_activate()
        raw, jpeg = (outputs._publishers[key] for key in ("overlay", "overlay_compressed"))
        sent: list = []
        monkeypatch.setattr(raw, "publish", sent.append)
        result = PerceptionResult(
            np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64),
            np.zeros((120, 160), np.uint8), Mode.FUSED, (160, 120),
        )  # fmt: skip
        received = peer.collect(CompressedImage, jpeg.topic_name)
        wait_until(jpeg.get_subscription_count, "the subscriber of the JPEG")
        assert outputs.publish_overlay(result, RGB_PIXELS, None, None, Header())
        wait_until(lambda: received, "a compressed overlay")
        assert not sent
        peer.collect(Image, raw.topic_name)
        wait_until(raw.get_subscription_count, "the subscriber of the raw image")
        assert outputs.publish_overlay(result, RGB_PIXELS, None, None, Header())
        assert [message.encoding for message in sent] == ["rgb8"]
    finally:
        node.destroy_node()


def test_annotations_are_on_the_boxes_of_the_detections(blob_model, peer):
    foxglove = pytest.importorskip("foxglove_msgs.msg", reason="foxglove_msgs is not installed: no wheel of it exists")
    with running("-r", "__ns:=/drawn", model=blob_model, **OPTIONS):
        rig = Rig(peer, "drawn")
        rig.wait_for_node()
        found = peer.collect(foxglove.ImageAnnotations, f"{rig.name}/annotations")
        wait_until(lambda: rig.answer_to(RGB_PIXELS, IR_PIXELS) and found, "annotations")
        detections, _ = rig.answer_to(RGB_PIXELS, IR_PIXELS)
        stamp = detections.header.stamp
        (message,) = wait_until(
            lambda: [m for m in list(found) if m.points and m.points[0].timestamp == stamp], "those of a result"
        )
        assert [text.text for text in message.texts] == ["hot 0.90", "red 0.80"]
        for outline, detection in zip(message.points, detections.detections, strict=True):
            assert outline.type == foxglove.PointsAnnotation.LINE_LOOP
            drawn = [(p.x, p.y) for p in outline.points]
            np.testing.assert_allclose([*drawn[0], *drawn[2]], corners(detection))


@pytest.mark.slow  # a node; test_parts.py covers the outputs
def test_without_foxglove_msgs_there_is_no_such_topic(blob_model, peer):
    if importlib.util.find_spec("foxglove_msgs") is not None:
        pytest.skip("foxglove_msgs is installed")
    with running("-r", "__ns:=/undrawn", model=blob_model, **OPTIONS):
        rig = Rig(peer, "undrawn")
        rig.wait_for_node()
        detections, _ = rig.answer_to(RGB_PIXELS, IR_PIXELS)
        assert to_ns(detections.header.stamp)
        assert f"{rig.name}/annotations" not in dict(peer.node.get_topic_names_and_types())


def test_annotations_in_bags_are_of_the_installed_types():
    """A newer package may have further fields."""
    pytest.importorskip("foxglove_msgs.msg", reason="foxglove_msgs is not installed: no wheel of it exists")
    from ament_index_python import get_package_share_directory

    theirs = get_typestore(Stores.ROS2_JAZZY)
    names = [name for name in DEFINITIONS if name.startswith("foxglove_msgs/")]
    types = {}
    for name in names:
        path = Path(get_package_share_directory("foxglove_msgs")) / f"msg/{name.rpartition('/')[2]}.msg"
        types.update(get_types_from_msg(path.read_text(), name))
    theirs.register(types)
    for name in names:
        assert all(field in theirs.fielddefs[name][1] for field in writing_types().fielddefs[name][1]), name
