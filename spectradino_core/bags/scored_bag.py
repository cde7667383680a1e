"""Open a bag for scoring: scan its frames, load its ground truth, select the labelled frames that count.

Both the node's replay and the runs of a sweep open a bag here, so that all score the same labelled frames: those from
the first to the last recorded frame of either camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectradino_core.bags.evaluation_options import LabelSource, Unit
from spectradino_core.bags.ground_truth import GroundTruth, GroundTruthError, in_seconds, read_topics
from spectradino_core.bags.ground_truth_coco import read_coco
from spectradino_core.bags.inspection import nearest
from spectradino_core.bags.labelled_frames import LabelledFrames, truth_arrays
from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.replay import Replay, ReplayResult
from spectradino_core.calibration.registration import Size
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.perception_result import PerceptionResult
from spectradino_core.runtime.rgb_grid import in_colour_pixels
from spectradino_core.streams.clocks import Clocks
from spectradino_core.streams.compressed import encoding_of
from spectradino_core.streams.decode import DecodeError
from spectradino_core.streams.queues import Stream
from spectradino_core.streams.registering import Registering

_MS = 1_000_000


@dataclass
class ScoredBag:
    """An open bag with the data needed for scoring.

    Attributes:
        reader: the bag.
        stamps_ns: all header stamps of each camera, in order.
        sizes, encodings: (width, height) and encoding of the first readable frame of each camera that has one.
        first_ns, last_ns: bag time of the first and last recorded frame.
        ir_offset_ns: delay of IR stamps: the configured constant, or if the cameras' stamps are not comparable, the
            offset by arrival times.
        truth: ground truth; None: no labels.
        places: indices of the labelled frames that count.
        tolerance_ns, slop_ns: maximum stamp difference of a labelled frame and its RGB frame, or an IR frame alone.
    """

    reader: BagReader
    stamps_ns: dict[Stream, np.ndarray]
    sizes: dict[Stream, Size]
    encodings: dict[Stream, str]
    first_ns: int
    last_ns: int
    ir_offset_ns: int
    truth: GroundTruth | None = None
    places: range = range(0)
    tolerance_ns: int = 0
    slop_ns: int = 0

    @property
    def rgb_clock_ns(self) -> np.ndarray:
        """Stamps of all frames by the RGB camera's clock."""
        return np.concatenate([self.stamps_ns[Stream.RGB], self.stamps_ns[Stream.IR] - self.ir_offset_ns])

    @property
    def colour_size(self) -> Size | None:
        """Size of the image that ground truth is in: the RGB camera's, or the IR camera's if it is the only one."""
        return self.sizes.get(Stream.RGB) or self.sizes.get(Stream.IR)

    def labelled_frames(self, info: ModelInfo) -> LabelledFrames:
        """Return a fresh collection of results; only with labels."""
        assert self.truth is not None
        return LabelledFrames(self.truth, self.places, info)

    def by_rgb_clock(
        self, result: ReplayResult, replay: Replay
    ) -> tuple[int, PerceptionResult, int, int | None] | None:
        """Return the arguments of `LabelledFrames.add`, in the RGB camera's time and pixels; None: a failed capture."""
        perception = result.perception
        if perception is None:
            return None
        if result.rgb_stamp_ns is not None or replay.feed is None or self.colour_size is None:
            return result.stamp_ns, perception, self.tolerance_ns, result.error_ns
        feed = replay.feed
        offset_ns = self.ir_offset_ns if feed.by_arrival else round(feed.ir_time_offset_ms * _MS)
        perception = in_colour_pixels(perception, replay.registering.current, self.colour_size)
        return result.stamp_ns - offset_ns, perception, self.slop_ns, None

    def truth_arrays(self) -> dict[str, np.ndarray]:
        """See `labelled_frames.truth_arrays`; empty without labels."""
        if self.truth is None:
            return {}
        wanted = np.array([self.truth.frames[place].stamp_ns for place in self.places], np.int64)
        in_bag = _gaps(wanted, np.sort(self.stamps_ns[Stream.RGB])) <= self.tolerance_ns
        return truth_arrays(self.truth, self.places, in_bag.tolist())

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
def open_scored(unit: Unit, info: ModelInfo) -> Iterator[ScoredBag]:
    """Open the bag of a unit and load its ground truth.

    Raises:
        BagError, GroundTruthError: the bag cannot be read or lacks a camera, or the labels are missing, damaged, or of
            another bag.
    """
    options, settings = unit.options, unit.options.settings
    with options.reader(unit.bag) as reader:
        bag = _scan(reader)
        if not bag.ir_offset_ns:
            offset_ms = settings.calibrated(Registering(settings).time_offset_ms).ir_time_offset_ms
            bag.ir_offset_ns = round(offset_ms * _MS)
        stamps_ns = bag.rgb_clock_ns
        if options.clock == "stamp" and stamps_ns.size:
            bag.first_ns, bag.last_ns = int(stamps_ns.min()), int(stamps_ns.max())
        labels = options.labels.recorded_in(reader.topics, bool(info.mask_classes))
        if labels:
            file = labels.file_for(unit.name)
            bag.truth = _truth_of_topics(unit, info, labels) if file is None else read_coco(file, info)
            bag.tolerance_ns = round(labels.tolerance_ms * _MS)
            bag.slop_ns = max(round(settings.match_slop_ms * _MS), bag.tolerance_ns)
            bag.places = _places(bag, bag.truth, unit.name)
        yield bag


