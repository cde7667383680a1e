"""Model description: the metadata of a model file.

A model file is one ONNX file whose metadata contains, under the key "spectradino", a JSON text with everything needed
for serving. The node, bag evaluation and the command line read the file, never a second configuration. A checkpoint
(safetensors) carries the same text under the same key.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from spectradino_core.files import parse_json
from spectradino_core.modality import Modality
from spectradino_core.text import printable
from spectradino_core.thermal import ThermalContract, ThermalError

METADATA_KEY = "spectradino"
WEIGHTS_KEY = "weights_sha256"
"""Key in `provenance`: hash of the trained weights, equal in a model file and its single-stream graphs."""
_FORMATS = {"normalised": 1, "raw": 2}
"""Format by form of the inputs. A description has the lowest format that can hold it, for older software."""
FORMAT = 5
"""Newest format. 3: single-stream graphs; 4: a patch other than DINOv2's 14; 5: infrared features. Increased when a
reader of the previous format could misread the new one."""
INPUTS = tuple(_FORMATS)
"""Forms of a network's inputs, see `network_inputs`."""
COMPANIONS = ("rgb", "ir", "reuse")
"""Networks that serve beside the two-stream one, see `companions`."""
STREAMS = ("both", *COMPANIONS)
"""Streams that a network takes; "reuse": the RGB image, and infrared features of an earlier two-stream pass."""

_MAX_TEXT = 1 << 20
_MAX_CLASSES = 5_000
_MAX_DETECTIONS = 10_000
_MAX_NAME = 200
_MAX_SIDE = 16_384
_MAX_PATCH = 64
_MAX_FEATURES = 1 << 28
"""Limits for untrusted files: each class is published and drawn, each detection is a message."""


def companion_path(model: Path, streams: str) -> Path:
    """Return the path of one of `COMPANIONS` of a model file."""
    return model.with_name(f"{model.name.removesuffix('.onnx')}.{streams}.onnx")


def two_stream_path(companion: Path, streams: str) -> Path:
    """Return the path of the two-stream model file of a companion: the inverse of `companion_path`."""
    return companion.with_name(companion.name.removesuffix(f".{streams}.onnx") + ".onnx")


class BundleError(RuntimeError):
    """A model file is missing, damaged, or not a suitable SpectraDINO model; the message names problem and remedy."""


