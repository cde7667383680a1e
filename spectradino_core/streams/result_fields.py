"""Fields of result messages, for the node (ROS types) and for bags (types of their own)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spectradino_core.drawing import box_colour
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.overlay import caption
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_core.text import printable

MODE_CODES = {Mode.FUSED: 0, Mode.RGB_ONLY: 1, Mode.IR_ONLY: 2, Mode.STALE: 3}
"""The constants MODE_* of spectradino_msgs/FrameReport."""

DISABLED = "disabled"
"""Mode while the parameter `enabled` is false."""

_CAMERA_MODES = {mode.value: code for mode, code in MODE_CODES.items()} | {DISABLED: 4}
"""The constants MODE_* of spectradino_msgs/CameraMode by the words of ~/mode."""


_LINE_LOOP = 2
"""The constant of foxglove_msgs/PointsAnnotation."""

Make = Callable[..., Any]
"""Creates a message of a type such as "vision_msgs/msg/LabelInfo" from its fields."""


@dataclass(frozen=True)
class DetectionFields:
    """A detection as in vision_msgs/Detection2D: class id, score, centre and size in source pixels, identity or ""."""

    class_id: str
    score: float
    x: float
    y: float
    width: float
    height: float
    track_id: str = ""


def detection_fields(perception: PerceptionResult, class_ids: Sequence[str] = ()) -> Iterator[DetectionFields]:
    """Yield the detections, highest score first; without `class_ids` by label the id is the index in LabelInfo."""
    track_ids = perception.track_ids or ("",) * len(perception)
    for box, score, label, track_id in zip(
        perception.boxes, perception.scores, perception.labels, track_ids, strict=True
    ):
        x1, y1, x2, y2 = (float(v) for v in box)
        class_id = class_ids[int(label)] if class_ids else str(int(label))
        yield DetectionFields(class_id, float(score), (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, track_id)


@dataclass(frozen=True)
class Facts:
    """Content of a frame report in addition to the detections.

    Attributes:
        rgb_stamp, ir_stamp: header stamps of the frames used (builtin_interfaces/Time); None without frame.
        ir_offset_ms: signed offset of the infrared frame in the pair; NaN if a frame is missing.
        ir_reused: whether the infrared frame was in an earlier result.
        latency_ms: from the header stamp to just before publishing, on the node's clock.
        steps_ms: milliseconds by step, in order.
        drops: frames dropped since activation, by cause.
        deadline_ms: latency budget; 0: none.
    """

    rgb_stamp: Any
    ir_stamp: Any
    ir_offset_ms: float
    ir_reused: bool
    latency_ms: float
    steps_ms: Mapping[str, float]
    drops: Mapping[str, int]
    deadline_ms: float

    @property
    def deadline_met(self) -> bool:
        return self.deadline_ms <= 0 or self.latency_ms <= self.deadline_ms


def label_message(make: Make, names: Sequence[str], header: Any, threshold: float) -> Any:
    """Create a vision_msgs/LabelInfo: class names by id, and the minimum score in use."""
    classes = [make("vision_msgs/msg/VisionClass", class_id=i, class_name=name) for i, name in enumerate(names)]
    return make("vision_msgs/msg/LabelInfo", header=header, class_map=classes, threshold=float(threshold))


def camera_mode_message(make: Make, mode: str, header: Any) -> Any:
    """Create a spectradino_msgs/CameraMode of a mode as ~/mode has it: a value of `Mode`, or `DISABLED`."""
    return make("spectradino_msgs/msg/CameraMode", header=header, mode=_CAMERA_MODES[mode])


def vision_info_message(make: Make, info: ModelInfo, header: Any, label_topic: str) -> Any:
    """Create a vision_msgs/VisionInfo: the model, and the topic with its class names.

    Models have no version numbers, so the checksum of the weights distinguishes models of the same name.
    """
    weights = printable(str(info.provenance.get("weights_sha256", ""))[:8])
    method = f"{info.name} (weights_sha256 {weights})" if weights else info.name
    return make(
        "vision_msgs/msg/VisionInfo", header=header, method=method, database_location=label_topic, database_version=0
    )


def temperatures_message(
    make: Make, perception: PerceptionResult, header: Any, ir_stamp: Any, class_ids: Sequence[str] = ()
) -> Any:
    """Create a spectradino_msgs/DetectionTemperatures of a result with temperatures; class ids: `detection_fields`."""
    assert perception.temperatures is not None
    found = zip(detection_fields(perception, class_ids), perception.temperatures.tolist(), strict=True)
    one = "spectradino_msgs/msg/DetectionTemperature"
    detections = [make(one, class_id=d.class_id, minimum=t[0], mean=t[1], maximum=t[2]) for d, t in found]
    return make("spectradino_msgs/msg/DetectionTemperatures", header=header, ir_stamp=ir_stamp, detections=detections)


def annotations_message(make: Make, perception: PerceptionResult, info: ModelInfo, stamp: Any) -> Any:
    """Create a foxglove_msgs/ImageAnnotations of a result: an outline and a caption per detection.

    `stamp` (builtin_interfaces/Time) is that of the image that they are drawn on, by which Foxglove finds it.
    """

    def colour(rgb: Sequence[int], opacity: float = 1.0) -> Any:
        red, green, blue = (value / 255 for value in rgb)
        return make("foxglove_msgs/msg/Color", r=red, g=green, b=blue, a=opacity)

    def point(x: float, y: float) -> Any:
        return make("foxglove_msgs/msg/Point2", x=x, y=y)

    font_size = max(12.0, min(perception.size) / 40)
    points, texts = [], []
    for number, (box, label) in enumerate(zip(perception.boxes, perception.labels, strict=True)):
        x1, y1, x2, y2 = (float(v) for v in box)
        rgb = box_colour(label)
        points.append(
            make(
                "foxglove_msgs/msg/PointsAnnotation",
                timestamp=stamp,
                type=_LINE_LOOP,
                points=[point(x1, y1), point(x2, y1), point(x2, y2), point(x1, y2)],
                outline_color=colour(rgb),
                outline_colors=[],
                fill_color=colour(rgb, 0.0),
                thickness=2.0,
            )
        )
        texts.append(
            make(
                "foxglove_msgs/msg/TextAnnotation",
                timestamp=stamp,
                position=point(x1, max(y1, font_size)),
                text=caption(perception, number, info),
                font_size=font_size,
                text_color=colour((0, 0, 0)),
                background_color=colour(rgb),
            )
        )
    return make("foxglove_msgs/msg/ImageAnnotations", circles=[], points=points, texts=texts)


def report_message(make: Make, perception: PerceptionResult, facts: Facts, info: ModelInfo, header: Any) -> Any:
    """Create a spectradino_msgs/FrameReport: how one result was made."""
    step, drop = "spectradino_msgs/msg/StepTime", "spectradino_msgs/msg/DropCount"
    unset = make("builtin_interfaces/msg/Time", sec=0, nanosec=0)
    return make(
        "spectradino_msgs/msg/FrameReport",
        header=header,
        rgb_stamp=facts.rgb_stamp or unset,
        ir_stamp=facts.ir_stamp or unset,
        ir_offset_ms=float(facts.ir_offset_ms),
        ir_reused=facts.ir_reused,
        mode=MODE_CODES[perception.mode],
        detections=len(perception),
        latency_ms=float(facts.latency_ms),
        steps=[make(step, name=name, milliseconds=float(ms)) for name, ms in facts.steps_ms.items()],
        drops=[make(drop, cause=cause, count=int(count)) for cause, count in sorted(facts.drops.items())],
        deadline_met=facts.deadline_met,
        deadline_ms=float(facts.deadline_ms),
        model=info.name,
    )
