"""Write a new bag with the messages that the node would have published for a recording.

The topics are the node's: `/detector_node/detections` and so on. A stopped run resumes after its last finished part.
Only the model is skipped for results that exist already; pairing, modes and thermal range run from the start of the
recording, so that the results equal those of an uninterrupted run.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from spectradino_core.bags import BagError, messages
from spectradino_core.bags.reader import BagReader, CameraMessages, describe_intake
from spectradino_core.bags.replay import Replay, ReplayOptions, ReplayResult, SkippingEngine
from spectradino_core.bags.storage import Raw, Storage
from spectradino_core.bags.writer import BagWriter
from spectradino_core.files import file_digest, make_folder, write_file
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.overlay import overlay_of
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.rgb_grid import in_infrared_pixels
from spectradino_core.streams.detecting import open_pipeline
from spectradino_core.streams.feed import FeedEvent
from spectradino_core.streams.result_fields import Facts
from spectradino_core.streams.topics import OUTPUTS

_NODE = "/detector_node"
NODE_TOPICS = {
    topic.name.removeprefix("~/"): (topic.kind, topic.latched) for topic in OUTPUTS.values() if topic.recorded
}
"""(type, latched) by topic name below the node's."""

_PLAN, _LOCK = "plan.json", "lock"


@dataclass(frozen=True)
class AnnotateOptions(ReplayOptions):
    """Options of `annotate`.

    Attributes:
        overlay: whether to write overlays, which make up most of the size.
        inputs: whether to copy both cameras' images.
        storage, compression, overwrite: see `BagWriter`.
        segment: number of results per part; a stopped run resumes after the last finished part.
    """

    overlay: bool = True
    inputs: bool = False
    storage: str | None = None
    compression: str = "none"
    overwrite: bool = False
    segment: int = 500


@dataclass(frozen=True)
class Annotated:
    """Outcome of `annotate`: numbers of results by mode, of drops by cause, and of results kept of a stopped run."""

    path: Path
    results: dict[str, int]
    drops: dict[str, int]
    kept: int
    cameras: tuple[CameraMessages, ...] = ()


def annotate(
    bag: str | Path,
    model: str | Path,
    out: str | Path,
    options: AnnotateOptions | None = None,
    tick: Callable[[BagReader], object] = lambda reader: None,
    report: Callable[[str], object] = lambda text: None,
) -> Annotated:
    """Replay a recording and write the results into a new bag, see `BagWriter`.

    `tick` is called after each frame of either camera, `report` with each line that the node would log and with each
    unreadable part of the recording.

    Raises:
        BagError: the recording cannot be read or gives no result, `out` exists, or another run is writing it.
        BundleError, EngineError, ThermalError, RegistrationError, ParameterError: see `replay`.
        OSError: writing failed; the finished parts are kept for the next run.
    """
    options = options or AnnotateOptions()
    out = Path(out)
    if out.exists() and out.resolve() == Path(bag).resolve():
        raise BagError(f"{out}: the output is the recording itself: give another name")
    BagWriter(out, options.storage, options.compression, options.overwrite)  # fails now, not after an hour
    with options.reader(bag) as reader:
        pipeline = open_pipeline(model, options.settings)
        replay = Replay(pipeline, options.settings, options.clock)
        store = _Parts(out, _plan(reader, Path(model), options))
        remove = False
        try:
            pipeline.engine = engine = SkippingEngine(pipeline.engine)
            results = replay.run(reader, lambda: tick(reader))
            rest = _write_parts(replay, results, engine, store, options, report)
            for text in reader.damage:
                report(text)
            cameras = tuple(reader.messages_of.values())
            drops = reader.with_damaged_headers(replay.drops())
            if not replay.results:
                remove = True
                intake = describe_intake(cameras, drops, replay.failures)
                raise BagError(f"{reader.path}: no result, so nothing is written: {intake}")
            _put_together(reader, replay.begin_ns, rest, store, out, options, engine.info)
            remove = True
        finally:
            store.close(remove)
    return Annotated(out, dict(replay.results), drops, store.kept, cameras)


