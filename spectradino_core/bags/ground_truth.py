"""Ground truth of a recording: true boxes and masks by the stamps of the RGB frames, also read from topics of the bag.

A labelled frame is identified by the header stamp of its RGB frame, and its boxes are in that frame's pixels. Stamps
are matched within a millisecond by default, since tools store them as floating-point seconds, microseconds or
milliseconds; half a period of the fastest usual camera is far above that.

Topics hold boxes as Detection2DArray and masks as Image, with the header stamp of the labelled RGB frame. A detection's
class is that of its best hypothesis: a class name of the model, or a number as nodes publish it, which is named by a
LabelInfo topic beside it (`label_info` in place of the topic's last name), else by the model's class list. A detection
with the id "ignore" or "crowd" is a region to ignore; other ids are identities, by which tracks are scored. Masks are
mono8; their values are named by `mask_classes`, else by the LabelInfo beside the mask, else by the model; 255 is
unlabelled. Labels in a file: `ground_truth_coco.py`.

Letters: h x w the RGB image, N true boxes as x1 y1 x2 y2.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spectradino_core.bags.reader import BagMessage, BagReader
from spectradino_core.bags.topics import DETECTIONS, IMAGE, LABEL_INFO
from spectradino_core.data.labels import UNLABELLED, ClassNames, LabelError
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.streams.decode import DecodeError, decode_infrared

MADE_BOXES, MADE_MASKS = "/ground_truth/detections", "/ground_truth/segmentation/mask"
"""Topics to which `spectradino bag make` writes ground truth; used by default."""

IGNORED = "ignore"
"""Id of a detection that marks a region to ignore."""
_IGNORED = {IGNORED, "crowd"}


class GroundTruthError(LabelError):
    """Labels are missing, damaged, or do not belong to this bag; the message names the place and the remedy."""


@dataclass(frozen=True)
class TrueFrame:
    """Ground truth of one frame.

    Attributes:
        stamp_ns: header stamp of the RGB frame.
        boxes, labels: float64 [N, 4] in pixels of the RGB image, and int64 [N], indices into the model's box classes;
            None: no boxes were labelled.
        crowd: bool [N]: a crowd, or a region to ignore; detections there are neither true nor false positives.
        mask: loads uint8 [h, w], indices into the model's mask classes, 255 unlabelled (thousands of masks at once
            would fill the memory); None: no mask was labelled.
        size: (width, height) of the RGB image, if the labels contain it.
        tracks: N identities; None: some box has none.
    """

    stamp_ns: int
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    crowd: np.ndarray | None = None
    mask: Callable[[], np.ndarray] | None = None
    size: tuple[int, int] | None = None
    tracks: tuple[str, ...] | None = None

    @property
    def true_boxes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(boxes, labels, crowd); None: no boxes were labelled."""
        if self.boxes is None or self.labels is None or self.crowd is None:
            return None
        return self.boxes, self.labels, self.crowd


