"""Publishers of the node's output topics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.lifecycle import LifecycleNode
from rclpy.lifecycle.publisher import LifecyclePublisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from spectradino_msgs.msg import CameraMode, DetectionTemperatures, FrameReport
from std_msgs.msg import Header, String
from vision_msgs.msg import Detection2D, Detection2DArray, LabelInfo, VisionInfo

from spectradino_core.calibration.checkerboard import checkerboard
from spectradino_core.calibration.registration import Registration
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.overlay import draw_overlay, infrared_to_grey, jpeg_of
from spectradino_core.runtime.perception_result import PerceptionResult
from spectradino_core.runtime.rgb_grid import in_infrared_pixels, infrared_in_colour_pixels
from spectradino_core.streams.topics import OUTPUTS
from spectradino_ros.publishing import (
    FOXGLOVE,
    Facts,
    annotations_message,
    camera_mode_message,
    compressed_message,
    detections_message,
    image_message,
    label_message,
    report_message,
    temperatures_message,
    vision_info_message,
)

__all__ = ["Outputs"]

_RESULTS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
_TYPES = {
    "vision_msgs/msg/Detection2DArray": Detection2DArray,
    "vision_msgs/msg/LabelInfo": LabelInfo,
    "vision_msgs/msg/VisionInfo": VisionInfo,
    "spectradino_msgs/msg/CameraMode": CameraMode,
    "spectradino_msgs/msg/DetectionTemperatures": DetectionTemperatures,
    "spectradino_msgs/msg/FrameReport": FrameReport,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "sensor_msgs/msg/Image": Image,
    "std_msgs/msg/String": String,
} | FOXGLOVE


class Outputs:
    """Publishers of one model's results; mask and debug images are made only for subscribers."""

    def __init__(self, node: LifecycleNode, info: ModelInfo, temperatures: bool = False) -> None:
        """
        Args:
            node: creates the publishers; its lifecycle transitions enable and disable them.
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
        without |= set() if FOXGLOVE else {"annotations"}
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
    def listened(self) -> bool:
        """Whether any per-frame topic has a subscriber."""
        return any(self._has_subscriber(key) for key, topic in OUTPUTS.items() if not topic.latched)

    def _has_subscriber(self, key: str) -> bool:
        return key in self._publishers and self._publishers[key].get_subscription_count() > 0

    def publish_labels(self, score_threshold: float) -> None:
        """Publish the latched class names, with the minimum score in force, and the model that they belong to."""
        header = self._header_now()
        labels = self._publishers["label_info"]
        self._publishers["vision_info"].publish(vision_info_message(self._info, header, labels.topic_name))
        labels.publish(label_message(self._info.box_classes, header, score_threshold))
        if "mask_label_info" in self._publishers:
            self._publishers["mask_label_info"].publish(label_message(self._info.mask_classes, header, 0.0))

    def publish_mode(self, mode: str) -> None:
        """Publish the latched camera mode, as a word and as a number."""
        self._publishers["mode"].publish(String(data=mode))
        self._publishers["camera_mode"].publish(camera_mode_message(mode, self._header_now()))

    def _header_now(self) -> Header:
        """Return a header for what belongs to no frame."""
        return Header(stamp=self._node.get_clock().now().to_msg())

    def publish_percepts(self, percepts: PerceptionResult, header: Header, class_ids: Sequence[str] = ()) -> None:
        """Publish the detections, also if there are none, and the mask for its subscribers."""
        self._publishers["detections"].publish(detections_message(percepts, header, self._parts, class_ids))
        if percepts.mask is not None and self._has_subscriber("mask"):
            self._publishers["mask"].publish(image_message(percepts.mask, "mono8", header))

    def publish_annotations(self, percepts: PerceptionResult, header: Header) -> bool:
        """Publish what draws the detections; returns False if it has no subscriber."""
        if not self._has_subscriber("annotations"):
            return False
        self._publishers["annotations"].publish(annotations_message(percepts, self._info, header.stamp))
        return True

    def publish_ir_detections(
        self,
        percepts: PerceptionResult,
        infrared: np.ndarray,
        registration: Registration | None,
        header: Header,
        class_ids: Sequence[str] = (),
    ) -> bool:
        """Publish the detections in pixels of the IR frame.

        Args:
            percepts: a result that the IR frame was used for.
            infrared: IR frame [H, W].
            registration: IR frame to RGB image, by which the two were fused.
            header: the IR frame's, copied into the message.
            class_ids: see `detection_fields`.

        Returns:
            Whether they were published; False if the topic has no subscriber.
        """
        if not self._has_subscriber("ir_detections"):
            return False
        in_ir = in_infrared_pixels(percepts, registration, (infrared.shape[1], infrared.shape[0]))
        self._publishers["ir_detections"].publish(detections_message(in_ir, header, self._ir_parts, class_ids))
        return True

    def publish_temperatures(
        self, percepts: PerceptionResult, header: Header, ir_stamp: Time, class_ids: Sequence[str] = ()
    ) -> None:
        """Publish the temperatures of the detections, if there are any and they have a subscriber."""
        if percepts.temperatures is not None and self._has_subscriber("temperatures"):
            self._publishers["temperatures"].publish(temperatures_message(percepts, header, ir_stamp, class_ids))

    def publish_overlay(
        self,
        percepts: PerceptionResult,
        rgb: np.ndarray | None,
        infrared: np.ndarray | None,
        registration: Registration | None,
        header: Header,
    ) -> bool:
        """Publish boxes and mask drawn on the RGB image, or on the IR frame without one, raw and as JPEG.

        Args:
            percepts: the result to draw.
            rgb: RGB image uint8 [H, W, 3].
            infrared: IR frame [H, W] of raw counts.
            registration: IR frame to RGB image, for a result of the IR frame alone in RGB pixels.
            header: copied into the message.

        Returns:
            Whether the overlay was drawn; False if it has no subscriber or both images are missing.
        """
        raw, compressed = self._has_subscriber("overlay"), self._has_subscriber("overlay_compressed")
        if not raw and not compressed:
            return False
        canvas = rgb if rgb is not None else None if infrared is None else infrared_to_grey(infrared)
        if canvas is None:
            return False
        if percepts.registered and registration is not None:
            canvas = infrared_in_colour_pixels(canvas, registration, percepts.size)
        drawn = draw_overlay(canvas, percepts, self._info)
        if raw:
            self._publishers["overlay"].publish(image_message(drawn, "rgb8", header))
        if compressed:
            self._publishers["overlay_compressed"].publish(compressed_message(jpeg_of(drawn), header))
        return True

    def publish_registration(
        self, rgb: np.ndarray, infrared: np.ndarray, registration: Registration | None, header: Header
    ) -> bool:
        """Publish a checkerboard of both images; returns False if it has no subscriber."""
        if not self._has_subscriber("registration"):
            return False
        self._publishers["registration"].publish(
            image_message(checkerboard(rgb, infrared, registration), "rgb8", header)
        )
        return True

    def publish_report(self, percepts: PerceptionResult, facts: Facts, header: Header) -> None:
        """Publish the frame report of one result."""
        self._publishers["frame_report"].publish(report_message(percepts, facts, self._info, header))
