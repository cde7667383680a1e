"""Make bags with ground truth from rendered scenes or folders of pairs, with configurable camera faults.

Written beside the two image topics:

- `/ground_truth/detections` (Detection2DArray) and `/ground_truth/segmentation/mask` (Image), each with the header of
  its RGB frame and a latched `label_info` beside it;
- `BAG.coco.json`: the same boxes as COCO JSON, each image with its `stamp_ns`; omitted without labelled boxes;
- `BAG.calibration.yaml`: the true homography and time offset, in the format of `spectradino calibrate`.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spectradino_core import __version__
from spectradino_core.bags import BagError
from spectradino_core.bags.ground_truth import IGNORED, MADE_BOXES, MADE_MASKS, in_seconds
from spectradino_core.bags.messages import compressed_message, detection_array, header, image_message, label_message
from spectradino_core.bags.sources import CameraView, ViewSource
from spectradino_core.bags.topics import COMPRESSED, DETECTIONS, IMAGE, LABEL_INFO
from spectradino_core.bags.writer import BagWriter
from spectradino_core.calibration.registration import Registration
from spectradino_core.files import write_file
from spectradino_core.streams.calibration_file import Calibration, save_calibration
from spectradino_core.streams.queues import Stream
from spectradino_core.streams.result_fields import DetectionFields
from spectradino_core.streams.topics import IMAGES

FORMS = ("raw", "png", "jpeg")
START_NS = 1_700_000_000_000_000_000
"""Start time of a recording by the clocks of the recorder and the RGB camera."""

_LABEL_TOPICS = "/ground_truth/label_info", "/ground_truth/segmentation/label_info"
"""Names of the classes of boxes and masks."""
_MS = 1_000_000
_S = 1_000_000_000


@dataclass(frozen=True)
class CameraSchedule:
    """Schedule of one camera.

    Attributes:
        rate_hz: frames per second, > 0.
        phase_ms: delay of the first frame from the start of the recording.
        jitter_ms: standard deviation of each exposure time, clipped at a third of the period. Stamps are the true
            exposure times.
        dropout: fraction of the frames lost independently, 0 to 1.
        windows: (from, to) in seconds from the start, in which all frames are lost.
        start_s, stop_s: the camera runs from start to stop; stop None: to the end.
        latency_ms: from exposure to the recorder.
        offset_ms: delay of the camera's clock, added to its stamps.
    """

    rate_hz: float
    phase_ms: float = 0.0
    jitter_ms: float = 0.0
    dropout: float = 0.0
    windows: tuple[tuple[float, float], ...] = ()
    start_s: float = 0.0
    stop_s: float | None = None
    latency_ms: float = 5.0
    offset_ms: float = 0.0

    def __post_init__(self) -> None:
        if not 0.01 <= self.rate_hz <= 1000:
            raise BagError(f"a camera's rate must lie in 0.01 to 1000 Hz, got {self.rate_hz:g}")
        if not 0 <= self.dropout <= 1:
            raise BagError(f"a dropout must be a fraction of frames, 0 to 1, got {self.dropout:g}")
        if self.jitter_ms < 0 or self.latency_ms < 0 or self.start_s < 0:
            raise BagError("jitter, latency and start must not be negative")
        for begin, end in self.windows:
            if not 0 <= begin < end:
                raise BagError(f"a window without frames must be FROM:TO in rising seconds, got {begin:g}:{end:g}")


def exposures(stream: Stream, schedule: CameraSchedule, duration_s: float, seed: int) -> list[int]:
    """Return the exposure times of a camera's recorded frames, in nanoseconds from the start; raises BagError for none.

    Each camera has its own jitter and losses, by the seed.
    """
    if not duration_s > 0:
        raise BagError(f"a recording must be longer than 0 s, got {duration_s:g}")
    rng = np.random.default_rng([seed, 11, list(Stream).index(stream)])
    period = _S / schedule.rate_hz
    first = schedule.phase_ms * _MS % period
    count = max(0, int(np.ceil((duration_s * _S - first) / period)))
    # The number of draws does not depend on losses: the other frames are the same with and without a dropout.
    jitter = np.clip(rng.normal(0.0, 1.0, count) * schedule.jitter_ms * _MS, -period / 3, period / 3)
    lost = rng.random(count) < schedule.dropout
    times = np.maximum(first + np.arange(count) * period + jitter, 0.0)
    end_s = duration_s if schedule.stop_s is None else schedule.stop_s
    kept = ~lost & (times >= schedule.start_s * _S) & (times < end_s * _S)
    for begin, end in schedule.windows:
        kept &= (times < begin * _S) | (times >= end * _S)
    found = [round(t) for t in times[kept].tolist()]
    if not found:
        raise BagError(f"no frame of the {stream.value} camera is left: lengthen the recording or lose fewer frames")
    return found


@dataclass(frozen=True)
class MakeOptions:
    """Options of `make_bag`.

    Attributes:
        rgb, ir: schedules of the cameras.
        duration_s: length of the recording.
        seed: of jitter and losses.
        rgb_form, ir_form: one of `FORMS`; png and jpeg are written as CompressedImage to `<topic>/compressed`.
        truth: whether to write ground truth, as topics and as files.
    """

    rgb: CameraSchedule = field(default_factory=lambda: CameraSchedule(30.0))
    ir: CameraSchedule = field(default_factory=lambda: CameraSchedule(9.0))
    duration_s: float = 10.0
    seed: int = 0
    rgb_form: str = "raw"
    ir_form: str = "raw"
    truth: bool = True

    def __post_init__(self) -> None:
        for form in (self.rgb_form, self.ir_form):
            if form not in FORMS:
                raise BagError(f"the image format must be one of {', '.join(FORMS)}, got {form!r}")

    def of(self, stream: Stream) -> tuple[CameraSchedule, str, str]:
        """Return schedule, image format and full topic of a camera."""
        schedule, form = (self.rgb, self.rgb_form) if stream is Stream.RGB else (self.ir, self.ir_form)
        topic = f"/{IMAGES[stream.value]}"
        return schedule, form, topic if form == "raw" else f"{topic}/compressed"


class MadeBag(NamedTuple):
    """Outcome of `make_bag`: the bag, the files beside it (None: not written), and frames by camera."""

    bag: Path
    labels: Path | None
    calibration: Path | None
    rgb_frames: int
    ir_frames: int


def sidecar_path(bag: Path, ending: str) -> Path:
    """Return the path of a file beside a bag: `drive.coco.json` for `drive.mcap` and `drive`."""
    return bag.parent / ((bag.stem if bag.suffix == ".mcap" else bag.name) + ending)


def make_bag(
    source: ViewSource,
    path: str | Path,
    options: MakeOptions | None = None,
    storage: str | None = None,
    compression: str = "none",
    overwrite: bool = False,
    tick: Callable[[], object] = lambda: None,
) -> MadeBag:
    """Record a source with two simulated cameras. The same arguments give the same bytes.

    The files beside the bag are written after it; path, storage, compression, overwrite: see `BagWriter`.

    Raises:
        BagError: the options contradict each other, or leave no frames; the bag or a file beside it exists.
        OSError: writing failed.
    """
    options = options or MakeOptions()
    path = Path(path)
    for file in (sidecar_path(path, ".coco.json"), sidecar_path(path, ".calibration.yaml")) if options.truth else ():
        if file.exists() and not overwrite:  # it may be hand-made labels of a recording of that name
            raise BagError(f"{file} exists already: give --overwrite to replace it, or another name for the bag")
    moments = {stream: exposures(stream, options.of(stream)[0], options.duration_s, options.seed) for stream in Stream}
    truth = _Truth(source) if options.truth else None
    with BagWriter(path, storage, compression, overwrite) as writer:
        _declare(writer, source, options)
        shots = [_shots(source, stream, moments[stream], options) for stream in Stream]
        if truth is not None:
            truth.begin(writer, START_NS)
        for received_ns, stream, stamp_ns, view in heapq.merge(*shots, key=lambda shot: (shot[0], shot[1].value)):
            _, form, topic = options.of(stream)
            head = header(stamp_ns, f"{stream.value}_camera")
            if form == "raw":
                message = image_message(view.pixels, head)
            else:
                message = compressed_message(view.pixels, head, form)
            writer.write(topic, message, received_ns)
            if truth is not None and stream is Stream.RGB:
                truth.add(writer, view, head, stamp_ns, received_ns)
            tick()
    labels = calibration = None
    if truth is not None and source.classes:
        labels = sidecar_path(path, ".coco.json")
        write_file(labels, json.dumps(truth.coco(), indent=1) + "\n")
    elif truth is not None:
        sidecar_path(path, ".coco.json").unlink(missing_ok=True)  # of the replaced bag
    if options.truth and source.registration is not None:
        calibration = sidecar_path(path, ".calibration.yaml")
        save_calibration(calibration, _calibration(source.registration, options))
    return MadeBag(path, labels, calibration, len(moments[Stream.RGB]), len(moments[Stream.IR]))


def _declare(writer: BagWriter, source: ViewSource, options: MakeOptions) -> None:
    for stream in Stream:
        _, form, topic = options.of(stream)
        writer.add(topic, IMAGE if form == "raw" else COMPRESSED)
    if options.truth:
        parts = ((MADE_BOXES, DETECTIONS, source.classes), (MADE_MASKS, IMAGE, source.mask_classes))
        for (topic, kind, classes), labels in zip(parts, _LABEL_TOPICS):
            if classes:
                writer.add(topic, kind)
                writer.add(labels, LABEL_INFO, latched=True)


def _shots(
    source: ViewSource, stream: Stream, moments: list[int], options: MakeOptions
) -> Iterator[tuple[int, Stream, int, CameraView]]:
    """Yield time of recording, camera, stamp and view of every frame of one camera."""
    schedule = options.of(stream)[0]
    offset_ns, latency_ns = round(schedule.offset_ms * _MS), round(schedule.latency_ms * _MS)
    for moment, view in zip(moments, source.views(stream, moments), strict=True):
        taken_ns = START_NS + moment
        yield taken_ns + latency_ns, stream, taken_ns + offset_ns, view


def _calibration(registration: Registration, options: MakeOptions) -> Calibration:
    return Calibration(
        registration,
        time_offset_ms=options.ir.offset_ms - options.rgb.offset_ms,
        residual_px=0.0,
        made_by=f"spectradino bag make {__version__}",
        notes="as given to bag make",
    )


class _Truth:
    """Ground truth of the RGB frames, as topics and as COCO."""

    def __init__(self, source: ViewSource) -> None:
        self._source = source
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def begin(self, writer: BagWriter, time_ns: int) -> None:
        """Write the class names."""
        head = header(time_ns, "")
        for topic, classes in zip(_LABEL_TOPICS, (self._source.classes, self._source.mask_classes)):
            if classes:
                writer.write(topic, label_message(classes, head, 0.0), time_ns)

    def add(self, writer: BagWriter, view: CameraView, head: Any, stamp_ns: int, time_ns: int) -> None:
        """Write the ground truth of one RGB frame, as far as it is labelled."""
        if view.mask is not None:
            writer.write(MADE_MASKS, image_message(view.mask, head), time_ns)
        if view.boxes is None or view.labels is None:
            return
        seen = np.ones(len(view.boxes)) if view.visible is None else view.visible
        boxes = [*zip(view.boxes.astype(float).tolist(), view.labels.tolist(), view.tracks, seen.tolist(), strict=True)]
        whole = len(boxes)
        if view.ignored is not None and view.ignored_labels is not None:
            ignored = zip(view.ignored.astype(float).tolist(), view.ignored_labels.tolist(), strict=True)
            boxes += [(corners, label, IGNORED, 1.0) for corners, label in ignored]
        found = [
            DetectionFields(str(label), 1.0, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, track)
            for (x1, y1, x2, y2), label, track, _ in boxes
        ]
        writer.write(MADE_BOXES, detection_array(found, head), time_ns)
        height, width = view.pixels.shape[:2]
        number = len(self._images)
        name = f"{in_seconds(stamp_ns)}.png"
        self._images.append({"id": number, "file_name": name, "width": width, "height": height, "stamp_ns": stamp_ns})
        for place, ((x1, y1, x2, y2), label, track, fraction) in enumerate(boxes):
            is_crowd = int(place >= whole)
            annotation = {
                "id": len(self._annotations),
                "image_id": number,
                "category_id": label,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": is_crowd,
                "visible_frac": round(fraction, 3),
            }
            self._annotations.append(annotation | ({"track": track} if track and not is_crowd else {}))

    def coco(self) -> dict[str, Any]:
        """Return the boxes as COCO JSON data."""
        return {
            "info": {"description": f"ground truth of a recording made from {self._source.name}"},
            "images": self._images,
            "annotations": self._annotations,
            "categories": [{"id": number, "name": name} for number, name in enumerate(self._source.classes)],
        }
