"""Options of an evaluation, and one unit of its work as passed to a process."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from spectradino_core import __version__
from spectradino_core.bags.ground_truth import MADE_BOXES, MADE_MASKS, GroundTruthError
from spectradino_core.bags.replay import ReplayOptions
from spectradino_core.bags.storage import StoredTopic
from spectradino_core.bags.topics import DETECTIONS, IMAGE
from spectradino_core.evaluation.detection import SCORE_FLOOR
from spectradino_core.files import file_digest
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.streams.detecting import open_pipeline
from spectradino_core.streams.settings import Settings

EVIDENCE_FORMAT = 3
"""Increased when files in a bag's folder change their meaning, so that older results do not count as finished."""

SWEEPS = {
    "dropout_rgb": ("fraction of RGB frames lost", 0.0, 1.0),
    "dropout_ir": ("fraction of infrared frames lost", 0.0, 1.0),
    "offset": ("infrared stamps late by [ms]", -10_000.0, 10_000.0),
    "ir_rate": ("infrared frame rate [Hz]", 0.1, 1000.0),
    "shift": ("infrared image too far right by [px of the RGB image]", -10_000.0, 10_000.0),
}
"""Sweepable quantities: description, minimum and maximum. The description is part of result.json."""

_ALIASES = {
    "dropout": ("dropout_rgb", "dropout_ir"),
    "offset_ir": ("offset",),
    "shift_ir": ("shift",),
}