@dataclass
class GroundTruth:
    """Labelled frames of one bag, oldest first.

    Attributes:
        frames: with unique stamps.
        source: file name or topics, for reports and errors.
        classes, mask_classes: the model's classes that occur in the labels' class list; others never have ground truth.
        unknown: number of boxes skipped because the model lacks the class, by class name; a mask class counts once.
        crowd: number of crowd or ignored boxes.
        notes: oddities of the label files, see `data.labels.NOTES`; those of masks as far as they were read.
    """

    frames: list[TrueFrame]
    source: str
    classes: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    unknown: Counter[str] = field(default_factory=Counter)
    crowd: int = 0
    notes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.frames = sorted(self.frames, key=lambda frame: frame.stamp_ns)
        self._stamps = [frame.stamp_ns for frame in self.frames]
        duplicate = next((a for a, b in zip(self._stamps, self._stamps[1:]) if a == b), None)
        if duplicate is not None:
            raise GroundTruthError(
                f"{self.source}: two entries have the stamp {in_seconds(duplicate)}: keep one entry per RGB frame"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def gap_ns(self, stamp_ns: int) -> tuple[int, int] | None:
        """Return (distance to the nearest labelled frame, its index); None without labelled frames."""
        if not self._stamps:
            return None
        place = bisect_left(self._stamps, stamp_ns)
        near = [p for p in (place - 1, place) if 0 <= p < len(self._stamps)]
        return min((abs(self._stamps[p] - stamp_ns), p) for p in near)

    def between(self, first_ns: int, last_ns: int, tolerance_ns: int) -> range:
        """Return the indices of the labelled frames from one stamp to another, both included."""
        start = bisect_left(self._stamps, first_ns - tolerance_ns)
        return range(start, bisect_left(self._stamps, last_ns + tolerance_ns + 1, lo=start))


def mask_table(stored: Sequence[str], names: ClassNames) -> np.ndarray:
    """Return the lookup table uint8 [256] from stored mask values to the model's; unknown classes are unlabelled."""
    table = np.full(256, UNLABELLED, np.uint8)
    for value, name in enumerate(stored[:UNLABELLED]):
        place = names(name)
        if place is not None:
            table[value] = place
    return table


def in_seconds(stamp_ns: int) -> str:
    """Format a stamp exactly as `<seconds>.<nine digits>`."""
    sign = "-" if stamp_ns < 0 else ""
    return f"{sign}{abs(stamp_ns) // 1_000_000_000}.{abs(stamp_ns) % 1_000_000_000:09d}"


def read_topics(
    bag: str | Path,
    info: ModelInfo,
    topic: str | None = None,
    mask_topic: str | None = None,
    mask_classes: Sequence[str] = (),
) -> GroundTruth:
    """Read the labelled frames from a Detection2DArray and a mask Image topic of a bag; None: no boxes, or no masks.

    Raises:
        BagError: the bag or one of the messages cannot be read.
        GroundTruthError: the topic is missing or of another type, or a message is invalid.
    """
    if mask_topic and not info.mask_classes:
        raise GroundTruthError(f"{mask_topic} contains masks, but model {info.name} outputs none")
    with BagReader(bag, cameras=False) as reader:
        topics = [_checked_topic(reader, topic, DETECTIONS)] if topic else []
        topics += [_checked_topic(reader, mask_topic, IMAGE)] if mask_topic else []
        names = _label_infos(reader, {_label_info_topic(name) for name in topics})
        boxes = _Boxes(topic or "", info, names.get(_label_info_topic(topic or ""), {}))
        masks = _Masks(mask_topic or "", info, mask_classes, names.get(_label_info_topic(mask_topic or ""), {}))
        for found in reader.messages(topics):
            (boxes if found.topic == topic else masks).add(found)
    frames = []
    for stamp in sorted({*boxes.found, *masks.found}):
        corners, labelled, crowd = boxes.found.get(stamp, (None, None, None))
        tracks = boxes.tracks.get(stamp)
        frames.append(TrueFrame(stamp, corners, labelled, crowd, masks.found.get(stamp), tracks=tracks))
    source = " and ".join(topics)
    if not frames:
        raise GroundTruthError(f"{source}: no messages, so there is no ground truth")
    unknown = boxes.names.unknown + masks.names.unknown
    return GroundTruth(frames, source, boxes.known, masks.known, unknown, boxes.crowd)


class _Stamped:
    """Ground truth of one topic's messages, by stamp."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self.found: dict[int, Any] = {}

    def _checked_stamp(self, message: BagMessage) -> tuple[int, str]:
        """Return the stamp of a new message, and its place for errors."""
        stamp = message.stamp_ns or 0
        if stamp in self.found:
            raise GroundTruthError(f"{self._topic}: two messages have the stamp {in_seconds(stamp)}")
        return stamp, f"{self._topic} at {in_seconds(stamp)}"


class _Boxes(_Stamped):
    def __init__(self, topic: str, info: ModelInfo, names: dict[int, str]) -> None:
        super().__init__(topic)
        self._names, self._info = names, info
        self.names = ClassNames(info.box_classes)
        self.tracks: dict[int, tuple[str, ...] | None] = {}
        self.crowd = 0
        self._seen: set[str] = set(names.values())

    @property
    def known(self) -> tuple[str, ...]:
        return self.names.known(self._seen)

    def add(self, message: BagMessage) -> None:
        stamp, place = self._checked_stamp(message)
        corners, labels, tracks = [], [], []
        for detection in message.message.detections:
            name = self._name(detection, place)
            self._seen.add(name)
            label = self.names(name)
            if label is None:
                continue
            corners.append(_corners(detection, place))
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

    def _name(self, detection: Any, place: str) -> str:
        if not len(detection.results):
            raise GroundTruthError(f"{place}: a detection has no hypothesis, so no class")
        best = max(detection.results, key=lambda result: result.hypothesis.score)
        text = str(best.hypothesis.class_id)
        if self.names.find(text) is not None or not text.isdecimal():
            return text
        if self._names:
            return self._names.get(int(text), text)
        return self._info.box_classes[int(text)] if int(text) < len(self._info.box_classes) else text


class _Masks(_Stamped):
    """Masks are kept as PNG, a hundredth of their size."""

    def __init__(self, topic: str, info: ModelInfo, given: Sequence[str], names: dict[int, str]) -> None:
        super().__init__(topic)
        self.names = ClassNames(info.mask_classes)
        stored = list(given) or [names.get(v, str(v)) for v in range(max(names, default=-1) + 1)]
        self._stored = stored = stored or list(info.mask_classes)
        self._table = mask_table(stored, self.names) if topic else np.zeros(256, np.uint8)
        self.known = self.names.known(stored) if topic else ()

    def add(self, message: BagMessage) -> None:
        stamp, place = self._checked_stamp(message)
        try:
            mask = decode_infrared(message.message)
        except DecodeError as error:
            raise GroundTruthError(f"{place}: {error}") from None
        if mask.dtype != np.uint8:
            raise GroundTruthError(f"{place}: a mask must be mono8, got {message.message.encoding}")
        over = mask[(mask >= len(self._stored)) & (mask != UNLABELLED)]
        if over.size:
            raise GroundTruthError(
                f"{place}: the mask has the value {int(over[0])}, but only {len(self._stored)} classes are named "
                f"({', '.join(self._stored)}): give --label-mask-classes"
            )
        self.found[stamp] = partial(_decompressed, cv2.imencode(".png", self._table[mask])[1])


def _decompressed(data: np.ndarray) -> np.ndarray:
    mask = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert mask is not None  # encoded above
    return mask


def _corners(detection: Any, place: str) -> list[float]:
    box = detection.bbox
    centre = getattr(box.center, "position", box.center)  # vision_msgs 3 has x and y in `center` itself
    x, y, width, height = float(centre.x), float(centre.y), float(box.size_x), float(box.size_y)
    if not (np.isfinite([x, y, width, height]).all() and width > 0 and height > 0):
        raise GroundTruthError(f"{place}: a box is empty or not finite: centre {x:g} {y:g}, size {width:g} {height:g}")
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def _label_info_topic(topic: str) -> str:
    """Return the topic with the names of a topic's class numbers."""
    return f"{topic.rpartition('/')[0]}/label_info"


def _label_infos(reader: BagReader, topics: set[str]) -> dict[str, dict[int, str]]:
    """Read class names by number, by LabelInfo topic; the last message counts."""
    available = sorted(name for name in topics if name in reader.topics and reader.topics[name].kind == LABEL_INFO)
    names = {}
    for found in reader.messages(available) if available else ():
        names[found.topic] = {int(entry.class_id): str(entry.class_name) for entry in found.message.class_map}
    return names


def _checked_topic(reader: BagReader, topic: str, kind: str) -> str:
    if topic not in reader.topics:
        available = ", ".join(name for name, found in reader.topics.items() if found.kind == kind) or "none"
        raise GroundTruthError(f"{reader.path} has no topic {topic}; topics of type {kind}: {available}")
    if (found := reader.topics[topic].kind) != kind:
        raise GroundTruthError(f"{reader.path}: topic {topic} is of type {found}, it must be {kind}")
    return topic