def _write_parts(
    replay: Replay,
    results: Iterator[ReplayResult],
    engine: SkippingEngine,
    store: _Parts,
    options: AnnotateOptions,
    report: Callable[[str], object],
) -> list[FeedEvent]:
    """Write the missing parts; return the events after the last result."""

    def reported() -> list[FeedEvent]:
        events = replay.take_events()
        for event in events:
            report(event.text)
        return events

    engine.skip = not options.settings.tracking  # identities depend on the detections of all frames before
    for _ in islice(results, store.done):
        replay.take_events()
    engine.skip = False
    while (first := next(results, None)) is not None:
        with store.writing() as writer:
            _declare(writer, engine.info, options)
            for result in chain((first,), islice(results, options.segment - 1)):
                _write(writer, result, reported(), replay, engine.info, options)
        store.finish(result.number + 1)
    return reported()


def _declare(writer: BagWriter, info: ModelInfo, options: AnnotateOptions) -> None:
    for name, (kind, latched) in NODE_TOPICS.items():
        is_of_mask = name in ("segmentation/mask", "segmentation/label_info")
        if (is_of_mask and not info.mask_classes) or (name == "segmentation/overlay" and not options.overlay):
            continue
        if name == "temperatures" and options.settings.temperature_scale is None:
            continue
        writer.add(f"{_NODE}/{name}", kind, latched)


def _write(
    writer: BagWriter,
    result: ReplayResult,
    events: Iterable[FeedEvent],
    replay: Replay,
    info: ModelInfo,
    options: AnnotateOptions,
) -> None:
    """Write the messages of one result, at the time it was decided, and the mode changes before it."""
    _write_modes(writer, events)
    perception, at_ns = result.perception, result.ready_ns
    if perception is None:
        return
    head = messages.header(result.stamp_ns, result.frame_id)
    class_ids = options.settings.class_ids_of(info)
    writer.write(f"{_NODE}/detections", messages.detections_message(perception, head, class_ids), at_ns)
    writer.write(f"{_NODE}/annotations", messages.annotations_message(perception, info, head.stamp), at_ns)
    if result.ir is not None and result.ir_stamp_ns is not None:
        height, width = result.ir.pixels.shape[:2]
        ir_head = messages.header(result.ir_stamp_ns, str(result.ir.header.frame_id))
        in_ir = messages.detections_message(
            in_infrared_pixels(perception, result.registration, (width, height)), ir_head, class_ids
        )
        writer.write(f"{_NODE}/ir/detections", in_ir, at_ns)
        if perception.temperatures is not None:
            ir_stamp = messages.stamp(result.ir_stamp_ns)
            temperatures = messages.temperatures_message(perception, head, ir_stamp, class_ids)
            writer.write(f"{_NODE}/temperatures", temperatures, at_ns)
    if info.mask_classes and perception.mask is not None:
        writer.write(f"{_NODE}/segmentation/mask", messages.image_message(perception.mask, head), at_ns)
    if options.overlay:
        rgb, ir = (None if frame is None else frame.pixels for frame in (result.rgb, result.ir))
        overlay = overlay_of(perception, rgb, ir, replay.registering.current, info)
        assert overlay is not None
        writer.write(f"{_NODE}/segmentation/overlay", messages.image_message(overlay, head), at_ns)
    steps = result.steps_ms
    facts = Facts(
        rgb_stamp=None if result.rgb_stamp_ns is None else messages.stamp(result.rgb_stamp_ns),
        ir_stamp=None if result.ir_stamp_ns is None else messages.stamp(result.ir_stamp_ns),
        ir_offset_ms=float("nan") if result.error_ns is None else result.error_ns / 1e6,
        ir_reused=result.ir_reused,
        # as on a robot as fast as this machine: the recorded wait plus the measured computation
        latency_ms=(at_ns - result.stamp_ns) / 1e6 + sum(steps.values()),
        steps_ms={"decode": steps["decode"], "pairing": result.wait_ms} | steps,
        drops=result.drops,
        deadline_ms=options.settings.deadline_ms,
    )
    writer.write(f"{_NODE}/frame_report", messages.report_message(perception, facts, info, head), at_ns)


def _write_modes(writer: BagWriter, events: Iterable[FeedEvent]) -> None:
    for event in events:
        if event.change is not None:
            _write_mode(writer, event.change.mode, event.time_ns)


def _write_mode(writer: BagWriter, mode: Mode, time_ns: int) -> None:
    writer.write(f"{_NODE}/mode", messages.text_message(mode.value), time_ns)
    typed = messages.camera_mode_message(mode.value, messages.header(time_ns, ""))
    writer.write(f"{_NODE}/camera_mode", typed, time_ns)