@dataclass(frozen=True)
class LabelSource:
    """Source of the ground truth: a file or topics of the bag.

    By default the topics of `spectradino bag make` are used if the bag has them, else it is replayed without scores.

    Attributes:
        file: COCO JSON file, or a folder with one for each bag, see `file_for`.
        topic, mask_topic: Detection2DArray and mask Image topic of the bag; "": none.
        mask_classes: names of the mask values; empty: see `ground_truth`.
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

    def file_for(self, name: str) -> Path | None:
        """Return the labels of one bag: `NAME.json`, or `NAME.coco.json` as `spectradino bag make` writes it."""
        if self.file is None or not self.file.is_dir():
            return self.file
        plain = name.rpartition("/")[2]
        for stem in dict.fromkeys((plain, plain.removesuffix(".mcap").removesuffix(".db3"))):
            for ending in (".json", ".coco.json"):
                if (path := self.file / f"{stem}{ending}").is_file():
                    return path
        available = ", ".join(sorted(p.name for p in self.file.glob("*.json"))[:8]) or "no JSON files"
        raise GroundTruthError(
            f"{self.file} has neither {plain}.json nor {plain}.coco.json for the labels of bag {name}, only {available}"
        )

    def recorded_in(self, topics: Mapping[str, StoredTopic], has_masks: bool = True) -> LabelSource:
        """Return the labels with the topics of `spectradino bag make` if none were given and the bag has them."""
        if self.file is not None:
            return self
        # If a topic is given, no other is added: scoring given boxes does not imply scoring recorded masks.
        boxes = self.topic is None and not self.mask_topic and _holds(topics, MADE_BOXES, DETECTIONS)
        masks = self.topic is None and self.mask_topic is None and has_masks and _holds(topics, MADE_MASKS, IMAGE)
        return replace(
            self, topic=MADE_BOXES if boxes else self.topic, mask_topic=MADE_MASKS if masks else self.mask_topic
        )


@dataclass(frozen=True)
class Sweep:
    """One swept quantity: a key of `SWEEPS` and its values in rising order, including 0 except for `ir_rate`."""

    kind: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Options(ReplayOptions):
    """Options of an evaluation, the same for every bag.

    Attributes:
        sweeps, seed: quantities to sweep, and what selects the frames that a dropout removes.
        worst_frames: number of worst frames kept as images, per bag.
        masks: write each mask as a PNG.
    """

    model: Path = field(kw_only=True)
    labels: LabelSource = field(default_factory=LabelSource)
    sweeps: tuple[Sweep, ...] = ()
    seed: int = 0
    worst_frames: int = 8
    masks: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.worst_frames <= 100:
            raise ValueError(f"0 to 100 images can be kept of each bag, got {self.worst_frames}")

    def described(self) -> dict[str, Any]:
        """Return, as JSON data without paths, all that results depend on except model, bags and labels."""
        settings = asdict(self.settings)
        del settings["model"]
        if settings["calibration_file"]:
            path = Path(os.path.expanduser(settings["calibration_file"]))
            digest = file_digest(path) if path.is_file() else "missing"
            settings["calibration_file"] = {"name": path.name, "sha256": digest}
        return {
            "parameters": settings,
            "topics": {"rgb": self.rgb_topic, "ir": self.ir_topic},
            "clock": self.clock,
            "score_floor": SCORE_FLOOR,
            "labels": {
                "gt_topic": self.labels.topic,
                "gt_mask_topic": self.labels.mask_topic,
                "gt_mask_classes": list(self.labels.mask_classes),
                "tolerance_ms": self.labels.tolerance_ms,
            },
            "sweeps": {sweep.kind: list(sweep.values) for sweep in self.sweeps},
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Unit:
    """One replay of one bag, run by one process: the node's, or a run of a sweep, into the bag's output folder."""

    bag: Path
    name: str
    folder: Path
    run: str
    options: Options
    progress: bool = False

    @property
    def evidence(self) -> Path:
        """File with the arrays of the run."""
        return self.folder / f"{self.run}.npz"

    def is_finished(self, key: str) -> bool:
        """Return whether results with this work key exist."""
        try:
            return self.evidence.is_file() and self._marker.read_text(encoding="utf-8") == key
        except (OSError, UnicodeDecodeError):
            return False

    def unfinish(self) -> None:
        """Invalidate the results of an older run."""
        self._marker.unlink(missing_ok=True)

    def finish(self, key: str) -> None:
        """Mark the results as complete."""
        self._marker.write_text(key, encoding="utf-8")

    @property
    def _marker(self) -> Path:
        return self.folder / f"{self.run}.done"


def parse_sweeps(texts: Sequence[str]) -> tuple[Sweep, ...]:
    """Parse sweeps as given on the command line: "dropout=0,0.5,1", also several joined by commas.

    0 (no degradation) is always added, except to `ir_rate`. Raises ValueError for an unknown name, no values, or a
    value that is not a number or out of range.
    """
    found: dict[str, set[float]] = {}
    kinds: tuple[str, ...] = ()
    for text in texts:
        kinds = ()
        for word in text.split(","):
            name, equals, value = word.rpartition("=")
            if equals:
                kinds = _ALIASES.get(name.strip(), (name.strip(),))
            unknown = [kind for kind in kinds if kind not in SWEEPS]
            if unknown or not kinds:
                names = ", ".join([*SWEEPS, *_ALIASES])
                raise ValueError(f"--sweep {text}: give NAME=VALUE,VALUE,.. with one of the names {names}")
            for kind in kinds:
                found.setdefault(kind, set() if kind == "ir_rate" else {0.0}).add(_value(text, kind, value))
    return tuple(Sweep(kind, tuple(sorted(found[kind]))) for kind in SWEEPS if kind in found)


def _value(text: str, kind: str, word: str) -> float:
    words, low, high = SWEEPS[kind]
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"--sweep {text}: {word.strip()!r} is not a number") from None
    if not low <= value <= high:
        raise ValueError(f"--sweep {text}: {kind} ({words}) must lie in {low:g} to {high:g}, got {value:g}")
    return value


def pipeline_of(options: Options) -> Pipeline:
    """Open the model as `detecting.open_pipeline` does, once per process; reset for a new run."""
    state = options.model.stat() if options.model.is_file() else None
    found = _opened(options.model, state and (state.st_mtime_ns, state.st_size, state.st_ino), options.settings)
    found.reset()
    found.registration = None
    return found


def _holds(topics: Mapping[str, StoredTopic], name: str, kind: str) -> bool:
    return name in topics and topics[name].kind == kind and topics[name].count > 0


@lru_cache(maxsize=1)
def _opened(model: Path, state: Any, settings: Settings) -> Pipeline:
    pipeline = open_pipeline(model, settings)
    pipeline.warm_up()
    return pipeline


def work_key(*parts: Any) -> str:
    """Hash of everything that a result was computed from."""
    text = json.dumps([EVIDENCE_FORMAT, __version__, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def without_path(text: str, bag: Path, name: str) -> str:
    """Replace the path by the bag's name, or remove it at the start: the same failure elsewhere gives the same bytes.

    Reports print the bag's name before the text.
    """
    text = text.replace(str(bag.resolve()), name).replace(str(bag), name)
    return text.removeprefix(f"{name}: ").removeprefix(f"{name} ")
