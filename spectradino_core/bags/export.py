"""Export frames of a recording as a folder for labelling and fine-tuning, with the model's detections as labels.

    DIR/rgb/1700000000_012345678.png     named by the stamp of the RGB frame, seconds and nanoseconds
    DIR/lwir/1700000000_012345678.png    the IR frame that it was paired with: counts, 8 or 16 bits
    DIR/labels.json                      COCO; or as YOLO: DIR/labels/*.txt and DIR/data.yaml
    DIR/.spectradino_export              marks the folder as one that --overwrite may replace

The node's own pairing decides. An IR frame is exported once, with the RGB frame that it was first used for, which is
the nearest one. Labelling tools drop fields that they do not know, and some replace points in names; the stamps survive
in these names, so that `bag evaluate --labels` and `finetune --data` take what the tools return.

Letters: h x w an image.
"""

from __future__ import annotations

import heapq
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from spectradino_core import __version__
from spectradino_core.bags import BagError
from spectradino_core.bags.ground_truth import in_seconds
from spectradino_core.bags.reader import BagReader, describe_intake
from spectradino_core.bags.replay import Replay, ReplayOptions, ReplayResult, SkippingEngine
from spectradino_core.bags.selection import Selection, Selector, disagreement
from spectradino_core.bags.writer import discard_scratch, replace_folder, scratch_folder
from spectradino_core.calibration.registration import Registration
from spectradino_core.drawing import encoded
from spectradino_core.files import make_folder, write_error
from spectradino_core.invalid_counts import InvalidCounts
from spectradino_core.modality import Modality
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.perception_result import PerceptionResult
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.preprocess import without_invalid
from spectradino_core.runtime.rgb_grid import in_colour_pixels
from spectradino_core.streams.detecting import find, open_pipeline, pipeline_of
from spectradino_core.streams.settings import Settings
from spectradino_core.thermal import ThermalContract

log = logging.getLogger(__name__)

FORMATS = ("coco", "yolo")

_MARKER = ".spectradino_export"
"""File by which an export is recognised: a data set of the user's own may have the same folders and names."""
_OURS = {"rgb", "ir", "nir", "swir", "lwir", "labels", "labels.json", "data.yaml", _MARKER}


@dataclass(frozen=True)
class ExportOptions(ReplayOptions):
    """Options of `export_frames`.

    Attributes:
        selection: which frames.
        form: form of the labels, one of `FORMATS`.
        register: whether to warp IR images to the RGB image's pixels.
        overwrite: whether to replace an earlier export.
    """

    selection: Selection = field(default_factory=Selection)
    form: str = "coco"
    register: bool = False
    overwrite: bool = False


class Exported(NamedTuple):
    """Outcome of `export_frames`.

    Attributes:
        path: the folder.
        frames, labels: number of "pairs", "RGB only" and "IR only", and of labels by class.
        skipped: number of results of the replay that were not exported, by reason in words.
        is_registered: whether IR images are in RGB pixels; None: no pair was exported, or no registration is known.
    """

    path: Path
    frames: dict[str, int]
    labels: dict[str, int]
    skipped: dict[str, int]
    is_registered: bool | None


