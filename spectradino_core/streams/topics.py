"""Topics of the node, declared once: names, types, latching and what they carry.

Publishers and subscriptions of `spectradino_ros`, the bags of `spectradino bag run` and the tables in `docs/node.md`
(`make reference`) derive from these rows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One topic.

    Attributes:
        name: before remapping; `~/` stands for the node's own name.
        kind: message type, as `package/msg/Name`.
        description: for the documentation, in Markdown.
        latched: whether late subscribers get the newest message (transient local durability).
        recorded: whether `spectradino bag run` writes it.
    """

    name: str
    kind: str
    description: str
    latched: bool = False
    recorded: bool = True


IMAGES = {"rgb": "rgb/image_raw", "ir": "ir/image_raw"}
"""Topics of raw images before remapping, by camera."""

CAMERA_INFO = {"rgb": "rgb/camera_info", "ir": "ir/camera_info"}
"""Topics of the cameras' calibrations before remapping, by camera."""

TF_STATIC = "/tf_static"
"""Topic of the transforms between fixed frames, as tf2 names it."""

_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"

INPUTS = (
    Topic(
        IMAGES["rgb"],
        _IMAGE,
        "`rgb8`, `bgr8`, `rgba8`, `bgra8`, `mono8`, `8UC3`, the same with 16 bits per channel, `bayer_*8`, "
        "`bayer_*16`, `yuv422` (UYVY), `yuv422_yuy2` (YUYV), `nv12`, `nv21`, `nv24`; either endianness, any `step`",
    ),
    Topic(
        IMAGES["ir"],
        _IMAGE,
        "`mono8`, `mono16`, `16UC1`, `16SC1` (raised by 32768), `32FC1` (kelvin or Celsius, converted to counts of "
        "0.01 K; NaN to 0), grey images in RGB encodings; either endianness, any `step`",
    ),
    *(
        Topic(
            f"{name}/compressed",
            _COMPRESSED,
            f"instead of the raw topic with `{camera}_transport: compressed`: JPEG (also Motion JPEG) or PNG, 16-bit "
            "images as PNG or TIFF; a Bayer mosaic that `format` names is converted",
        )
        for camera, name in IMAGES.items()
    ),
    *(
        Topic(f"{name}/zstd", _COMPRESSED, f"likewise with `{camera}_transport: zstd` (zstd_image_transport)")
        for camera, name in IMAGES.items()
    ),
    *(
        Topic(name, "sensor_msgs/msg/CameraInfo", "only with `registration_from_camera_info`")
        for name in CAMERA_INFO.values()
    ),
    Topic(TF_STATIC, "tf2_msgs/msg/TFMessage", "only with `extrinsics_from_tf`"),
)
"""What the node subscribes to."""

OUTPUTS = {
    "detections": Topic(
        "~/detections",
        "vision_msgs/msg/Detection2DArray",
        "boxes in pixels of the RGB image, highest score first; class ids as `class_id_as` says, `id` with `tracking`; "
        "empty arrays are published too",
    ),
    "ir_detections": Topic(
        "~/ir/detections",
        "vision_msgs/msg/Detection2DArray",
        "the same detections in pixels of the infrared image, with the header of the infrared frame, for each result "
        "that an infrared frame was used for; only while it has a subscriber",
    ),
    "temperatures": Topic(
        "~/temperatures",
        "spectradino_msgs/msg/DetectionTemperatures",
        "minimum, mean and maximum temperature inside each box of `~/detections`, for each result that a 16-bit "
        "infrared frame was used for; only with `ir_kelvin_per_count` and while it has a subscriber",
    ),
    "frame_report": Topic(
        "~/frame_report",
        "spectradino_msgs/msg/FrameReport",
        "both stamps and their difference, whether the infrared frame was reused, mode, "
        "time per step, drops by cause, deadline",
    ),
    "mode": Topic(
        "~/mode",
        "std_msgs/msg/String",
        "`fused`, `rgb_only`, `ir_only` or `stale`; `disabled` while the parameter `enabled` is false",
        latched=True,
    ),
    "camera_mode": Topic(
        "~/camera_mode", "spectradino_msgs/msg/CameraMode", "the mode as a number, with a stamp", latched=True
    ),
    "vision_info": Topic(
        "~/vision_info",
        "vision_msgs/msg/VisionInfo",
        "`method`: name and weights of the model; `database_location`: the topic with the class names",
        latched=True,
    ),
    "label_info": Topic("~/label_info", "vision_msgs/msg/LabelInfo", "class names by id", latched=True),
    "mask": Topic(
        "~/segmentation/mask",
        _IMAGE,
        "`mono8`, one class per pixel of the RGB image, 255: unlabelled; only while it has a subscriber",
    ),
    "mask_label_info": Topic(
        "~/segmentation/label_info", "vision_msgs/msg/LabelInfo", "class names of the mask", latched=True
    ),
    "overlay": Topic(
        "~/segmentation/overlay", _IMAGE, "`rgb8`, boxes and mask drawn on the image; only while it has a subscriber"
    ),
    "overlay_compressed": Topic(
        "~/segmentation/overlay/compressed",
        _COMPRESSED,
        "the same as JPEG, for viewers beyond a slow network; only while it has a subscriber",
        recorded=False,
    ),
    "annotations": Topic(
        "~/annotations",
        "foxglove_msgs/msg/ImageAnnotations",
        "boxes, class names and scores, drawn by Foxglove's Image panel on the camera's own images; only where the "
        "package `foxglove_msgs` is installed, and while it has a subscriber",
    ),
    "registration": Topic(
        "~/debug/registration",
        _IMAGE,
        "`rgb8`, a checkerboard of both images to check their registration; only while it has a subscriber",
        recorded=False,
    ),
    "diagnostics": Topic(
        "/diagnostics",
        "diagnostic_msgs/msg/DiagnosticArray",
        "rates, ages, offset, drops, latency percentiles, model, engine; once a second",
        recorded=False,
    ),
}
"""What the node publishes, by key; a model without mask classes has no mask topics."""