def _truth_of_topics(unit: Unit, info: ModelInfo, labels: LabelSource) -> GroundTruth:
    try:
        return read_topics(unit.bag, info, labels.topic, labels.mask_topic, labels.mask_classes)
    except GroundTruthError as error:
        if unit.options.labels:
            raise
        raise GroundTruthError(f'{error} (--label-topic "" replays the bag without its labels)') from None


def _scan(reader: BagReader) -> ScoredBag:
    stamps: dict[Stream, list[int]] = {stream: [] for stream in Stream}
    lags: dict[Stream, list[int]] = {stream: [] for stream in Stream}
    sizes: dict[Stream, Size] = {}
    kinds: dict[Stream, str] = {}
    received_ns: list[int] = []
    clocks = Clocks()
    for frame in reader.frames():
        stamps[frame.stream].append(frame.stamp_ns)
        lags[frame.stream].append(frame.stamp_ns - frame.received_ns)
        clocks.push(frame.stream, frame.stamp_ns, frame.received_ns)
        received_ns.append(frame.received_ns)
        if frame.stream not in sizes:
            try:
                pixels = frame.decode().pixels
            except DecodeError:
                continue
            sizes[frame.stream] = (int(pixels.shape[1]), int(pixels.shape[0]))
            kinds[frame.stream] = encoding_of(frame.message)
    offset_ns = int(np.median(lags[Stream.IR]) - np.median(lags[Stream.RGB])) if clocks.incomparable else 0
    arrays = {stream: np.array(found, np.int64) for stream, found in stamps.items()}
    return ScoredBag(reader, arrays, sizes, kinds, min(received_ns, default=0), max(received_ns, default=0), offset_ns)


def _places(bag: ScoredBag, truth: GroundTruth, name: str) -> range:
    """Return the indices of the labelled frames from the first to the last recorded frame."""
    stamps = bag.rgb_clock_ns
    if not stamps.size:
        raise GroundTruthError(f"{name} has no frames that labels could belong to: check its camera topics")
    rgb_ns = bag.stamps_ns[Stream.RGB]
    which, near_ns = ("RGB", bag.tolerance_ns) if rgb_ns.size else ("IR", bag.slop_ns)
    wanted = np.array([frame.stamp_ns for frame in truth.frames], np.int64)
    recorded = np.sort(rgb_ns if rgb_ns.size else stamps)
    gaps = _gaps(wanted, recorded)
    if gaps.min() > near_ns:
        best = int(gaps.argmin())
        frame_ns = int(nearest(recorded, wanted[best]))
        raise GroundTruthError(
            f"{truth.source}: none of its {len(wanted)} stamps is within {near_ns / _MS:g} ms of a {which} frame of "
            f"{name}; the nearest gap is {gaps[best] / _MS:.3f} ms (label {in_seconds(int(wanted[best]))}, frame "
            f"{in_seconds(frame_ns)}). Labels are matched by the header stamps of the RGB images: check that they "
            "belong to this recording and do not contain times of arrival"
        )
    return truth.between(int(stamps.min()), int(stamps.max()), bag.tolerance_ns)


def _gaps(wanted: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Return the distance from each stamp to the nearest of sorted ones, int64 [F]; the maximum if there are none."""
    if not recorded.size:
        return np.full(wanted.shape, np.iinfo(np.int64).max)
    return np.abs(nearest(recorded, wanted) - wanted)
