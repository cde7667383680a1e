"""Publishers of the node's output topics, and messages of a `PerceptionResult` by the conventions of vision_msgs 4.

Every message carries a copy of the source frame's header: its stamp and frame_id.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.lifecycle import LifecycleNode
from rclpy.lifecycle.publisher import LifecyclePublisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from spectradino_msgs.msg import (
    CameraMode,
    DetectionTemperature,
    DetectionTemperatures,
    DropCount,
    FrameReport,
    StepTime,
)
from std_msgs.msg import Header, String
from vision_msgs.msg import Detection2D, Detection2DArray, LabelInfo, ObjectHypothesisWithPose, VisionClass, VisionInfo

from spectradino_core.calibration.checkerboard import checkerboard
from spectradino_core.calibration.registration import Registration
from spectradino_core.drawing import jpeg_of
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.overlay import overlay_of
from spectradino_core.runtime.perception_result import PerceptionResult
from spectradino_core.runtime.rgb_grid import in_infrared_pixels
from spectradino_core.streams import result_fields
from spectradino_core.streams.result_fields import Facts, detection_fields
from spectradino_core.streams.topics import OUTPUTS

try:  # optional: a viewer's own messages
    from foxglove_msgs.msg import Color, ImageAnnotations, Point2, PointsAnnotation, TextAnnotation
except ImportError:
    _OF_FOXGLOVE: tuple[type, ...] = ()
else:
    _OF_FOXGLOVE = (Color, ImageAnnotations, Point2, PointsAnnotation, TextAnnotation)

_RESULTS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
_JPEG_QUALITY = 80
_KINDS = (
    *(Time, CompressedImage, Image, String),
    *(CameraMode, DetectionTemperature, DetectionTemperatures, DropCount, FrameReport, StepTime),
    *(Detection2DArray, LabelInfo, VisionClass, VisionInfo),
    *_OF_FOXGLOVE,
)
_TYPES: dict[str, Any] = {f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}": kind for kind in _KINDS}


def make(kind: str, **fields: Any) -> Any:
    """Make a message of a type such as "vision_msgs/msg/LabelInfo"."""
    return _TYPES[kind](**fields)


def detections_message(
    perception: PerceptionResult,
    header: Header,
    parts: list[Detection2D] | None = None,
    class_ids: Sequence[str] = (),
) -> Detection2DArray:
    """Make the Detection2DArray of a result, highest score first, with boxes in source pixels; see `detection_fields`.

    `parts` are Detection2D messages to reuse, because one consists of some thirty objects; the list grows as needed. A
    message made from the same list before becomes invalid.
    """
    parts = [] if parts is None else parts
    while len(parts) < len(perception):
        parts.append(Detection2D(results=[ObjectHypothesisWithPose()]))
    for detection, found in zip(parts, detection_fields(perception, class_ids)):
        detection.header = header
        hypothesis, box = detection.results[0].hypothesis, detection.bbox
        hypothesis.class_id, hypothesis.score = found.class_id, found.score
        detection.id = found.track_id
        box.center.position.x, box.center.position.y = found.x, found.y
        box.size_x, box.size_y = found.width, found.height
    return Detection2DArray(header=header, detections=parts[: len(perception)])


def image_message(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """Make an Image from [h, w] or [h, w, C] of any depth, in native byte order, without padding."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1).view(np.uint8)
    message = Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=rows.shape[1],
    )
    # Append to the empty array of a new message: assigning a list or bytes takes up to a thousand times longer.
    message.data.frombytes(rows.reshape(-1).data)
    return message


def _compressed_message(image: np.ndarray, header: Header) -> CompressedImage:
    """Make a CompressedImage, in JPEG, of an RGB image as image_transport's plugin does."""
    message = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
    message.data.frombytes(jpeg_of(image, _JPEG_QUALITY))
    return message


