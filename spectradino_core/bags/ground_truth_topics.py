"""Ground truth from topics of the bag itself: boxes of a Detection2DArray, masks of an Image.

A message's header stamp is that of the labelled RGB frame. A detection's class is that of its best hypothesis: a class
name of the model, or a number as nodes publish it, which is named by a LabelInfo topic beside it (`label_info` in place
of the topic's last name), else by the model's class list. A detection with the id "ignore" or "crowd" is a region to
ignore; other ids are identities, by which tracks are scored. Masks are mono8; their values are named by `mask_classes`,
else by the LabelInfo beside the mask, else by the model; 255 is unlabelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spectradino_core.bags.ground_truth import GroundTruth, GroundTruthError, TrueFrame, in_seconds, mask_table
from spectradino_core.bags.reader import BagReader
from spectradino_core.data.labels import UNLABELLED, ClassNames
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.streams.decode import DecodeError, decode_infrared

__all__ = ["IGNORED", "MADE_BOXES", "MADE_MASKS", "read_topics"]

MADE_BOXES, MADE_MASKS = "/ground_truth/detections", "/ground_truth/segmentation/mask"
"""Topics to which `spectradino bag make` writes ground truth; used by default."""

_BOXES = "vision_msgs/msg/Detection2DArray"
_MASKS = ("sensor_msgs/msg/Image",)
_LABELS = "vision_msgs/msg/LabelInfo"
IGNORED = "ignore"
"""Id of a detection that marks a region to ignore."""
_IGNORED = {IGNORED, "crowd"}


def read_topics(
    bag: str | Path,
    info: ModelInfo,
    topic: str | None = None,
    mask_topic: str | None = None,
    mask_classes: Sequence[str] = (),
) -> GroundTruth:
    """Read the labelled frames from topics of a bag.

    Args:
        bag: the bag.
        info: the model, whose classes the names are matched to.
        topic: a Detection2DArray topic; None: no boxes.
        mask_topic: an Image topic; None: no masks.
        mask_classes: names of the mask values.

    Raises:
        BagError: the bag or one of the messages cannot be read.
        GroundTruthError: the topic is missing or of another type, or a message is invalid.
    """
    if mask_topic and not info.mask_classes:
        raise GroundTruthError(f"{mask_topic} contains masks, but model {info.name} outputs none")
    with BagReader(bag, cameras=False) as reader:
        topics = [_there(reader, topic, (_BOXES,))] if topic else []
        topics += [_there(reader, mask_topic, _MASKS)] if mask_topic else []
        named = _label_infos(reader, {_beside(name) for name in topics})
        boxes = _Boxes(topic or "", info, named.get(_beside(topic or ""), {}))
        masks = _Masks(mask_topic or "", info, mask_classes, named.get(_beside(mask_topic or ""), {}))
        for found in reader.messages(topics):
            (boxes if found.topic == topic else masks).add(found.message)
    frames = []
    for stamp in sorted({*boxes.found, *masks.found}):
        corners, labelled, crowd = boxes.found.get(stamp, (None, None, None))
        tracks = boxes.tracks.get(stamp)
        frames.append(TrueFrame(stamp, corners, labelled, crowd, masks.found.get(stamp), tracks=tracks))
    if not frames:
        raise GroundTruthError(f"{' and '.join(topics)}: no messages, so there is no ground truth")
    source = " and ".join(topics)
    unknown = boxes.names.unknown + masks.names.unknown
    return GroundTruth(frames, source, boxes.known, masks.known, unknown, boxes.crowd)


class _Boxes:
    """Boxes of Detection2DArray messages, by stamp."""

    def __init__(self, topic: str, info: ModelInfo, named: dict[int, str]) -> None:
        self._topic, self._named, self._info = topic, named, info
        self.names = ClassNames(info.box_classes)
        self.found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self.tracks: dict[int, tuple[str, ...] | None] = {}
        self.crowd = 0
        self._seen: set[str] = set(named.values())

    @property
    def known(self) -> tuple[str, ...]:
        return self.names.known(self._seen)

    def add(self, message: Any) -> None:
        stamp = _stamp_ns(message)
        if stamp in self.found:
            raise GroundTruthError(f"{self._topic}: two messages have the stamp {in_seconds(stamp)}")
        corners, labels, tracks = [], [], []
        for detection in message.detections:
            name = self._name(detection, stamp)
            self._seen.add(name)
            label = self.names(name)
            if label is None:
                continue
            corners.append(self._corners(detection, stamp))
            labels.append(label)
            tracks.append(str(getattr(detection, "id", "")))
        crowd = [name.casefold() in _IGNORED for name in tracks]
        self.tracks[stamp] = tuple(tracks) if all(tracks) else None
        self.crowd += sum(crowd)
        self.found[stamp] = (
            np.array(corners, np.float64).reshape(-1, 4),
            np.array(labels, np.int64),
            np.array(crowd, bool),
        )

    def _name(self, detection: Any, stamp: int) -> str:
        if not len(detection.results):
            raise GroundTruthError(f"{self._topic} at {in_seconds(stamp)}: a detection has no hypothesis, so no class")
        best = max(detection.results, key=lambda result: result.hypothesis.score)
        text = str(best.hypothesis.class_id)
        if self.names.find(text) is not None or not text.isdecimal():
            return text
        if self._named:
            return self._named.get(int(text), text)
        return self._info.box_classes[int(text)] if int(text) < len(self._info.box_classes) else text

    def _corners(self, detection: Any, stamp: int) -> list[float]:
        box = detection.bbox
        centre = getattr(box.center, "position", box.center)  # vision_msgs 3 has x and y in `center` itself
        x, y, width, height = float(centre.x), float(centre.y), float(box.size_x), float(box.size_y)
        if not (np.isfinite([x, y, width, height]).all() and width > 0 and height > 0):
            raise GroundTruthError(
                f"{self._topic} at {in_seconds(stamp)}: a box is empty or not finite: centre {x:g} {y:g}, size "
                f"{width:g} {height:g}"
            )
        return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


class _Masks:
    """Masks of Image messages, by stamp; kept as PNG, a hundredth of their size."""

    def __init__(self, topic: str, info: ModelInfo, given: Sequence[str], named: dict[int, str]) -> None:
        self._topic = topic
        self.names = ClassNames(info.mask_classes)
        stored = list(given) or [named.get(v, str(v)) for v in range(max(named, default=-1) + 1)]
        self._stored = stored = stored or list(info.mask_classes)
        self._table = mask_table(stored, self.names) if topic else np.zeros(256, np.uint8)
        self.known = self.names.known(stored) if topic else ()
        self.found: dict[int, Callable[[], np.ndarray]] = {}

    def add(self, message: Any) -> None:
        stamp = _stamp_ns(message)
        try:
            mask = decode_infrared(message)
        except DecodeError as error:
            raise GroundTruthError(f"{self._topic} at {in_seconds(stamp)}: {error}") from None
        if mask.dtype != np.uint8:
            raise GroundTruthError(
                f"{self._topic} at {in_seconds(stamp)}: a mask must be mono8, got {message.encoding}"
            )
        over = mask[(mask >= len(self._stored)) & (mask != UNLABELLED)]
        if over.size:
            raise GroundTruthError(
                f"{self._topic} at {in_seconds(stamp)}: the mask has the value {int(over[0])}, but only "
                f"{len(self._stored)} classes are named ({', '.join(self._stored)}): give --label-mask-classes"
            )
        if stamp in self.found:
            raise GroundTruthError(f"{self._topic}: two messages have the stamp {in_seconds(stamp)}")
        self.found[stamp] = partial(_decompressed, cv2.imencode(".png", self._table[mask])[1])


def _decompressed(data: np.ndarray) -> np.ndarray:
    mask = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert mask is not None  # encoded above
    return mask


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _beside(topic: str) -> str:
    """Return the topic with the names of a topic's class numbers."""
    return f"{topic.rpartition('/')[0]}/label_info"


def _label_infos(reader: BagReader, topics: set[str]) -> dict[str, dict[int, str]]:
    """Read class names by number, by LabelInfo topic; the last message counts."""
    there = sorted(name for name in topics if name in reader.topics and reader.topics[name].kind == _LABELS)
    named = {}
    for found in reader.messages(there) if there else ():
        named[found.topic] = {int(entry.class_id): str(entry.class_name) for entry in found.message.class_map}
    return named


def _there(reader: BagReader, topic: str, kinds: Sequence[str]) -> str:
    if topic not in reader.topics:
        there = ", ".join(name for name, found in reader.topics.items() if found.kind in kinds) or "none"
        raise GroundTruthError(f"{reader.path} has no topic {topic}; topics of type {' or '.join(kinds)}: {there}")
    kind = reader.topics[topic].kind
    if kind not in kinds:
        raise GroundTruthError(f"{reader.path}: topic {topic} is of type {kind}, it must be {' or '.join(kinds)}")
    return topic
