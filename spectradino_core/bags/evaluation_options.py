"""Options of an evaluation, and one unit of its work as passed to a process."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from spectradino_core import __version__
from spectradino_core.bags.scored_bag import LabelSource
from spectradino_core.evaluation.detection import SCORE_FLOOR
from spectradino_core.files import open_file
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.streams.detecting import open_pipeline
from spectradino_core.streams.settings import Settings

__all__ = [
    "EVIDENCE_FORMAT",
    "SWEEPS",
    "Options",
    "Sweep",
    "Unit",
    "file_digest",
    "parse_sweeps",
    "pipeline_of",
    "work_key",
]

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
class Sweep:
    """One swept quantity: a key of `SWEEPS` and its values in rising order, including 0 except for `ir_rate`."""

    kind: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Options:
    """Options of an evaluation, the same for every bag.

    Attributes:
        model: the model file.
        settings: the node's parameters.
        labels: source of the ground truth.
        rgb_topic, ir_topic: see `BagReader`.
        sweeps: quantities to sweep.
        seed: selects the frames that a dropout sweep removes.
        worst_frames: number of worst frames kept as images, per bag.
        masks: write each mask as a PNG.
        clock: arrival time of a frame, see `Replay`.
    """

    model: Path
    settings: Settings = field(default_factory=Settings)
    labels: LabelSource = field(default_factory=LabelSource)
    rgb_topic: str | None = None
    ir_topic: str | None = None
    sweeps: tuple[Sweep, ...] = ()
    seed: int = 0
    worst_frames: int = 8
    masks: bool = False
    clock: str = "received"

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
    """One replay of one bag, run by one process.

    Attributes:
        bag: the bag.
        name: its name in reports.
        folder: its output folder.
        run: "node", or a run of a sweep.
        options: options of the evaluation.
        progress: whether to show a progress bar.
    """

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

    `dropout` means `dropout_rgb` and `dropout_ir`. 0 (no degradation) is always added, except to `ir_rate`.

    Raises:
        ValueError: an unknown name, no values, or a value that is not a number or out of range.
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
    """Open the model with the node's parameters, once per process; reset for a new run.

    Raises:
        BundleError, EngineError, ThermalError: see `detecting.open_pipeline`.
    """
    state = options.model.stat() if options.model.is_file() else None
    found = _opened(options.model, state and (state.st_mtime_ns, state.st_size, state.st_ino), options.settings)
    found.reset()
    found.registration = None
    return found


@lru_cache(maxsize=1)
def _opened(model: Path, state: Any, settings: Settings) -> Pipeline:
    pipeline = open_pipeline(model, settings)
    pipeline.warm_up()
    return pipeline


def file_digest(path: Path, kind: str = "file") -> str:
    """Compute the SHA-256 of a file's content; `kind` describes the file in errors.

    Raises:
        FileError: the file cannot be read, or is a placeholder.
        OSError: a read failed.
    """
    digest = hashlib.sha256()
    with open_file(path, kind) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def work_key(*parts: Any) -> str:
    """Hash of everything that a result was computed from."""
    text = json.dumps([EVIDENCE_FORMAT, __version__, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