@dataclass(frozen=True)
class ModelInfo:
    """Description of a model: classes, bands, input size, thermal contract and provenance.

    Attributes:
        name, variant: short name for logs and reports; backbone variant ("tiny", "s", "b", "l", "g").
        bands: the two input bands, RGB first: (RGB, LWIR), for example.
        box_classes: names of the detection classes, by label; empty: no detection head.
        mask_classes, palette: names of the segmentation classes by value in the mask, and their (r, g, b) for drawing;
            empty: no segmentation head.
        input_size: (width, height) of the network's input; multiples of `patch`.
        thermal: contract from raw IR counts to network input.
        score_threshold, max_detections: default minimum score, and maximum number per frame, of detections.
        nms_iou: IoU above which the lower-scored of two boxes of one class is dropped.
        strides: stride of each detection level in pixels of the network's input.
        inputs: form of the input arrays, one of `INPUTS`.
        streams: one of `STREAMS`; others than "both" are used beside the two-stream network, see `companions`.
        features: shape (levels, patch tokens, width) of the infrared features that a two-stream network outputs and one
            of "reuse" takes; empty: none.
        patch: side of the backbone's patches in pixels.
        provenance: free-form facts on how the model was made (recipe, data, seeds, commit, date).
        parity: measured differences between the exported graph and PyTorch; empty for a checkpoint.
    """

    name: str
    variant: str
    bands: tuple[Modality, Modality]
    box_classes: tuple[str, ...]
    mask_classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    input_size: tuple[int, int]
    thermal: ThermalContract
    score_threshold: float = 0.3
    nms_iou: float = 0.6
    max_detections: int = 100
    strides: tuple[float, ...] = (7.0, 14.0, 28.0)
    inputs: str = "normalised"
    streams: str = "both"
    patch: int = 14
    features: tuple[int, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = []
        if len(self.bands) != 2 or self.bands[0] is not Modality.RGB or self.bands[1] is Modality.RGB:
            problems.append(f"bands must be RGB and one infrared band, got {[b.key for b in self.bands]}")
        if not self.box_classes and not self.mask_classes:
            problems.append("neither detection classes nor mask classes")
        names = (*self.box_classes, *self.mask_classes)
        if not all(isinstance(name, str) and name for name in names):
            problems.append("a class has no name")
        elif unfit := next((name for name in names if _unfit(name)), None):
            problems.append(f"class name '{printable(unfit, 60)}' has control characters or is too long")
        for field_name in ("name", "variant"):
            text = getattr(self, field_name)
            if not isinstance(text, str) or _unfit(text):
                problems.append(f"{field_name} '{printable(str(text), 60)}' has control characters or is too long")
        if len(self.box_classes) > _MAX_CLASSES:
            problems.append(f"{len(self.box_classes)} detection classes, at most {_MAX_CLASSES} are supported")
        if len(self.mask_classes) > 255:
            problems.append(f"{len(self.mask_classes)} mask classes, at most 255 fit a mask beside 'unlabelled'")
        if len(self.palette) != len(self.mask_classes):
            problems.append(f"{len(self.palette)} palette colours for {len(self.mask_classes)} mask classes")
        if any(not 0 <= value <= 255 for colour in self.palette for value in colour):
            problems.append("a palette colour lies outside 0..255")
        if type(self.patch) is not int or not 1 <= self.patch <= _MAX_PATCH:
            problems.append(f"patch must be a whole number from 1 to {_MAX_PATCH}, got {self.patch!r}")
        elif any(side <= 0 or side % self.patch or side > _MAX_SIDE for side in self.input_size):
            problems.append(f"input size {self.input_size} is not a multiple of {self.patch} up to {_MAX_SIDE}")
        if len(self.strides) > 16 or not all(0 < stride <= _MAX_SIDE for stride in self.strides):
            problems.append("strides must be up to 16 numbers above 0")
        if not 0 <= self.score_threshold <= 1 or not 0 <= self.nms_iou <= 1:
            problems.append("score_threshold and nms_iou must lie in 0..1")
        if type(self.max_detections) is not int or not 1 <= self.max_detections <= _MAX_DETECTIONS:
            limits = f"at least 1 and at most {_MAX_DETECTIONS}"
            problems.append(f"max_detections must be a whole number of {limits}, got {self.max_detections}")
        if not isinstance(self.provenance, dict) or not isinstance(self.parity, dict):
            problems.append("provenance and parity must be tables")
        if self.inputs not in INPUTS:
            problems.append(f"inputs {self.inputs!r} are none of {', '.join(INPUTS)}")
        if self.streams not in STREAMS:
            problems.append(f"streams {self.streams!r} are none of {', '.join(STREAMS)}")
        problems += self._features_problems()
        if problems:
            raise BundleError("model description is inconsistent: " + "; ".join(problems))

    def _features_problems(self) -> list[str]:
        if bool(self.features) is not (self.streams == "reuse") and self.streams != "both":
            return [f"a network of {self.streams!r} with features {list(self.features)}"]
        if not self.features:
            return []
        if len(self.features) != 3 or any(type(side) is not int or side < 1 for side in self.features):
            return [f"features must have three sides above 0, got {list(self.features)}"]
        if self.features[1] * self.patch**2 != math.prod(self.input_size) or math.prod(self.features) > _MAX_FEATURES:
            return [f"features {list(self.features)} do not fit input size {self.input_size} and patch {self.patch}"]
        return []

    @property
    def _format(self) -> int:
        if self.features:
            return 5
        if self.patch != 14:
            return 4
        return _FORMATS[self.inputs] if self.streams == "both" else 3

    @property
    def infrared(self) -> Modality:
        """Infrared band of the model."""
        return self.bands[1]

    def with_(self, **changes: Any) -> ModelInfo:
        """Return a copy with some fields changed and validated."""
        return replace(self, **changes)

    def to_json(self) -> str:
        data = asdict(self) | {
            "format": self._format,
            "bands": [band.key for band in self.bands],
            "thermal": self.thermal.to_dict(),
        }
        for field_name, since in {"inputs": 2, "streams": 3, "patch": 4, "features": 5}.items():
            if data["format"] < since:  # older formats have no such field
                del data[field_name]
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: str | Path) -> ModelInfo:
        """Parse the description that `to_json` wrote; `source` is named in errors.

        Raises:
            BundleError: not JSON, a newer format, or a field is missing, unknown or out of range.
        """
        source = printable(str(source))
        if len(text) > _MAX_TEXT:
            too_long = f"its description has {len(text)} characters, at most {_MAX_TEXT} are allowed"
            raise BundleError(f"{source}: {too_long}; export the model again")
        try:
            data = parse_json(text, "description")
            version = data.pop("format")
        except (ValueError, KeyError, AttributeError, TypeError):
            raise BundleError(f"{source}: its description is damaged; export the model again") from None
        if version not in tuple(range(1, FORMAT + 1)):
            raise BundleError(
                f"{source}: format {printable(str(version), 40)}, this software reads formats up to {FORMAT}; export "
                "the model again or upgrade"
            )
        try:
            info = cls(
                **data
                | {
                    "bands": tuple(Modality.parse(b) for b in data["bands"]),
                    "box_classes": _names(data["box_classes"]),
                    "mask_classes": _names(data["mask_classes"]),
                    "palette": tuple((int(r), int(g), int(b)) for r, g, b in data["palette"]),
                    "input_size": (int(data["input_size"][0]), int(data["input_size"][1])),
                    "thermal": ThermalContract.from_dict(data["thermal"]),
                    "strides": tuple(float(s) for s in data["strides"]),
                    "features": tuple(data.get("features", ())),
                }
            )
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, ThermalError) as error:
            raise BundleError(
                f"{source}: its description is damaged ({printable(str(error))}); export the model again"
            ) from None
        except BundleError as error:
            raise BundleError(f"{source}: {error}") from None
        if info._format != version:
            raise BundleError(
                f"{source}: {info.inputs} inputs, streams {info.streams!r}, patch {info.patch} and features "
                f"{list(info.features)} do not match format {version}; export the model again"
            )
        return info


def _names(value: Any) -> tuple[str, ...]:
    """Check a list of names; a plain string would pass as the list of its letters."""
    if not isinstance(value, list):
        raise TypeError(f"{printable(repr(value), 60)} is not a list of names")
    return tuple(value)


def _unfit(text: str) -> bool:
    """Return whether a name has control characters or is too long for a log line."""
    return printable(text, _MAX_NAME) != text