class Outputs:
    """Publishers of one model's results; masks and views are made only for subscribers."""

    def __init__(self, node: LifecycleNode, info: ModelInfo, temperatures: bool = False) -> None:
        """
        Args:
            node: its lifecycle transitions enable and disable the publishers.
            info: class names and colours of the model; a model without mask classes has no mask topics.
            temperatures: whether the infrared camera is radiometric; otherwise there is no topic of temperatures.
        """
        self._node = node
        self._info = info
        self._parts: list[Detection2D] = []
        self._ir_parts: list[Detection2D] = []
        # Diagnostics are published in every lifecycle state, so the node owns that publisher.
        without = {"diagnostics"} if info.mask_classes else {"diagnostics", "mask", "mask_label_info"}
        without |= set() if temperatures else {"temperatures"}
        without |= set() if _OF_FOXGLOVE else {"annotations"}
        self._publishers: dict[str, LifecyclePublisher] = {
            key: node.create_lifecycle_publisher(
                _TYPES[topic.kind], topic.name, _LATCHED if topic.latched else _RESULTS
            )
            for key, topic in OUTPUTS.items()
            if key not in without
        }

    def destroy(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)

    @property
    def has_subscriber(self) -> bool:
        """Whether any per-frame topic has a subscriber."""
        return any(self._has_subscriber(key) for key, topic in OUTPUTS.items() if not topic.latched)

    def _has_subscriber(self, key: str) -> bool:
        return key in self._publishers and self._publishers[key].get_subscription_count() > 0

    def publish_labels(self, score_threshold: float) -> None:
        """Publish the latched class names, with the minimum score in force, and the model that they belong to."""
        header, info = self._header_now(), self._info
        labels = self._publishers["label_info"]
        self._publishers["vision_info"].publish(
            result_fields.vision_info_message(make, info, header, labels.topic_name)
        )
        labels.publish(result_fields.label_message(make, info.box_classes, header, score_threshold))
        if "mask_label_info" in self._publishers:
            message = result_fields.label_message(make, info.mask_classes, header, 0.0)
            self._publishers["mask_label_info"].publish(message)

    def publish_mode(self, mode: str) -> None:
        """Publish the latched camera mode, as a word and as a number."""
        self._publishers["mode"].publish(String(data=mode))
        self._publishers["camera_mode"].publish(result_fields.camera_mode_message(make, mode, self._header_now()))

    def _header_now(self) -> Header:
        """Return a header for what belongs to no frame."""
        return Header(stamp=self._node.get_clock().now().to_msg())

    def _publish_on_demand(self, key: str, message: Callable[[], Any]) -> bool:
        """Publish a message that is only made if the topic has a subscriber; returns whether it has one."""
        if not self._has_subscriber(key):
            return False
        self._publishers[key].publish(message())
        return True

    def publish_perception(self, perception: PerceptionResult, header: Header, class_ids: Sequence[str] = ()) -> None:
        """Publish the detections, also if there are none, and the mask for its subscribers."""
        self._publishers["detections"].publish(detections_message(perception, header, self._parts, class_ids))
        if (mask := perception.mask) is not None:
            self._publish_on_demand("mask", lambda: image_message(mask, "mono8", header))

    def publish_annotations(self, perception: PerceptionResult, header: Header) -> bool:
        """Publish what draws the detections; returns False if it has no subscriber."""
        return self._publish_on_demand(
            "annotations", lambda: result_fields.annotations_message(make, perception, self._info, header.stamp)
        )

    def publish_ir_detections(
        self,
        perception: PerceptionResult,
        infrared: np.ndarray,
        registration: Registration | None,
        header: Header,
        class_ids: Sequence[str] = (),
    ) -> bool:
        """Publish the detections in pixels of the IR frame [H, W], with its header; False if there is no subscriber.

        `registration` is the one by which the frame was fused with the RGB image.
        """

        def message() -> Detection2DArray:
            in_ir = in_infrared_pixels(perception, registration, (infrared.shape[1], infrared.shape[0]))
            return detections_message(in_ir, header, self._ir_parts, class_ids)

        return self._publish_on_demand("ir_detections", message)

    def publish_temperatures(
        self, perception: PerceptionResult, header: Header, ir_stamp: Time, class_ids: Sequence[str] = ()
    ) -> None:
        """Publish the temperatures of the detections, if there are any and they have a subscriber."""
        if perception.temperatures is not None:
            self._publish_on_demand(
                "temperatures",
                lambda: result_fields.temperatures_message(make, perception, header, ir_stamp, class_ids),
            )

    def publish_overlay(
        self,
        perception: PerceptionResult,
        rgb: np.ndarray | None,
        infrared: np.ndarray | None,
        registration: Registration | None,
        header: Header,
    ) -> bool:
        """Publish what `overlay_of` draws, raw and as JPEG; returns False without a subscriber or an image."""
        if not self._has_subscriber("overlay") and not self._has_subscriber("overlay_compressed"):
            return False
        drawn = overlay_of(perception, rgb, infrared, registration, self._info)
        if drawn is None:
            return False
        self._publish_on_demand("overlay", lambda: image_message(drawn, "rgb8", header))
        self._publish_on_demand("overlay_compressed", lambda: _compressed_message(drawn, header))
        return True

    def publish_registration(
        self, rgb: np.ndarray, infrared: np.ndarray, registration: Registration | None, header: Header
    ) -> bool:
        """Publish a checkerboard of both images; returns False if it has no subscriber."""
        return self._publish_on_demand(
            "registration", lambda: image_message(checkerboard(rgb, infrared, registration), "rgb8", header)
        )

    def publish_report(self, perception: PerceptionResult, facts: Facts, header: Header) -> None:
        """Publish the frame report of one result."""
        message = result_fields.report_message(make, perception, facts, self._info, header)
        self._publishers["frame_report"].publish(message)
