"""The node's output topics, from configuration to clean-up."""

from __future__ import annotations

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from spectradino_msgs.msg import FrameReport
from std_msgs.msg import Header, String
from vision_msgs.msg import Detection2D, Detection2DArray, LabelInfo

from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.overlay import draw_overlay, infrared_to_grey
from spectradino_core.runtime.percepts import Mode, Percepts
from spectradino_core.runtime.registration import Registration
from spectradino_core.runtime.rgb_grid import infrared_in_colour_pixels
from spectradino_core.streams.checkerboard import checkerboard
from spectradino_ros.publishing import Facts, detections_message, image_message, label_message, report_message

__all__ = ["Outputs"]

_RESULTS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class Outputs:
    """Publishers of one model's answers. Images are made only while someone subscribes to them."""

    def __init__(self, node: LifecycleNode, info: ModelInfo) -> None:
        """
        Args:
            node: whose topics they are; its transitions enable and disable them.
            info: the model's names and colours; a model without mask classes has no mask topics.
        """
        self._node = node
        self._info = info
        self._parts: list[Detection2D] = []
        self._detections = node.create_lifecycle_publisher(Detection2DArray, "~/detections", _RESULTS)
        self._labels = node.create_lifecycle_publisher(LabelInfo, "~/label_info", _LATCHED)
        self._report = node.create_lifecycle_publisher(FrameReport, "~/frame_report", _RESULTS)
        self._overlay = node.create_lifecycle_publisher(Image, "~/segmentation/overlay", _RESULTS)
        self._mode = node.create_lifecycle_publisher(String, "~/mode", _LATCHED)
        self._registration = node.create_lifecycle_publisher(Image, "~/debug/registration", _RESULTS)
        self._mask = self._mask_labels = None
        if info.mask_classes:
            self._mask = node.create_lifecycle_publisher(Image, "~/segmentation/mask", _RESULTS)
            self._mask_labels = node.create_lifecycle_publisher(LabelInfo, "~/segmentation/label_info", _LATCHED)

    def destroy(self) -> None:
        """Takes the topics away."""
        always = (self._detections, self._labels, self._report, self._overlay, self._mode, self._registration)
        for publisher in (*always, self._mask, self._mask_labels):
            if publisher is not None:
                self._node.destroy_lifecycle_publisher(publisher)

    @property
    def listened(self) -> bool:
        """Whether someone subscribes to what is made from frames."""
        of_frames = (self._detections, self._report, self._overlay, self._mask, self._registration)
        return any(publisher is not None and publisher.get_subscription_count() for publisher in of_frames)

    def publish_labels(self, score_threshold: float) -> None:
        """Names of the classes, for those who listen now and those who come later."""
        header = Header(stamp=self._node.get_clock().now().to_msg())
        self._labels.publish(label_message(self._info.box_classes, header, score_threshold))
        if self._mask_labels is not None:
            self._mask_labels.publish(label_message(self._info.mask_classes, header, 0.0))

    def publish_mode(self, mode: Mode) -> None:
        """Which cameras are alive and may answer, for those who listen now and those who come later."""
        self._mode.publish(String(data=mode.value))

    def publish_percepts(self, percepts: Percepts, header: Header) -> None:
        """Detections, empty ones too, and the mask."""
        self._detections.publish(detections_message(percepts, header, self._parts))
        if self._mask is not None and percepts.mask is not None and self._mask.get_subscription_count():
            self._mask.publish(image_message(percepts.mask, "mono8", header))

    def publish_overlay(
        self,
        percepts: Percepts,
        rgb: np.ndarray | None,
        infrared: np.ndarray | None,
        registration: Registration | None,
        header: Header,
    ) -> bool:
        """The picture to look at. Returns whether it was drawn: not while nobody listens."""
        if not self._overlay.get_subscription_count():
            return False
        canvas = rgb if rgb is not None else None if infrared is None else infrared_to_grey(infrared)
        if canvas is None:
            return False
        if percepts.registered and registration is not None:
            canvas = infrared_in_colour_pixels(canvas, registration, percepts.size)
        self._overlay.publish(image_message(draw_overlay(canvas, percepts, self._info), "rgb8", header))
        return True

    def publish_registration(
        self, rgb: np.ndarray, infrared: np.ndarray, registration: Registration | None, header: Header
    ) -> bool:
        """Tiles of both bands to judge the registration by. Returns whether it was drawn: not while nobody listens."""
        if not self._registration.get_subscription_count():
            return False
        self._registration.publish(image_message(checkerboard(rgb, infrared, registration), "rgb8", header))
        return True

    def publish_report(self, percepts: Percepts, facts: Facts, header: Header) -> None:
        """How this answer came about."""
        self._report.publish(report_message(percepts, facts, self._info, header))
