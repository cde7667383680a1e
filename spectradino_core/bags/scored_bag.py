"""Open a bag for scoring: scan its frames, load its ground truth, select the labelled frames that count.

Both the node's replay and the runs of a sweep open a bag here, so that all score the same labelled frames: those from
the first to the last recorded frame of either camera.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from spectradino_core.bags.ground_truth import GroundTruth, GroundTruthError, in_seconds
from spectradino_core.bags.ground_truth_coco import read_coco
from spectradino_core.bags.ground_truth_topics import MADE_BOXES, MADE_MASKS, read_topics
from spectradino_core.bags.labelled_frames import truth_arrays
from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.storage import StoredTopic
from spectradino_core.bags.topics import IMAGE
from spectradino_core.calibration.registration import Size
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.streams.clocks import Clocks
from spectradino_core.streams.compressed import encoding_of
from spectradino_core.streams.decode import DecodeError
from spectradino_core.streams.queues import Stream
from spectradino_core.streams.registering import Registering
from spectradino_core.streams.settings import Settings

__all__ = ["LabelSource", "ScoredBag", "open_scored"]

_MS = 1_000_000
_BOXES_KIND = "vision_msgs/msg/Detection2DArray"


@dataclass(frozen=True)
class LabelSource:
    """Source of the ground truth: a file or topics of the bag.

    By default the topics of `spectradino bag make` are used if the bag has them, else it is replayed without scores.

    Attributes:
        file: COCO JSON file, or a folder with `<bag's name>.json` or `<bag's name>.coco.json` for each bag.
        topic: Detection2DArray topic of the bag; "": none.
        mask_topic: mask Image topic of the bag; "": none.
        mask_classes: names of the mask values; empty: see `ground_truth_topics`.
        tolerance_ms: maximum stamp difference of a labelled frame and its RGB frame.
    """

    file: Path | None = None
    topic: str | None = None
    mask_topic: str | None = None
    mask_classes: tuple[str, ...] = ()
    tolerance_ms: float = 1.0

    def __post_init__(self) -> None:
        if self.file is not None and (self.topic or self.mask_topic):
            raise GroundTruthError("labels come from a file or from topics of the bag: give only one of them")
        if not 0 <= self.tolerance_ms <= 1000:
            raise GroundTruthError(f"the stamp tolerance must lie in 0 to 1000 ms, got {self.tolerance_ms:g}")

    def __bool__(self) -> bool:
        return self.file is not None or bool(self.topic or self.mask_topic)

    @property
    def tolerance_ns(self) -> int:
        return round(self.tolerance_ms * _MS)

    def file_for(self, name: str) -> Path | None:
        """Return the labels of one bag: `NAME.json`, or `NAME.coco.json` as `spectradino bag make` writes it.

        Raises:
            GroundTruthError: the folder of labels has none for this bag.
        """
        if self.file is None or not self.file.is_dir():
            return self.file
        plain = name.rpartition("/")[2]
        for stem in dict.fromkeys((plain, plain.removesuffix(".mcap").removesuffix(".db3"))):
            for ending in (".json", ".coco.json"):
                if (path := self.file / f"{stem}{ending}").is_file():
                    return path
        there = ", ".join(sorted(p.name for p in self.file.glob("*.json"))[:8]) or "no JSON files"
        raise GroundTruthError(
            f"{self.file} has neither {plain}.json nor {plain}.coco.json for the labels of bag {name}, only {there}"
        )

    def recorded_in(self, topics: Mapping[str, StoredTopic], has_masks: bool = True) -> LabelSource:
        """Return the labels with the topics of `spectradino bag make` if none were given and the bag has them.

        Args:
            topics: topics of the bag.
            has_masks: whether the model has a segmentation head.
        """
        if self.file is not None:
            return self
        # If a topic is given, no other is added: scoring given boxes does not imply scoring recorded masks.
        boxes = self.topic is None and not self.mask_topic and _holds(topics, MADE_BOXES, _BOXES_KIND)
        masks = self.topic is None and self.mask_topic is None and has_masks and _holds(topics, MADE_MASKS, IMAGE)
        return replace(
            self, topic=MADE_BOXES if boxes else self.topic, mask_topic=MADE_MASKS if masks else self.mask_topic
        )


@dataclass
class ScoredBag:
    """An open bag with the data needed for scoring.

    Attributes:
        reader: the bag.
        rgb_ns, ir_ns: all header stamps of the cameras, in order.
        first_ns, last_ns: bag time of the first and last recorded frame.
        rgb_size, ir_size: (width, height) of the first readable frame; None: there is none.
        encodings: image encodings by "rgb" and "ir".
        truth: ground truth; None: no labels.
        places: indices of the labelled frames that count.
        tolerance_ns: maximum stamp difference of a labelled frame and its RGB frame.
        ir_offset_ns: delay of IR stamps: the configured constant, or if the cameras' stamps are not comparable, the
            offset by arrival times.
    """

    reader: BagReader
    rgb_ns: np.ndarray
    ir_ns: np.ndarray
    first_ns: int = 0
    last_ns: int = 0
    rgb_size: Size | None = None
    ir_size: Size | None = None
    encodings: dict[str, str] = field(default_factory=dict)
    truth: GroundTruth | None = None
    places: range = range(0)
    tolerance_ns: int = 0
    ir_offset_ns: int = 0

    @property
    def colour_size(self) -> Size | None:
        """Size of the image that ground truth is in: the RGB camera's, or the IR camera's if it is the only one."""
        return self.rgb_size or self.ir_size

    def truth_arrays(self) -> dict[str, np.ndarray]:
        """See `labelled_frames.truth_arrays`; empty without labels."""
        if self.truth is None:
            return {}
        stamps = np.sort(self.rgb_ns)
        wanted = [self.truth.frames[place].stamp_ns for place in self.places]
        in_bag = [bool(gap <= self.tolerance_ns) for gap in _gaps(np.array(wanted, np.int64), stamps)]
        return truth_arrays(self.truth, self.places, in_bag)

    def truth_facts(self) -> dict[str, Any] | None:
        """Return a summary of the ground truth as JSON data."""
        if self.truth is None:
            return None
        return {
            "source": self.truth.source,
            "frames": len(self.truth),
            "outside_the_bag": len(self.truth) - len(self.places),
            "classes": list(self.truth.classes),
            "mask_classes": list(self.truth.mask_classes),
            "unknown_classes": dict(sorted(self.truth.unknown.items())),
            "label_notes": {kind: count for kind, count in sorted(self.truth.notes.items()) if count},
            "ignored_regions": self.truth.crowd,
            "tolerance_ms": self.tolerance_ns / _MS,
        }


@contextmanager
def open_scored(
    bag: Path,
    name: str,
    info: ModelInfo,
    settings: Settings,
    labels: LabelSource,
    rgb_topic: str | None = None,
    ir_topic: str | None = None,
    clock: str = "received",
) -> Iterator[ScoredBag]:
    """Open a bag and load its ground truth.

    Args:
        bag, name: the bag, and its name in reports.
        info: the model's description.
        settings: the node's parameters.
        labels: source of the ground truth.
        rgb_topic, ir_topic: see `BagReader`.
        clock: definition of bag time, see `Replay`.

    Raises:
        BagError: the bag cannot be read, or lacks a camera.
        GroundTruthError: the labels are missing or damaged, or none of them belongs to a frame of the bag.
    """
    with BagReader(bag, rgb_topic, ir_topic, decoding=settings.decoding) as reader:
        scored = _scan(reader)
        if not scored.ir_offset_ns:
            offset_ms = settings.calibrated(Registering(settings).time_offset_ms).ir_time_offset_ms
            scored.ir_offset_ns = round(offset_ms * _MS)
        offset_ns = scored.ir_offset_ns
        stamps = np.concatenate([scored.rgb_ns, scored.ir_ns - offset_ns])
        if clock == "stamp" and stamps.size:
            scored.first_ns, scored.last_ns = int(stamps.min()), int(stamps.max())
        named = labels
        labels = labels.recorded_in(reader.topics, bool(info.mask_classes))
        if labels:
            file = labels.file_for(name)
            if file is not None:
                scored.truth = read_coco(file, info)
            else:
                scored.truth = _truth_of_topics(bag, info, labels, is_named=bool(named))
            scored.tolerance_ns = labels.tolerance_ns
            slop_ns = round(settings.match_slop_ms * _MS)
            scored.places = _places(scored, name, offset_ns, slop_ns)
        yield scored


def _holds(topics: Mapping[str, StoredTopic], name: str, kind: str) -> bool:
    return name in topics and topics[name].kind == kind and topics[name].count > 0


def _truth_of_topics(bag: Path, info: ModelInfo, labels: LabelSource, is_named: bool) -> GroundTruth:
    try:
        return read_topics(bag, info, labels.topic, labels.mask_topic, labels.mask_classes)
    except GroundTruthError as error:
        if is_named:
            raise
        raise GroundTruthError(f'{error} (--label-topic "" replays the bag without its labels)') from None


def _scan(reader: BagReader) -> ScoredBag:
    stamps: dict[Stream, list[int]] = {stream: [] for stream in Stream}
    sizes: dict[Stream, Size] = {}
    kinds: dict[Stream, str] = {}
    received: list[int] = []
    lags: dict[Stream, list[int]] = {stream: [] for stream in Stream}
    clocks = Clocks()
    for frame in reader.frames():
        stamps[frame.stream].append(frame.stamp_ns)
        lags[frame.stream].append(frame.stamp_ns - frame.received_ns)
        clocks.push(frame.stream, frame.stamp_ns, frame.received_ns)
        received = (
            [min(received[0], frame.received_ns), max(received[1], frame.received_ns)]
            if received
            else ([frame.received_ns] * 2)
        )
        if frame.stream not in sizes:
            try:
                pixels = frame.decode().pixels
            except DecodeError:
                continue
            sizes[frame.stream] = (int(pixels.shape[1]), int(pixels.shape[0]))
            kinds[frame.stream] = encoding_of(frame.message)
    first_ns, last_ns = received or (0, 0)
    return ScoredBag(
        reader,
        np.array(stamps[Stream.RGB], np.int64),
        np.array(stamps[Stream.IR], np.int64),
        first_ns,
        last_ns,
        sizes.get(Stream.RGB),
        sizes.get(Stream.IR),
        {stream.value: kind for stream, kind in kinds.items()},
        ir_offset_ns=int(np.median(lags[Stream.IR]) - np.median(lags[Stream.RGB])) if clocks.apart else 0,
    )


def _places(bag: ScoredBag, name: str, offset_ns: int, slop_ns: int) -> range:
    truth, tolerance_ns = bag.truth, bag.tolerance_ns
    assert truth is not None
    stamps = np.concatenate([bag.rgb_ns, bag.ir_ns - offset_ns])
    if not stamps.size:
        raise GroundTruthError(f"{name} has no frames that labels could belong to: check its camera topics")
    which, near_ns = ("RGB", tolerance_ns) if bag.rgb_ns.size else ("IR", max(slop_ns, tolerance_ns))
    wanted = np.array([frame.stamp_ns for frame in truth.frames], np.int64)
    recorded = np.sort(bag.rgb_ns if bag.rgb_ns.size else bag.ir_ns - offset_ns)
    gaps = _gaps(wanted, recorded)
    if gaps.min() > near_ns:
        best = int(gaps.argmin())
        nearest = recorded[np.abs(recorded - wanted[best]).argmin()]
        raise GroundTruthError(
            f"{truth.source}: none of its {len(wanted)} stamps is within {near_ns / _MS:g} ms of a {which} frame of "
            f"{name}; the nearest gap is {gaps[best] / _MS:.3f} ms (label {in_seconds(int(wanted[best]))}, frame "
            f"{in_seconds(int(nearest))}). Labels are matched by the header stamps of the RGB images: check that they "
            "belong to this recording and do not contain times of arrival"
        )
    return truth.between(int(stamps.min()), int(stamps.max()), tolerance_ns)


def _gaps(wanted: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Return the distance from each stamp to the nearest of sorted ones, int64 [F]; the maximum if there are none."""
    if not recorded.size:
        return np.full(wanted.shape, np.iinfo(np.int64).max)
    right = np.clip(np.searchsorted(recorded, wanted), 0, len(recorded) - 1)
    left = np.clip(right - 1, 0, len(recorded) - 1)
    return np.minimum(np.abs(recorded[right] - wanted), np.abs(recorded[left] - wanted))