def _put_together(
    reader: BagReader,
    begin_ns: int,
    rest: list[FeedEvent],
    store: _Parts,
    out: Path,
    options: AnnotateOptions,
    info: ModelInfo,
) -> None:
    """Merge the parts, and the recording's own images if requested, into the bag, in order of time."""
    with BagWriter(out, options.storage, options.compression, options.overwrite) as writer:
        _declare(writer, info, options)
        inputs = [topic for topic in (reader.rgb_topic, reader.ir_topic) if topic and options.inputs]
        for topic in inputs:
            writer.add(topic, reader.topics[topic].kind)
        head = messages.header(begin_ns, "")
        threshold = options.settings.threshold_of(info)
        about = messages.vision_info_message(info, head, f"{_NODE}/label_info")
        writer.write(f"{_NODE}/vision_info", about, begin_ns)
        writer.write(f"{_NODE}/label_info", messages.label_message(info.box_classes, head, threshold), begin_ns)
        if info.mask_classes:
            names = messages.label_message(info.mask_classes, head, 0.0)
            writer.write(f"{_NODE}/segmentation/label_info", names, begin_ns)
        _write_mode(writer, Mode.FUSED, begin_ns)  # as on activation
        images = reader.stored(inputs) if inputs else iter(())
        for raw in heapq.merge(images, store.messages(), key=lambda raw: raw.received_ns):
            writer.write_raw(raw.topic, raw.data, raw.received_ns)
        _write_modes(writer, rest)


class _Parts:
    """Finished parts of a bag, each a complete .mcap file named after the results in it, in a folder beside the bag.

    Attributes:
        done, kept: number of results in the finished parts, and of those left by a previous run.
    """

    def __init__(self, out: Path, plan: dict[str, Any]) -> None:
        """Take over the parts of a run with the same plan, remove others; raises BagError while another run writes."""
        self.folder = out.with_name(f".{out.name}.part")
        make_folder(self.folder)
        self._lock = (self.folder / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise BagError(f"{out}: another run is writing it: wait for it, or choose another name") from None
        plan = json.loads(json.dumps(plan))
        if self._known_plan() != plan:
            for stale in self.folder.iterdir():
                if stale.name != _LOCK:
                    shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
            write_file(self.folder / _PLAN, json.dumps(plan, indent=1) + "\n")
        self.paths: list[Path] = []
        self.done = 0
        while found := sorted(self.folder.glob(f"answers-{self.done:09d}-*.mcap")):
            self.paths.append(found[-1])
            self.done = int(found[-1].stem.rpartition("-")[2])
        self.kept = self.done

    @contextmanager
    def writing(self) -> Iterator[BagWriter]:
        """Write the next part; call `finish` after the block."""
        with BagWriter(self.folder / "next.mcap", overwrite=True) as writer:
            yield writer

    def finish(self, done: int) -> None:
        """Mark the part just written as complete, for a total of `done` results."""
        path = self.folder / f"answers-{self.done:09d}-{done:09d}.mcap"
        os.replace(self.folder / "next.mcap", path)
        self.paths.append(path)
        self.done = done

    def messages(self) -> Iterator[Raw]:
        """Yield the messages of the finished parts."""
        for path in self.paths:
            with Storage(path) as storage:
                yield from storage.messages(set(storage.topics))
                if storage.damage:
                    raise BagError(f"{path} is damaged; remove the folder {path.parent} and run again")

    def close(self, remove: bool) -> None:
        """End the run and remove the parts, or keep them for the next run."""
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _known_plan(self) -> Any:
        try:
            return json.loads((self.folder / _PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def _plan(reader: BagReader, model: Path, options: AnnotateOptions) -> dict[str, Any]:
    """Return everything that the results depend on: with an equal plan, parts of a stopped run are reused."""
    files = [reader.path] if reader.path.is_file() else sorted(p for p in reader.path.iterdir() if p.is_file())
    calibration = options.settings.calibration_file
    return {
        "format": 2,
        "drive": [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files],
        "topics": [reader.rgb_topic, reader.ir_topic],
        "model": file_digest(model, "model file"),
        "calibration": file_digest(Path(os.path.expanduser(calibration)), "calibration file") if calibration else "",
        "settings": asdict(options.settings),
        "overlay": options.overlay,
        "clock": options.clock,
    }
