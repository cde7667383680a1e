"""Message packages as built by rosidl: field types, and descriptions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

rclpy_serialization = pytest.importorskip("rclpy.serialization", reason="no ROS in this environment")

# RIHS01 hashes (REP-2011) of vision_msgs 4.1.1 and of tf2_msgs in Jazzy. A type with another hash is another
# type to every other node.
PUBLISHED = {
    "vision_msgs/Detection2DArray": "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    "vision_msgs/Detection2D": "RIHS01_0d12b69df5c593b3455b7346fac8205437a7d4bcb09b9e0e0b2dde787ded38ea",
    "vision_msgs/LabelInfo": "RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
    "vision_msgs/VisionInfo": "RIHS01_95d3116a17484ad91c9a2686e1d54890bbfc3ff6c6a2de137738c4950d45d284",
    "tf2_msgs/TFMessage": "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087",
}


def described(package: str, name: str) -> dict:
    """Return the description of a type that rosidl generated and installed."""
    from ament_index_python import get_package_share_directory

    return json.loads((Path(get_package_share_directory(package)) / f"msg/{name}.json").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_messages_without_a_wheel_are_the_published_types(name: str) -> None:
    package, message = name.split("/")
    hashes = {h["type_name"]: h["hash_string"] for h in described(package, message)["type_hashes"]}
    assert hashes[f"{package}/msg/{message}"] == PUBLISHED[name]


def test_detections_survive_the_wire() -> None:
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

    sent = Detection2DArray()
    sent.header.frame_id = "rgb_optical"
    box = Detection2D(header=sent.header, id="7")
    box.bbox.center.position.x, box.bbox.center.position.y = 12.5, 7.25
    box.bbox.size_x, box.bbox.size_y = 4.0, 9.0
    guess = ObjectHypothesisWithPose()
    guess.hypothesis.class_id, guess.hypothesis.score = "person", 0.75
    box.results = [guess]
    sent.detections = [box]
    got = rclpy_serialization.deserialize_message(rclpy_serialization.serialize_message(sent), Detection2DArray)
    assert got == sent


def test_frame_report_survives_the_wire() -> None:
    from spectradino_msgs.msg import DropCount, FrameReport, StepTime

    sent = FrameReport(
        mode=FrameReport.MODE_RGB_ONLY,
        detections=3,
        ir_offset_ms=-7.5,
        latency_ms=41.25,
        steps=[StepTime(name="inference", milliseconds=30.5)],
        drops=[DropCount(cause="superseded", count=2**40)],
        deadline_ms=100.0,
        deadline_met=True,
        model="box",
    )
    sent.rgb_stamp.sec, sent.rgb_stamp.nanosec = 12, 500
    got = rclpy_serialization.deserialize_message(rclpy_serialization.serialize_message(sent), FrameReport)
    assert got == sent
    assert got.drops[0].count == 2**40


def test_frame_report_can_have_no_offset() -> None:
    from spectradino_msgs.msg import FrameReport

    sent = FrameReport(ir_offset_ms=math.nan)
    got = rclpy_serialization.deserialize_message(rclpy_serialization.serialize_message(sent), FrameReport)
    assert math.isnan(got.ir_offset_ms)


def test_temperatures_survive_the_wire() -> None:
    from spectradino_msgs.msg import DetectionTemperature, DetectionTemperatures

    seen = DetectionTemperature(class_id="0", minimum=-20.5, mean=21.25, maximum=36.5)
    sent = DetectionTemperatures(detections=[seen, DetectionTemperature(class_id="1", minimum=math.nan)])
    sent.ir_stamp.sec = 7
    got = rclpy_serialization.deserialize_message(rclpy_serialization.serialize_message(sent), DetectionTemperatures)
    assert (got.ir_stamp, got.detections[0]) == (sent.ir_stamp, seen)
    assert math.isnan(got.detections[1].minimum)


def test_modes_are_distinct_and_numbered_as_documented() -> None:
    from spectradino_msgs.msg import CameraMode, FrameReport

    modes = ["MODE_FUSED", "MODE_RGB_ONLY", "MODE_IR_ONLY", "MODE_STALE", "MODE_DISABLED"]
    assert [getattr(FrameReport, m) for m in modes[:4]] == [0, 1, 2, 3]
    assert [getattr(CameraMode, m) for m in modes] == [0, 1, 2, 3, 4]


def test_every_field_of_our_messages_is_explained(repository: Path) -> None:
    for path in sorted((repository / "msg").glob("*.msg")):
        before = ""
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                assert before.startswith("#"), f"{path.name}: `{line}` has no comment before it"
            before = line
