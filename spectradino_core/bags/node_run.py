"""One bag replayed as the node would have answered it, and what is kept of that.

In the bag's folder: `detections.jsonl` (one line an answer), `node.npz` (what scores and plots are made from, see
`labelled_frames.py`), `node.json` (health of the pairing, facts on bag and truth), `timings.npz`, `pictures/`, and
`masks/` if asked for. Everything but the timings is the same at every replay.
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

from spectradino_core.bags.evaluation_options import Options, Unit, pipeline_of
from spectradino_core.bags.ground_truth import in_seconds
from spectradino_core.bags.health import NO_ERROR, mode_seconds, pairing_figures, stream_figures
from spectradino_core.bags.intake import nothing_read
from spectradino_core.bags.labelled_frames import MODES, LabelledFrames, stored
from spectradino_core.bags.replay import Answer, Replay
from spectradino_core.bags.scored_bag import ScoredBag, open_scored
from spectradino_core.calibration.registration import Registration
from spectradino_core.evaluation.detection import SCORE_FLOOR
from spectradino_core.evaluation.spread import rounded
from spectradino_core.evaluation.worst import WorstFrames
from spectradino_core.files import written_atomically
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.overlay import infrared_to_grey
from spectradino_core.runtime.perception_result import PerceptionResult
from spectradino_core.runtime.rgb_grid import in_colour_pixels
from spectradino_core.streams.feed import FeedEvent

__all__ = ["Matcher", "answer_line", "progress_bar", "run_node", "save_arrays"]

_MS = 1_000_000
_APART_NS = 1_000_000_000
"""Between two of the worst frames: neighbours show the same mistakes."""
_COLUMNS = ("stamp_ns", "rgb_ns", "ir_ns", "error_ns", "ready_ns", "wait_ns", "mode", "failed", "found")


def run_node(unit: Unit) -> None:
    """Replays and leaves the files of the module's head.

    Raises:
        BagError, GroundTruthError, BundleError, EngineError, ..: as what it calls; ValueErrors and RuntimeErrors whose
            texts say what to do.
    """
    options = unit.options
    pipeline = pipeline_of(options)
    info = pipeline.info
    threshold = options.settings.threshold_of(info)
    settings = options.settings.with_(score_threshold=min(SCORE_FLOOR, threshold))
    with open_scored(
        unit.bag, unit.name, info, options.settings, options.labels, options.rgb_topic, options.ir_topic, options.clock
    ) as bag:
        replay = Replay(pipeline, settings, options.clock)
        kept = _Kept(unit, bag, replay, info, threshold)
        begun = perf_counter()
        with (
            written_atomically(unit.folder / "detections.jsonl") as scratch,
            scratch.open("w", encoding="utf-8") as out,
        ):
            for answer in progress_bar(replay.run(bag.reader), unit, len(bag.rgb_ns) or len(bag.ir_ns)):
                out.write(answer_line(answer, info, threshold) + "\n")
                kept.take(answer)
        ended = perf_counter()
        kept.events += replay.take_events()
        kept.check()
        kept.write(
            {"label": pipeline.engine.label, "replay_s": ended - begun},
            {"thermal": pipeline.thermal.describe(), "registration": _described(replay)},
        )


def answer_line(answer: Answer, info: ModelInfo, threshold: float) -> str:
    """An answer as one line of JSON; of the detections the first `served` are those that the node publishes."""
    percepts = answer.percepts
    line: dict[str, Any] = {
        "stamp_ns": answer.stamp_ns,
        "rgb_stamp_ns": answer.rgb_stamp_ns,
        "ir_stamp_ns": answer.ir_stamp_ns,
        "error_ms": None if answer.error_ns is None else answer.error_ns / _MS,
        "mode": answer.mode.value,
        "frame_id": answer.frame_id,
    }
    if percepts is None:
        line |= {"failed": answer.cause, "why": answer.error}
    else:
        line["size"] = list(percepts.size)
        line["served"] = int((percepts.scores >= threshold).sum())
        line["detections"] = [
            {
                "class": info.box_classes[int(label)],
                "score": round(float(score), 6),
                "box": [round(float(v), 3) for v in box],
            }
            for box, score, label in zip(percepts.boxes, percepts.scores, percepts.labels, strict=True)
        ]
    return json.dumps(line, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


class Matcher:
    """Which moment an answer belongs to by the colour camera's clock, and what it found in that camera's pixels."""

    def __init__(self, bag: ScoredBag, options: Options) -> None:
        self._bag = bag
        self._tolerance_ns = bag.tolerance_ns
        self._slop_ns = max(round(options.settings.sync_slop_ms * _MS), bag.tolerance_ns)

    def judged(self, answer: Answer, replay: Replay) -> tuple[int, PerceptionResult, int] | None:
        """(stamp, percepts, tolerance) for `LabelledFrames.add`; None of a capture that failed."""
        percepts = answer.percepts
        if percepts is None:
            return None
        if answer.rgb_stamp_ns is not None or replay.feed is None or self._bag.colour_size is None:
            return answer.stamp_ns, percepts, self._tolerance_ns
        feed = replay.feed
        offset_ns = self._bag.ir_offset_ns if feed.by_arrival else round(feed.ir_time_offset_ms * _MS)
        percepts = in_colour_pixels(percepts, replay.registering.current, self._bag.colour_size)
        return answer.stamp_ns - offset_ns, percepts, self._slop_ns


class _Kept:
    """What is gathered while a bag is replayed."""

    def __init__(self, unit: Unit, bag: ScoredBag, replay: Replay, info: ModelInfo, threshold: float) -> None:
        self._unit, self._bag, self._replay = unit, bag, replay
        self._info, self._threshold = info, threshold
        self._labelled = None if bag.truth is None else LabelledFrames(bag.truth, bag.places, info)
        self._match = Matcher(bag, unit.options)
        self._worst = WorstFrames(info, threshold, unit.options.pictures, _APART_NS)
        self._rows = array("q")
        self._answers = 0
        self._failures: dict[str, str] = {}
        self._ir_invalid = array("d")
        self._drops: list[tuple[int, dict[str, int]]] = []
        self._steps: dict[str, array[float]] = {}
        self.events: list[FeedEvent] = []
        with suppress(FileNotFoundError):
            shutil.rmtree(unit.folder / "masks")  # of another model, or other answers
        if unit.options.masks:
            (unit.folder / "masks").mkdir(parents=True)

    def take(self, answer: Answer) -> None:
        self.events += self._replay.take_events()
        percepts = answer.percepts
        found = 0 if percepts is None else int((percepts.scores >= self._threshold).sum())
        self._rows.extend(
            (
                answer.stamp_ns,
                NO_ERROR if answer.rgb_stamp_ns is None else answer.rgb_stamp_ns,
                NO_ERROR if answer.ir_stamp_ns is None else answer.ir_stamp_ns,
                NO_ERROR if answer.error_ns is None else answer.error_ns,
                answer.ready_ns,
                answer.ready_ns - answer.received_ns,
                MODES.index(answer.mode),
                percepts is None,
                found,
            )
        )
        if not self._drops or self._drops[-1][1] != answer.drops:
            self._drops.append((answer.ready_ns, dict(answer.drops)))
        for name in answer.steps_ms:
            self._steps.setdefault(name, array("d", [math.nan]) * self._answers)
        for name, column in self._steps.items():
            column.append(answer.steps_ms.get(name, math.nan))
        self._answers += 1
        if percepts is not None and percepts.ir_invalid is not None:
            self._ir_invalid.append(percepts.ir_invalid)
        judged = self._match.judged(answer, self._replay)
        if percepts is None or judged is None:
            self._failures.setdefault(answer.cause, answer.error)
            return
        stamp_ns, in_colour, tolerance_ns = judged
        place = None if self._labelled is None else self._labelled.add(stamp_ns, in_colour, tolerance_ns)
        if self._labelled is None or place is not None:
            self._look_at(answer, percepts, in_colour, place)
        if self._unit.options.masks and percepts.mask is not None:
            data = cv2.imencode(".png", percepts.mask)[1].tobytes()
            (self._unit.folder / "masks" / f"{answer.stamp_ns}.png").write_bytes(data)

    def check(self) -> None:
        """Refuses a drive of which nothing could be answered: no camera can be read, or model or parameters don't
        belong to these cameras. One whose frames find no partner can be scored all the same, if it is labelled."""
        counted = self._bag.reader.messages_of.values()
        if not self._answers and (self._bag.truth is None or nothing_read(counted)):
            cameras = "; ".join(map(str, counted)) or "no message of a camera"
            drops = ", ".join(f"{count} {cause}" for cause, count in self._replay.drops().items()) or "nothing"
            raise ValueError(f"not a single capture could be made: {cameras}; dropped: {drops}")
        if self._answers and all(self._rows[_COLUMNS.index("failed") :: len(_COLUMNS)]):
            text = "; ".join(f"{cause}: {why}" for cause, why in sorted(self._failures.items()))
            raise ValueError(f"each of {self._answers} captures failed ({text})")

    def write(self, engine: dict[str, Any], described: dict[str, str]) -> None:
        folder = self._unit.folder
        arrays = self._answer_arrays()
        evidence = stored("answers", arrays) | stored("truth", self._bag.truth_arrays())
        if self._labelled is not None:
            evidence |= stored("node", self._labelled.arrays())
        save_arrays(folder / "timings.npz", self._timings())
        self._write_worst(folder / "pictures")
        facts = self._facts(arrays) | described | {"engine": engine.pop("label")}
        with written_atomically(folder / "node.json") as scratch:
            scratch.write_text(json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        with written_atomically(folder / "engine.json") as scratch:
            scratch.write_text(json.dumps(engine, sort_keys=True) + "\n", encoding="utf-8")
        save_arrays(self._unit.evidence, evidence)  # last: what is there then is whole

    def _answer_arrays(self) -> dict[str, np.ndarray]:
        arrays = dict(zip(_COLUMNS, np.array(self._rows, np.int64).reshape(-1, len(_COLUMNS)).T))
        arrays["mode"], arrays["failed"] = arrays["mode"].astype(np.int8), arrays["failed"].astype(bool)
        causes = sorted({cause for _, drops in self._drops for cause in drops})
        arrays["drop_causes"] = np.array(causes, np.str_)
        arrays["drop_ns"] = np.array([at for at, _ in self._drops], np.int64)
        counts = [[drops.get(cause, 0) for cause in causes] for _, drops in self._drops]
        arrays["drop_counts"] = np.array(counts, np.int64).reshape(len(self._drops), len(causes))
        return arrays

    def _timings(self) -> dict[str, np.ndarray]:
        return {name: np.array(column) for name, column in self._steps.items()}

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
        drops = replay.drops()
        for cause, count in bag.reader.events.items():
            if cause.endswith("_bad_message"):  # of headers; those of bodies are the replay's
                drops[cause] = drops.get(cause, 0) + count
            elif count:
                drops.setdefault(cause, count)
        learnt = None if replay.feed is None else replay.feed.learnt_offset
        labelled = self._labelled
        return {
            "first_ns": bag.first_ns,
            "seconds": round((bag.last_ns - bag.first_ns) / 1e9, 3),
            "cameras": {
                "rgb": self._camera("rgb", bag.rgb_ns, bag.rgb_size),
                "ir": self._camera("ir", bag.ir_ns, bag.ir_size),
            },
            "pairing": pairing_figures([arrays]),
            "drops": dict(sorted(drops.items())),
            "failures": dict(sorted(self._failures.items())),
            "unreadable": [str(camera) for camera in bag.reader.messages_of.values() if camera.refused],
            "restarts": 0 if replay.feed is None else replay.feed.restarts,
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
            "damage": [text.replace(str(self._unit.bag), Path(self._unit.name).name) for text in bag.reader.damage],
            "truth": bag.truth_facts(),
            "answers_without_truth": None if labelled is None else labelled.without_truth,
            "answers_repeated": None if labelled is None else labelled.repeated,
        } | self._invalid_facts()

    def _invalid_facts(self) -> dict[str, Any]:
        """How much of the infrared frames was no measurement; nothing where all of it was one."""
        fractions = np.array(self._ir_invalid)
        if not fractions.any():
            return {}
        facts = {"frames": int(np.count_nonzero(fractions)), "mean": fractions.mean(), "max": fractions.max()}
        return {"ir_invalid_pixels": rounded(facts)}

    def _camera(self, key: str, stamps_ns: np.ndarray, size: tuple[int, int] | None) -> dict[str, Any]:
        reader = self._bag.reader
        camera = reader.messages_of.get(key)
        return stream_figures(stamps_ns) | {
            "topic": reader.topic_of(key),
            "messages": camera.messages if camera else 0,
            "refused": dict(sorted(camera.refused.items())) if camera else {},
            "size": None if size is None else list(size),
            "encoding": self._bag.encodings.get(key, ""),
        }

    def _look_at(
        self, answer: Answer, percepts: PerceptionResult, in_colour: PerceptionResult, place: int | None
    ) -> None:
        true = None
        if self._bag.truth is not None and place is not None:
            true = self._bag.truth.frames[place].true_boxes
            percepts = in_colour  # as truth is
        registration = self._replay.registering.current

        def images() -> list[np.ndarray]:
            shown = [] if answer.rgb is None else [answer.rgb.pixels]
            if answer.ir is not None:
                grey = infrared_to_grey(answer.ir.pixels)  # before the warp, whose border would stretch the range
                size = (int(grey.shape[1]), int(grey.shape[0]))
                if percepts.size != size or (registration is not None and percepts is in_colour):
                    matrix = (registration or Registration.whole(size, percepts.size)).for_sizes(size, percepts.size)
                    grey = cv2.warpPerspective(grey, matrix, percepts.size)
                shown.append(grey)
            return shown

        name = f"{in_seconds(answer.stamp_ns)} ({percepts.mode.value})"
        self._worst.add(name, percepts, images, true, answer.stamp_ns)

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


def progress_bar(answers: Any, unit: Unit, frames: int) -> Any:
    """The same answers, with a bar on a terminal if the unit asks for one and tqdm is there."""
    if not unit.progress:
        return answers
    try:
        from tqdm import tqdm
    except ImportError:
        return answers
    return tqdm(answers, total=frames, desc=f"{unit.name} {unit.run}", unit=" answers", leave=False, disable=None)


def _described(replay: Replay) -> str:
    current = replay.registering.current
    if current is None:
        return replay.registering.describe()
    source = Path(current.source).name if "/" in current.source else current.source
    return f"{source}: " + ", ".join(f"{v:.6g}" for v in current.matrix)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays into one compressed file, whole or not at all."""
    with written_atomically(path) as scratch, scratch.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
