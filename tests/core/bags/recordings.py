"""Small recordings with known ground truth: a red and a hot square that move across both cameras' images.

The blob model (`tests/blob_model.py`) detects exactly these squares, so the expected scores are known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from spectradino_core.bags.messages import writing_types

__all__ = ["START_NS", "SIZE", "Recording"]

START_NS = 1_700_000_000_000_000_000
SIZE = (168, 112)
"""(width, height) of both cameras; the blob model's input is given the same shape, so that boxes come back exactly."""

_MS = 1_000_000
_SIDE = 24


class Recording:
    """Recording of pairs at 10 Hz, written by `write`.

    Attributes:
        stamps: stamps of the RGB frames.
        rgb, ir: recorded frames by stamp; delete some to lose them.
        boxes: by stamp, (class name, x1, y1, x2, y2).
    """

    def __init__(self, frames: int = 20, start_ns: int = START_NS, ir_late_ms: float = 0.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.stamps = [start_ns + n * 100 * _MS for n in range(frames)]
        self.ir_late_ns = round(ir_late_ms * _MS)
        self.rgb: dict[int, np.ndarray] = {}
        self.ir: dict[int, np.ndarray] = {}
        self.boxes: dict[int, list[tuple[str, int, int, int, int]]] = {}
        self.masks: dict[int, np.ndarray] = {}
        for n, stamp in enumerate(self.stamps):
            red, hot = (8 + 3 * n % 100, 10), (120 - 2 * n % 90, 60)
            rgb = np.full((SIZE[1], SIZE[0], 3), 60, np.uint8)
            ir = rng.integers(0, 40, (SIZE[1], SIZE[0]), dtype=np.uint8)
            mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
            for (x, y), image, value, level in ((red, rgb, (255, 0, 0), 1), (hot, ir, 255, 2)):
                image[y : y + _SIDE, x : x + _SIDE] = value
                mask[y : y + _SIDE, x : x + _SIDE] = level
            self.rgb[stamp], self.ir[stamp + self.ir_late_ns], self.masks[stamp] = rgb, ir, mask
            self.boxes[stamp] = [(name, x, y, x + _SIDE, y + _SIDE) for name, (x, y) in (("red", red), ("hot", hot))]

    def write(
        self,
        path: Path,
        storage: str = "mcap",
        truth_topic: str | None = None,
        mask_topic: str | None = None,
        rgb_topic: str = "/rgb/image_raw",
    ) -> Path:
        """Write the bag; `storage` is "mcap" or "sqlite3"."""
        types = writing_types()
        path.parent.mkdir(parents=True, exist_ok=True)
        with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:

            def put(topic: str, kind: str, messages: Iterable[tuple[int, Any]]) -> list[tuple[int, Any, bytes]]:
                connection = writer.add_connection(topic, kind, typestore=types)
                return [(stamp, connection, bytes(types.serialize_cdr(m, kind))) for stamp, m in messages]

            rows = put(rgb_topic, "sensor_msgs/msg/Image", ((s, _image(s, p, "rgb8")) for s, p in self.rgb.items()))
            rows += put(
                "/ir/image_raw",
                "sensor_msgs/msg/Image",
                ((s, _image(s, p, f"mono{8 * p.itemsize}")) for s, p in self.ir.items()),
            )
            if truth_topic:
                boxes = ((s, _detections(s, b)) for s, b in self.boxes.items())
                rows += put(truth_topic, "vision_msgs/msg/Detection2DArray", boxes)
            if mask_topic:
                masks = ((s, _image(s, m, "mono8")) for s, m in self.masks.items())
                rows += put(mask_topic, "sensor_msgs/msg/Image", masks)
            for stamp, connection, data in sorted(rows, key=lambda row: (row[0], row[1].topic)):
                writer.write(connection, stamp + 5 * _MS, data)
        return path

    def labels(self, path: Path, change: Callable[[dict[str, Any]], None] | None = None, shift_ns: int = 0) -> Path:
        """Write the ground truth as COCO JSON, after `change`."""
        classes = ["hot", "red"]
        images = [
            {"id": n, "stamp_ns": stamp + shift_ns, "file_name": f"{n}.png", "width": SIZE[0], "height": SIZE[1]}
            for n, stamp in enumerate(self.stamps)
        ]
        annotations = [
            {"image_id": n, "category_id": classes.index(name), "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
            for n, stamp in enumerate(self.stamps)
            for name, x1, y1, x2, y2 in self.boxes[stamp]
        ]
        for number, annotation in enumerate(annotations):
            annotation["id"] = number
        categories = [{"id": n, "name": name} for n, name in enumerate(classes)]
        data = {"images": images, "annotations": annotations, "categories": categories}
        if change is not None:
            change(data)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data))
        return path


def _header(stamp_ns: int) -> Any:
    types = writing_types().types
    time = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)
    return types["std_msgs/msg/Header"](stamp=time, frame_id="camera")


def _image(stamp_ns: int, pixels: np.ndarray, encoding: str) -> Any:
    kind = writing_types().types["sensor_msgs/msg/Image"]
    step = pixels.shape[1] * pixels.dtype.itemsize * (pixels.shape[2] if pixels.ndim == 3 else 1)
    return kind(
        header=_header(stamp_ns),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=np.frombuffer(pixels.tobytes(), np.uint8),
    )


def _detections(stamp_ns: int, boxes: Iterable[tuple[str, int, int, int, int]]) -> Any:
    types = writing_types().types
    found = []
    for name, x1, y1, x2, y2 in boxes:
        pose = types["geometry_msgs/msg/PoseWithCovariance"](
            pose=types["geometry_msgs/msg/Pose"](
                position=types["geometry_msgs/msg/Point"](x=0.0, y=0.0, z=0.0),
                orientation=types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0),
            ),
            covariance=np.zeros(36),
        )
        hypothesis = types["vision_msgs/msg/ObjectHypothesis"](class_id=name, score=1.0)
        centre = types["vision_msgs/msg/Pose2D"](
            position=types["vision_msgs/msg/Point2D"](x=(x1 + x2) / 2, y=(y1 + y2) / 2), theta=0.0
        )
        found.append(
            types["vision_msgs/msg/Detection2D"](
                header=_header(stamp_ns),
                results=[types["vision_msgs/msg/ObjectHypothesisWithPose"](hypothesis=hypothesis, pose=pose)],
                bbox=types["vision_msgs/msg/BoundingBox2D"](
                    center=centre, size_x=float(x2 - x1), size_y=float(y2 - y1)
                ),
                id=name,
            )
        )
    return types["vision_msgs/msg/Detection2DArray"](header=_header(stamp_ns), detections=found)
