"""Replay one bag as the node would process it, and write the results to files.

In the bag's output folder: `detections.jsonl` (one line per result), `node.npz` (data for scores and plots, see
`labelled_frames.py`), `node.json` (pairing statistics, facts about bag and ground truth), `timings.npz`, `pictures/`
(worst frames), and `masks/` if requested. Everything but the timings is the same at every replay.
"""

from __future__ import annotations

import json
import math
import shutil
from array import array
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from spectradino_core.bags.evaluation_options import Unit, pipeline_of, without_path
from spectradino_core.bags.ground_truth import in_seconds
from spectradino_core.bags.health import mode_seconds, pairing_figures, stream_figures
from spectradino_core.bags.labelled_frames import MODES, NO_ERROR, stored
from spectradino_core.bags.reader import describe_intake
from spectradino_core.bags.replay import Replay, ReplayResult
from spectradino_core.bags.scored_bag import ScoredBag, open_scored
from spectradino_core.calibration.registration import Registration
from spectradino_core.drawing import encoded, infrared_to_grey
from spectradino_core.evaluation.detection import SCORE_FLOOR
from spectradino_core.evaluation.spread import rounded
from spectradino_core.evaluation.tracking import TrackScorer
from spectradino_core.evaluation.worst import WorstFrames
from spectradino_core.files import write_file, written_atomically
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.perception_result import PerceptionResult
from spectradino_core.streams.feed import FeedEvent
from spectradino_core.streams.queues import Stream
from spectradino_core.streams.settings import Settings

_MS = 1_000_000
_APART_NS = 1_000_000_000
"""Minimum distance of two worst frames: neighbours show the same mistakes."""
_COLUMNS = ("stamp_ns", "rgb_ns", "ir_ns", "error_ns", "ready_ns", "wait_ns", "mode", "failed", "found")


def run_node(unit: Unit) -> None:
    """Replay a bag and write the files listed in the module docstring.

    Raises subclasses of ValueError and RuntimeError whose messages contain the remedy.
    """
    options = unit.options
    pipeline = pipeline_of(options)
    info = pipeline.info
    floor = min(SCORE_FLOOR, options.settings.threshold_of(info))
    with open_scored(unit, info) as bag:
        replay = Replay(pipeline, options.settings, options.clock, floor)
        kept = _ReplayRecord(unit, bag, replay, info)
        started_s = perf_counter()
        with (
            written_atomically(unit.folder / "detections.jsonl") as scratch,
            scratch.open("w", encoding="utf-8") as out,
        ):
            for result in progress_bar(replay.run(bag.reader), unit, bag):
                out.write(result_line(result, info, options.settings) + "\n")
                kept.take(result)
        ended = perf_counter()
        kept.events += replay.take_events()
        kept.check()
        kept.write(
            {"label": pipeline.engine.label, "replay_s": ended - started_s},
            {"thermal": pipeline.thermal.describe(), "registration": _described(replay)},
        )


