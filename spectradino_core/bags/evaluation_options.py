"""What an evaluation is asked to do, and one piece of its work as it is handed to a process."""

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
from spectradino_core.bags.scored_bag import Labels
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

EVIDENCE_FORMAT = 2
"""Raised when what a bag's folder holds changes its meaning, so that nothing older is taken for finished."""

SWEEPS = {
    "dropout_rgb": ("share of colour frames lost", 0.0, 1.0),
    "dropout_ir": ("share of infrared frames lost", 0.0, 1.0),
    "offset": ("infrared stamps late by [ms]", -10_000.0, 10_000.0),
    "shift": ("infrared picture too far right by [px of the colour image]", -10_000.0, 10_000.0),
}
"""What can be swept: in words, least and largest value."""

_ALIASES = {
    "dropout": ("dropout_rgb", "dropout_ir"),
    "offset_ir": ("offset",),
    "shift_ir": ("shift",),
}


@dataclass(frozen=True)
class Sweep:
    """One thing that gets worse, step by step: a key of `SWEEPS` and its values, rising, 0 among them."""

    kind: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Options:
    """What is evaluated and how; the same for every bag.

    Attributes:
        model: the model file.
        settings: the node's parameters.
        labels: where the ground truth is.
        rgb_topic, ir_topic: see `BagReader`.
        sweeps: what is made worse, step by step.
        seed: of the frames that a sweep's dropout takes.
        pictures: how many pictures of the worst frames are kept, of each bag.
        masks: write each mask as a PNG.
        clock: when a frame came, see `Replay`.
    """

    model: Path
    settings: Settings = field(default_factory=Settings)
    labels: Labels = field(default_factory=Labels)
    rgb_topic: str | None = None
    ir_topic: str | None = None
    sweeps: tuple[Sweep, ...] = ()
    seed: int = 0
    pictures: int = 8
    masks: bool = False
    clock: str = "received"

    def __post_init__(self) -> None:
        if not 0 <= self.pictures <= 100:
            raise ValueError(f"0 to 100 pictures can be kept of each bag, got {self.pictures}")

    def described(self) -> dict[str, Any]:
        """For JSON: all that the figures depend on but the model, the bags and the labels; no path."""
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
    """One replay of one bag: what a process is given.

    Attributes:
        bag: the bag.
        name: what it is called in reports.
        folder: where its results go.
        run: "node", or a run of a sweep.
        options: what is asked for.
        progress: show a progress bar.
    """

    bag: Path
    name: str
    folder: Path
    run: str
    options: Options
    progress: bool = False

    @property
    def evidence(self) -> Path:
        """The arrays that the run leaves."""
        return self.folder / f"{self.run}.npz"

    def is_finished(self, key: str) -> bool:
        """Whether its results are there, made from the same things."""
        try:
            return self.evidence.is_file() and self._marker.read_text(encoding="utf-8") == key
        except (OSError, UnicodeDecodeError):
            return False

    def unfinish(self) -> None:
        """Nothing of an older run is to be taken for this one's."""
        self._marker.unlink(missing_ok=True)

    def finish(self, key: str) -> None:
        """Marks the results as whole."""
        self._marker.write_text(key, encoding="utf-8")

    @property
    def _marker(self) -> Path:
        return self.folder / f"{self.run}.done"


def parse_sweeps(texts: Sequence[str]) -> tuple[Sweep, ...]:
    """Sweeps as given on the command line: "dropout=0,0.5,1", also several joined by commas.

    `dropout` stands for `dropout_rgb` and `dropout_ir`. 0, where nothing is worse, is always among the values.

    Raises:
        ValueError: an unknown name, no values, or one that is no number or out of its range.
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
                raise ValueError(f"--sweep {text}: it is NAME=VALUE,VALUE,.. with one of the names {names}")
            for kind in kinds:
                found.setdefault(kind, {0.0}).add(_value(text, kind, value))
    return tuple(Sweep(kind, tuple(sorted(found[kind]))) for kind in SWEEPS if kind in found)


def _value(text: str, kind: str, word: str) -> float:
    words, low, high = SWEEPS[kind]
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"--sweep {text}: {word.strip()!r} is not a number") from None
    if not low <= value <= high:
        raise ValueError(f"--sweep {text}: {kind} ({words}) lies in {low:g} to {high:g}, got {value:g}")
    return value


def pipeline_of(options: Options) -> Pipeline:
    """The model opened under the node's parameters, once in a process however many runs it does, as if new.

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


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        FileError: it can't be read, or is a placeholder.
        OSError: a read failed.
    """
    digest = hashlib.sha256()
    with open_file(path, "file") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def work_key(*parts: Any) -> str:
    """One text for all that a result was made from."""
    text = json.dumps([EVIDENCE_FORMAT, __version__, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
