"""Message definitions missing from rosbags: vision_msgs 4 and this project's own.

A bag usually contains the definitions of its types; these are for writing, and for old bags without definitions. A test
compares them with the interface packages (`msg/`): same name, same fields, same hash.
"""

from __future__ import annotations

__all__ = ["DEFINITIONS"]

DEFINITIONS = {
    "vision_msgs/msg/Point2D": "float64 x\nfloat64 y\n",
    "vision_msgs/msg/Pose2D": "Point2D position\nfloat64 theta\n",
    "vision_msgs/msg/BoundingBox2D": "Pose2D center\nfloat64 size_x\nfloat64 size_y\n",
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score\n",
    "vision_msgs/msg/ObjectHypothesisWithPose": "ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n",
    "vision_msgs/msg/Detection2D": (
        "std_msgs/Header header\nObjectHypothesisWithPose[] results\nBoundingBox2D bbox\nstring id\n"
    ),
    "vision_msgs/msg/Detection2DArray": "std_msgs/Header header\nDetection2D[] detections\n",
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    "vision_msgs/msg/LabelInfo": "std_msgs/Header header\nVisionClass[] class_map\nfloat32 threshold\n",
    "spectradino_msgs/msg/StepTime": "string name\nfloat64 milliseconds\n",
    "spectradino_msgs/msg/DropCount": "string cause\nuint64 count\n",
    "spectradino_msgs/msg/FrameReport": (
        "uint8 MODE_FUSED=0\nuint8 MODE_RGB_ONLY=1\nuint8 MODE_IR_ONLY=2\nuint8 MODE_STALE=3\n"
        "std_msgs/Header header\nbuiltin_interfaces/Time rgb_stamp\nbuiltin_interfaces/Time ir_stamp\n"
        "float64 ir_offset_ms\nbool ir_reused\n"
        "uint8 mode\nuint32 detections\nfloat64 latency_ms\nStepTime[] steps\nDropCount[] drops\n"
        "bool deadline_met\nfloat64 deadline_ms\nstring model\n"
    ),
}
"""Fields and constants by type name."""