def result_line(result: ReplayResult, info: ModelInfo, settings: Settings) -> str:
    """Return a result as one line of JSON; the first `served` detections are those that the node publishes.

    With minimum scores by class (`class_thresholds`) they are not the first ones, and `served` is their number only.
    """
    perception = result.perception
    line: dict[str, Any] = {
        "stamp_ns": result.stamp_ns,
        "rgb_stamp_ns": result.rgb_stamp_ns,
        "ir_stamp_ns": result.ir_stamp_ns,
        "error_ms": None if result.error_ns is None else result.error_ns / _MS,
        "mode": result.mode.value,
        "frame_id": result.frame_id,
    }
    if perception is None:
        line |= {"failed": result.cause, "why": result.error}
    else:
        line["size"] = list(perception.size)
        line["served"] = int(settings.are_served(perception, info).sum())
        line["detections"] = found = [
            {
                "class": info.box_classes[int(label)],
                "score": round(float(score), 6),
                "box": [round(float(v), 3) for v in box],
            }
            for box, score, label in zip(perception.boxes, perception.scores, perception.labels, strict=True)
        ]
        for detection, name in zip(found, perception.track_ids or ()):
            detection["track"] = name
        for detection, row in zip(found, () if perception.temperatures is None else perception.temperatures.tolist()):
            detection["celsius"] = None if math.isnan(row[0]) else [round(v, 3) for v in row]
    return json.dumps(line, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


class _ReplayRecord:
    """Data collected while a bag is replayed."""

    def __init__(self, unit: Unit, bag: ScoredBag, replay: Replay, info: ModelInfo) -> None:
        self._unit, self._bag, self._replay, self._info = unit, bag, replay, info
        settings = unit.options.settings
        self._labelled = None if bag.truth is None else bag.labelled_frames(info)
        by_class = settings.class_thresholds_of(info)
        threshold = settings.threshold_of(info) if by_class is None else by_class
        self._worst = WorstFrames(info, threshold, unit.options.worst_frames, _APART_NS)
        self._rows = array("q")
        self._count = 0
        self._ir_invalid = array("d")
        self._temperatures: dict[str, list[np.ndarray]] = {}
        self._tracks: dict[int, tuple[np.ndarray, np.ndarray, tuple[str, ...]]] | None = (
            {} if settings.tracking and bag.truth is not None else None
        )  # served boxes, labels and identities by labelled frame
        self._drops: list[tuple[int, dict[str, int]]] = []
        self._steps: dict[str, array[float]] = {}
        self.events: list[FeedEvent] = []
        with suppress(FileNotFoundError):
            shutil.rmtree(unit.folder / "masks")  # of an older run
        if unit.options.masks:
            (unit.folder / "masks").mkdir(parents=True)

    def take(self, result: ReplayResult) -> None:
        self.events += self._replay.take_events()
        perception = result.perception
        settings = self._unit.options.settings
        served = np.zeros(0, bool) if perception is None else settings.are_served(perception, self._info)
        found = int(served.sum())
        if perception is not None and perception.temperatures is not None:
            for label, row in zip(perception.labels[served], perception.temperatures[served], strict=True):
                self._temperatures.setdefault(self._info.box_classes[int(label)], []).append(row)
        self._rows.extend(
            (
                result.stamp_ns,
                NO_ERROR if result.rgb_stamp_ns is None else result.rgb_stamp_ns,
                NO_ERROR if result.ir_stamp_ns is None else result.ir_stamp_ns,
                NO_ERROR if result.error_ns is None else result.error_ns,
                result.ready_ns,
                result.ready_ns - result.received_ns,
                MODES.index(result.mode),
                perception is None,
                found,
            )
        )
        if not self._drops or self._drops[-1][1] != result.drops:
            self._drops.append((result.ready_ns, dict(result.drops)))
        for name in result.steps_ms:
            self._steps.setdefault(name, array("d", [math.nan]) * self._count)
        for name, column in self._steps.items():
            column.append(result.steps_ms.get(name, math.nan))
        self._count += 1
        if perception is not None and perception.ir_invalid is not None:
            self._ir_invalid.append(perception.ir_invalid)
        matched = self._bag.by_rgb_clock(result, self._replay)
        if perception is None or matched is None:
            return
        stamp_ns, in_colour, tolerance_ns, error_ns = matched
        place = None if self._labelled is None else self._labelled.add(stamp_ns, in_colour, tolerance_ns, error_ns)
        if place is not None and self._tracks is not None:
            tracked = in_colour.selected(settings.are_served(in_colour, self._info))
            self._tracks[place] = tracked.boxes, tracked.labels, tuple(tracked.track_ids or ())
        if self._labelled is None or place is not None:
            self._add_to_worst(result, perception, in_colour, place)
        if self._unit.options.masks and perception.mask is not None:
            data = encoded(perception.mask, ".png")
            (self._unit.folder / "masks" / f"{result.stamp_ns}.png").write_bytes(data)

    def check(self) -> None:
        """Raise if the replay gave no result at all.

        Either no camera can be read, or model or parameters do not fit the cameras. A labelled recording whose frames
        find no partner can still be scored.
        """
        cameras = self._bag.reader.messages_of.values()
        nothing_read = bool(cameras) and all(camera.is_unreadable for camera in cameras)
        if not self._count and (self._bag.truth is None or nothing_read):
            raise ValueError(f"no capture could be made: {describe_intake(cameras, self._replay.drops())}")
        if self._count and all(self._rows[_COLUMNS.index("failed") :: len(_COLUMNS)]):
            text = "; ".join(f"{cause}: {reason}" for cause, reason in sorted(self._replay.failures.items()))
            raise ValueError(f"all {self._count} captures failed ({text})")

    def write(self, engine: dict[str, Any], described: dict[str, str]) -> None:
        folder = self._unit.folder
        arrays = self._result_arrays()
        evidence = stored("answers", arrays) | stored("truth", self._bag.truth_arrays())
        if self._labelled is not None:
            evidence |= stored("node", self._labelled.arrays())
        save_arrays(folder / "timings.npz", {name: np.array(column) for name, column in self._steps.items()})
        self._write_worst(folder / "pictures")
        facts = self._facts(arrays) | described | {"engine": engine.pop("label")}
        write_file(folder / "node.json", json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        write_file(folder / "engine.json", json.dumps(engine, sort_keys=True) + "\n")
        save_arrays(self._unit.evidence, evidence)  # last: its existence marks the run as complete

    def _result_arrays(self) -> dict[str, np.ndarray]:
        arrays = dict(zip(_COLUMNS, np.array(self._rows, np.int64).reshape(-1, len(_COLUMNS)).T))
        arrays["mode"], arrays["failed"] = arrays["mode"].astype(np.int8), arrays["failed"].astype(bool)
        causes = sorted({cause for _, drops in self._drops for cause in drops})
        arrays["drop_causes"] = np.array(causes, np.str_)
        arrays["drop_ns"] = np.array([at for at, _ in self._drops], np.int64)
        counts = [[drops.get(cause, 0) for cause in causes] for _, drops in self._drops]
        arrays["drop_counts"] = np.array(counts, np.int64).reshape(len(self._drops), len(causes))
        return arrays

    def _facts(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        bag, replay = self._bag, self._replay
        changes = [
            {
                "at_s": round((e.change.time_ns - bag.first_ns) / 1e9, 3),
                "from": e.change.before.value,
                "to": e.change.mode.value,
                "why": e.change.reason,
            }
            for e in self.events
            if e.change is not None
        ]
        drops = dict(+bag.reader.events) | bag.reader.with_damaged_headers(replay.drops())
        learnt = None if replay.feed is None else replay.feed.offsets.learnt
        labelled = self._labelled
        return (
            {
                "first_ns": bag.first_ns,
                "seconds": round((bag.last_ns - bag.first_ns) / 1e9, 3),
                "cameras": {stream.value: self._camera(stream) for stream in Stream},
                "pairing": pairing_figures([arrays]),
                "drops": dict(sorted(drops.items())),
                "failures": dict(sorted(replay.failures.items())),
                "unreadable": [str(camera) for camera in bag.reader.messages_of.values() if camera.refused],
                "restarts": 0 if replay.feed is None else replay.feed.pairer.restarts,
                "mode_changes": changes,
                "mode_seconds": mode_seconds(self.events, bag.first_ns, bag.last_ns),
                "ir_time_offset_ms": None if replay.feed is None else round(replay.feed.ir_time_offset_ms, 6),
                "learnt_offset": None
                if learnt is None
                else {
                    "offset_ms": round(learnt.offset_ns / _MS, 6),
                    "confidence": round(learnt.confidence, 6),
                    "triggered": learnt.triggered,
                    "frames": learnt.frames,
                },
                "events": [
                    {"at_s": round((e.time_ns - bag.first_ns) / 1e9, 3), "warning": e.warning, "text": e.text}
                    for e in self.events
                ],
                "damage": [
                    without_path(text, self._unit.bag, Path(self._unit.name).name) for text in bag.reader.damage
                ],
                "truth": bag.truth_facts(),
                "answers_without_truth": None if labelled is None else labelled.without_truth,
                "answers_repeated": None if labelled is None else labelled.repeated,
            }
            | self._invalid_facts()
            | self._temperature_facts()
            | self._track_facts()
        )

    def _track_facts(self) -> dict[str, Any]:
        """Counts of `TrackScorer` over the labelled frames whose labels have identities; empty without tracking.

        Those without a result count as frames without tracks.
        """
        if self._tracks is None:
            return {}
        assert self._bag.truth is not None
        scorer, nothing = TrackScorer(), (np.empty((0, 4), np.float32), np.empty(0, np.int64), ())
        for place in self._bag.places:
            true = self._bag.truth.frames[place]
            if true.boxes is None or true.labels is None or true.crowd is None or true.tracks is None:
                continue
            found = self._tracks.get(place, nothing)
            scorer.add(self._unit.name, found, (true.boxes, true.labels, true.crowd, true.tracks))
        return {"tracking": scorer.counts()}

    def _invalid_facts(self) -> dict[str, Any]:
        """Fraction of invalid IR pixels; empty if all are valid."""
        fractions = np.array(self._ir_invalid)
        if not fractions.any():
            return {}
        facts = {"frames": int(np.count_nonzero(fractions)), "mean": fractions.mean(), "max": fractions.max()}
        return {"ir_invalid_pixels": rounded(facts)}

    def _temperature_facts(self) -> dict[str, Any]:
        """Temperatures in Celsius of the served detections by class; empty if none were computed."""
        facts = {}
        for name, rows in sorted(self._temperatures.items()):
            table = np.stack(rows).astype(np.float64)
            known = table[~np.isnan(table[:, 0])]
            facts[name] = {"detections": len(table), "measured": len(known)}
            if len(known):
                low, mean, high = known[:, 0].min(), known[:, 1].mean(), known[:, 2].max()
                facts[name] |= {"minimum": low, "mean": mean, "maximum": high}
        return {"temperatures": rounded(facts)} if facts else {}

    def _camera(self, stream: Stream) -> dict[str, Any]:
        bag, reader = self._bag, self._bag.reader
        camera = reader.messages_of.get(stream.value)
        return stream_figures(bag.stamps_ns[stream]) | {
            "topic": reader.topic_of(stream),
            "messages": camera.messages if camera else 0,
            "refused": dict(sorted(camera.refused.items())) if camera else {},
            "size": list(bag.sizes[stream]) if stream in bag.sizes else None,
            "encoding": bag.encodings.get(stream, ""),
        }

    def _add_to_worst(
        self, result: ReplayResult, perception: PerceptionResult, in_colour: PerceptionResult, place: int | None
    ) -> None:
        true = None
        if self._bag.truth is not None and place is not None:
            true = self._bag.truth.frames[place].true_boxes
            perception = in_colour  # like the ground truth
        registration = self._replay.registering.current

        def images() -> list[np.ndarray]:
            shown = [] if result.rgb is None else [result.rgb.pixels]
            if result.ir is not None:
                grey = infrared_to_grey(result.ir.pixels)  # before the warp, whose border would widen the range
                size = (int(grey.shape[1]), int(grey.shape[0]))
                if perception.size != size or (registration is not None and perception is in_colour):
                    matrix = (registration or Registration.whole(size, perception.size)).for_sizes(
                        size, perception.size
                    )
                    grey = cv2.warpPerspective(grey, matrix, perception.size)
                shown.append(grey)
            return shown

        name = f"{in_seconds(result.stamp_ns)} ({perception.mode.value})"
        self._worst.add(name, perception, images, true, result.stamp_ns)

    def _write_worst(self, folder: Path) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        rows = []
        for number, frame in enumerate(self._worst.frames()):
            file = f"{number:03d}.jpg"
            (folder / file).write_bytes(frame.jpeg)
            rows.append(
                {"file": file, "mistakes": frame.mistakes, "stamp_ns": frame.stamp_ns, "caption": frame.caption}
            )
        (folder / "pictures.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def progress_bar(results: Any, unit: Unit, bag: ScoredBag) -> Any:
    """Wrap an iterator in a progress bar if the unit requests one, stderr is a terminal and tqdm is installed."""
    if not unit.progress:
        return results
    try:
        from tqdm import tqdm
    except ImportError:
        return results
    frames = len(bag.stamps_ns[Stream.IR if unit.run.startswith("ir_alone") else Stream.RGB])
    frames = frames or len(bag.stamps_ns[Stream.IR])
    return tqdm(results, total=frames, desc=f"{unit.name} {unit.run}", unit=" results", leave=False, disable=None)


def _described(replay: Replay) -> str:
    current = replay.registering.current
    if current is None:
        return replay.registering.describe()
    source = Path(current.source).name if "/" in current.source else current.source
    return f"{source}: " + ", ".join(f"{v:.6g}" for v in current.matrix)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays into one compressed file, atomically."""
    with written_atomically(path) as scratch, scratch.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