def export_frames(
    bag: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    options: ExportOptions | None = None,
    tick: Callable[[BagReader], object] = lambda reader: None,
) -> Exported:
    """Export frames of a recording; the folder, also behind a symbolic link, appears when it is complete.

    The detections of the model, if one is given, become labels. `tick` is called after each frame of either camera.

    Raises:
        BagError: the recording cannot be read, nothing is selected, `out` exists, or options contradict each other.
        BundleError, EngineError, ThermalError, RegistrationError, ParameterError: see `replay`.
        OSError: writing failed.
    """
    options, out = options or ExportOptions(), Path(os.path.realpath(out))
    if options.form not in FORMATS:
        raise BagError(f"the form of labels must be one of {', '.join(FORMATS)}, got {options.form!r}")
    if model is None and options.selection.by == "disagreement":
        raise BagError("frames can be selected by disagreement only with a model (--model)")
    _check_out(out, options.overwrite)
    with options.reader(bag) as reader:
        run = _Run(reader, model, options)
        # A fresh folder, so that what a killed run left behind is not taken over. Its name is known before it exists,
        # as a signal may end the command while it is created.
        scratch = scratch_folder(out)
        try:
            scratch.mkdir()
            written = run.write(scratch / "new", tick)
            _check_out(out, options.overwrite)  # it may have appeared meanwhile
            _replace(out, scratch / "new", scratch / "old")
        finally:
            discard_scratch(scratch, scratch / "new", scratch / "old")
    return written._replace(path=out)


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.exists():
        make_folder(out.parent)
        return
    if not out.is_dir():
        raise BagError(f"{out} is a file: give a folder (--out)")
    existing = sorted(path.name for path in out.iterdir())
    if others := [name for name in existing if name not in _OURS]:
        raise BagError(f"{out} holds other files than an export ({', '.join(others[:3])}): choose another name")
    if existing and _MARKER not in existing:
        raise BagError(
            f"{out} holds {', '.join(existing[:3])} but no {_MARKER}, so it may be a data set of your own: choose "
            "another name, or remove it"
        )
    if existing and not overwrite:
        raise BagError(f"{out} holds an export already: give --overwrite to replace it, or another name")


def _replace(out: Path, new: Path, backup: Path) -> None:
    """Move `new` to `out`; an export there is moved to `backup`, and removed, or moved back if that fails."""
    if not out.exists() or not any(out.iterdir()):
        new.rename(out)
        return
    replace_folder(out, new, backup)
    try:
        shutil.rmtree(backup)
    except OSError as error:
        log.warning("the former export could not be removed from %s: %s", backup, error)


class _Run:
    """Export of one recording."""

    def __init__(self, reader: BagReader, model: str | Path | None, options: ExportOptions) -> None:
        self._reader, self._options = reader, options
        settings = options.settings
        self._has_labels = model is not None
        if model is None:
            pipeline = Pipeline(SkippingEngine(_no_model(settings)), smoothing=settings.smoothing)
            band = settings.infrared_band or "ir"
        else:
            pipeline = open_pipeline(model, settings)
            band = pipeline.info.infrared.key
        self._band, self._pipeline, self._info = band, pipeline, pipeline.info
        self._alone: Pipeline | None = None
        if model is not None and options.selection.by == "disagreement":
            if self._info.streams != "both":
                raise BagError(f"{model} takes one camera, so there is no disagreement: give a model of both")
            # A pipeline of its own, because the thermal range of the recording follows each call.
            self._alone = pipeline_of(pipeline.engine, settings.with_(thermal_smoothing=0.0), model)
        pipeline.engine = self._engine = (
            pipeline.engine if isinstance(pipeline.engine, SkippingEngine) else SkippingEngine(pipeline.engine)
        )
        self._engine.skip = True
        self._replay = Replay(pipeline, settings, options.clock)
        self._selector = Selector(options.selection, self._disagreement)
        self._skipped: Counter[str] = Counter()
        self._is_registered: bool | None = None

    def write(self, folder: Path, tick: Callable[[BagReader], object]) -> Exported:
        entries: list[tuple[float, int, _Frame]] = []  # a heap, the smallest disagreement first
        limit, by_rank = self._options.selection.limit, self._options.selection.by == "disagreement"
        names: set[str] = set()
        for result in self._replay.run(self._reader, lambda: tick(self._reader)):
            if limit is not None and len(entries) >= limit and not by_rank:
                break
            value = self._selector(result) if self._is_usable(result, names) else None
            if value is None:
                continue
            if limit is not None and len(entries) >= limit and value <= entries[0][0]:
                self._skipped["less disagreement"] += 1
                continue
            frame = self._written(folder, result)
            names.add(frame.name)
            heapq.heappush(entries, (value, -result.number, frame))
            if limit is not None and len(entries) > limit:
                for path in heapq.heappop(entries)[2].paths:
                    path.unlink()
                self._skipped["less disagreement"] += 1
        frames = sorted((frame for _, _, frame in entries), key=lambda frame: frame.stamp_ns)
        skipped = dict(self._selector.skipped + self._skipped)
        if not frames:
            reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "there are none"
            intake = describe_intake(self._reader.messages_of.values(), self._replay.drops(), self._replay.failures)
            raise BagError(f"{self._reader.path}: no frame is selected ({reasons}), so nothing is written: {intake}")
        labels = Counter(name for frame in frames for name, _ in frame.objects)
        if self._has_labels:
            (_write_coco if self._options.form == "coco" else _write_yolo)(folder, frames, self._info, self._reader)
        (folder / _MARKER).write_text(f"spectradino {__version__}: bag export of {self._reader.path.name}\n", "utf-8")
        kinds = Counter(frame.kind for frame in frames)
        return Exported(folder, dict(kinds), dict(sorted(labels.items())), skipped, self._is_registered)

    def _is_usable(self, result: ReplayResult, names: set[str]) -> bool:
        """Whether a result has frames of its own; otherwise the reason is counted."""
        reason = ""
        if result.perception is None:
            reason = "failed"
        elif result.rgb is None and self._reader.rgb_topic:
            reason = "without an RGB frame"  # labels are of RGB frames
        elif result.ir_reused:
            reason = "with an IR frame that is exported already or nearer to another RGB frame"
        elif _name_of(result.stamp_ns) in names:
            reason = "with a repeated stamp"
        if reason:
            self._skipped[reason] += 1
        return not reason

    def _found(self, result: ReplayResult) -> PerceptionResult:
        """Run the network on a result's frames, as it would have been run in the replay: they were prepared last."""
        self._engine.skip = False
        try:
            found = find(
                self._pipeline, self._replay.registering, self._options.settings, result.rgb, result.ir, False,
                result.stamp_ns,
            )  # fmt: skip
        finally:
            self._engine.skip = True
        return found if found.native is None else found.native

    def _disagreement(self, result: ReplayResult) -> float:
        assert self._alone is not None
        assert result.rgb is not None
        assert result.ir is not None
        self._alone.reset()
        of_rgb, of_ir = self._alone(result.rgb.pixels, None), self._alone(None, result.ir.pixels)
        mapped = in_colour_pixels(of_ir, self._replay.registering.current, of_rgb.size)
        return disagreement(of_rgb, mapped, len(self._info.box_classes))

    def _written(self, folder: Path, result: ReplayResult) -> _Frame:
        """Write the images of a result; return them with its labels."""
        name = _name_of(result.stamp_ns)
        images = {}
        if result.rgb is not None:
            images[folder / "rgb" / f"{name}.png"] = result.rgb.pixels
        if result.ir is not None:
            images[folder / self._band / f"{name}.png"] = self._infrared(result)
        for path, pixels in images.items():
            make_folder(path.parent)
            _write_png(path, pixels)
        height, width = next(iter(images.values())).shape[:2]
        objects = []
        if self._has_labels:
            found = self._found(result)
            objects = [
                (self._info.box_classes[int(label)], (*(float(v) for v in box), float(score)))
                for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
            ]
        kind = "pairs" if len(images) == 2 else "RGB only" if result.rgb is not None else "IR only"
        return _Frame(result.stamp_ns, name, kind, tuple(images), (width, height), objects)

    def _infrared(self, result: ReplayResult) -> np.ndarray:
        """Return the counts of a result's IR frame, in RGB pixels where requested."""
        assert result.ir is not None
        counts, registration = result.ir.pixels, self._replay.registering.current
        if result.rgb is None:
            return counts
        if self._options.register and registration is None:
            raise BagError(
                "--register needs the registration of the two cameras: give --calibration-file, --ir-to-rgb or "
                "--registration-from-camera-info"
            )
        self._is_registered = None if registration is None else self._options.register
        if not self._options.register or registration is None:
            return counts
        contract = self._options.settings.contract_of(self._info)
        valid = InvalidCounts(contract.invalid_counts, contract.recognise_invalid)(counts)
        return _in_colour_pixels(counts, valid, registration, result.rgb.size or (0, 0))


class _Frame(NamedTuple):
    """An exported frame, with the size (width, height) of the labelled image and (class, (x1, y1, x2, y2, score))."""

    stamp_ns: int
    name: str
    kind: str
    paths: tuple[Path, ...]
    size: tuple[int, int]
    objects: list[tuple[str, tuple[float, ...]]]

    @property
    def file_name(self) -> str:
        """The labelled image below the folder: the RGB image, if there is one."""
        return f"{self.paths[0].parent.name}/{self.paths[0].name}"


def _in_colour_pixels(
    counts: np.ndarray, valid: np.ndarray | None, registration: Registration, size: tuple[int, int]
) -> np.ndarray:
    """Warp counts [h', w'] to the RGB image's pixels; 0 where `valid` is 0, or the IR camera does not see."""
    matrix = registration.for_sizes((int(counts.shape[1]), int(counts.shape[0])), size)
    seen = np.full(counts.shape, 255, np.uint8) if valid is None else valid
    seen = cv2.warpPerspective(seen, matrix, size, flags=cv2.INTER_NEAREST)
    # Interpolation would mix invalid with valid counts, and the border's with 0.
    warped = cv2.warpPerspective(without_invalid(counts, valid), matrix, size, borderMode=cv2.BORDER_REPLICATE)
    warped[seen == 0] = 0
    return warped


def _name_of(stamp_ns: int) -> str:
    return in_seconds(stamp_ns).replace(".", "_")


def _no_model(settings: Settings) -> ModelInfo:
    """Return the description of a network that is not run."""
    band = Modality.parse(settings.infrared_band or "lwir")
    return ModelInfo("none", "none", (Modality.RGB, band), ("object",), (), (), (14, 14), ThermalContract())


def _write_png(path: Path, pixels: np.ndarray) -> None:
    data = encoded(pixels, ".png", cv2.IMWRITE_PNG_COMPRESSION, 1)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise write_error(path, error, len(data)) from error


def _write_coco(folder: Path, frames: list[_Frame], info: ModelInfo, reader: BagReader) -> None:
    """Write `labels.json`; ids count from 1, as some tools require."""
    places = {name: place for place, name in enumerate(info.box_classes, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, frame in enumerate(frames, 1):
        image = {"id": number, "file_name": frame.file_name, "width": frame.size[0], "height": frame.size[1]}
        images.append(image | {"stamp_ns": frame.stamp_ns})
        for name, (x1, y1, x2, y2, score) in frame.objects:
            box = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": places[name],
                    "bbox": box,
                    "area": round(box[2] * box[3], 2),
                    "iscrowd": 0,
                    "score": round(score, 4),
                }
            )
    data = {
        "info": {
            "description": f"detections of model {info.name} in {reader.path.name}, to be corrected",
            "version": f"spectradino {__version__}",
        },
        "images": images,
        "annotations": annotations,
        "categories": [{"id": place, "name": name} for name, place in places.items()],
    }
    (folder / "labels.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_yolo(folder: Path, frames: list[_Frame], info: ModelInfo, reader: BagReader) -> None:
    """Write one text file per frame, empty without objects, and the names of the classes."""
    (folder / "labels").mkdir()
    for frame in frames:
        width, height = frame.size
        lines = [
            f"{info.box_classes.index(name)} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} "
            f"{(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f}\n"
            for name, (x1, y1, x2, y2, _) in frame.objects
        ]
        (folder / "labels" / f"{frame.name}.txt").write_text("".join(lines), encoding="utf-8")
    names = json.dumps(info.box_classes, ensure_ascii=False)  # a list in JSON is one in YAML
    text = f"# Detections of model {info.name} in {reader.path.name}, to be corrected.\nnames: {names}\n"
    (folder / "data.yaml").write_text(text, encoding="utf-8")
