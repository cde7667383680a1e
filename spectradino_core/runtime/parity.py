"""Numerical parity between two engines, and the check that an accelerated one must pass before it serves.

An engine in half precision, or one built for an untested device, can be wrong without failing. Each candidate is
therefore run on the sample pairs of the model file and compared with ONNX Runtime on the CPU. One that exceeds the
tolerance of its precision is not used; a warning gives the reason, and the next candidate is tried.

Sample pairs are stored as small images (JPEG and PNG) under a key of their own in the file's metadata. For a file
without them deterministic images are generated.

Letters: h x w an image, H x W the network's input, A anchor points, C box classes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from spectradino_core.files import parse_json, written_atomically
from spectradino_core.runtime.bundle import BundleError, ModelInfo
from spectradino_core.runtime.engine import Engine, EngineError, RawPredictions
from spectradino_core.runtime.image_size import MAX_FILE_PIXELS, claimed_size, size_fault
from spectradino_core.runtime.network_inputs import NetworkInput, NetworkInputs, signature
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.preprocess import FrameError, Letterbox
from spectradino_core.runtime.providers import EngineCandidate, file_precision
from spectradino_core.text import printable
from spectradino_core.thermal import ThermalError, ThermalNormaliser

log = logging.getLogger(__name__)

SAMPLES_KEY = "spectradino_samples"

Pair = tuple[np.ndarray, np.ndarray]
"""RGB uint8 [h, w, 3] and raw infrared counts, uint8 or uint16 [h', w']."""

_JPEG_QUALITY = 90
_MAX_TEXT, _MAX_PAIRS = 64 << 20, 64

_GIVEN = {
    "both": ((True, True), (True, False), (False, True)),
    "rgb": ((True, False),),
    "ir": ((False, True),),
    "reuse": ((True, True),),
}
"""Combinations of frames (rgb, infrared) that a network is tested with, by its streams."""


@dataclass(frozen=True)
class Difference:
    """Maximum difference between two engines: of box corners [network pixels] and scores; fraction of mask pixels."""

    boxes_px: float = 0.0
    scores: float = 0.0
    mask_differs: float = 0.0

    def __or__(self, other: Difference) -> Difference:
        """Element-wise maximum."""
        return Difference(*(max(one, two) for one, two in zip(vars(self).values(), vars(other).values(), strict=True)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Difference:
        """Parse the output of `to_dict`; other keys are ignored."""
        return cls(**{name: float(data[name]) for name in ("boxes_px", "scores", "mask_differs")})

    def to_dict(self) -> dict[str, Any]:
        """Return the differences rounded to three digits."""
        return {name: float(f"{value:.3g}") for name, value in vars(self).items()}


@dataclass(frozen=True)
class Tolerance(Difference):
    """Maximum allowed difference."""

    def problem(self, difference: Difference) -> str:
        """Describe which limits are exceeded; empty if none. NaN exceeds every limit."""
        over = [
            f"{name} {getattr(difference, name):.2e} > {limit:.0e}"
            for name, limit in vars(self).items()
            if not getattr(difference, name) <= limit
        ]
        return ", ".join(over)


TOLERANCES = {
    "fp32": Tolerance(boxes_px=0.05, scores=0.005, mask_differs=0.002),
    "fp16": Tolerance(boxes_px=1.0, scores=0.03, mask_differs=0.01),
    "bf16": Tolerance(boxes_px=1.5, scores=0.03, mask_differs=0.01),
}
"""Maximum difference of an accelerated engine from the CPU by precision."""
_BOX_FRACTIONS = {"fp16": 0.0025, "bf16": 0.004}
"""Box tolerance as a fraction of the input's longer side, by precision: with 11 bits (fp16) or 8 (bf16) errors grow
with the size."""


def tolerance_of(precision: str, info: ModelInfo) -> Tolerance:
    """Return the maximum difference from the CPU for an engine of a precision and a model."""
    tolerance = TOLERANCES[precision]
    fraction = _BOX_FRACTIONS.get(precision, 0.0)
    return replace(tolerance, boxes_px=max(tolerance.boxes_px, fraction * max(info.input_size)))


class FeatureEngine(Engine, Protocol):
    """Two-stream engine that also outputs the infrared features."""

    ir_features: np.ndarray | None
    """Of the last pass, float32 of shape `info.features`."""


def network_inputs(
    rgb: np.ndarray,
    infrared: np.ndarray,
    info: ModelInfo,
    streams: str | None = None,
    both: FeatureEngine | None = None,
) -> Iterator[NetworkInput]:
    """Yield an engine's inputs for one pair as the pipeline makes them: both streams, RGB only, IR only.

    `streams`, by default the model's, restricts them; `both` computes the infrared features for a model of "reuse".
    """
    if info.streams == "reuse":
        features = None
        if both is not None:
            both.run(*next(network_inputs(rgb, infrared, both.info)))
            features = both.ir_features
        if features is None:
            raise ValueError("a model of 'reuse' needs infrared features of the two-stream model: export both together")
        full = info.with_(streams="both")
        arrays = dict(zip(signature(full), next(network_inputs(rgb, infrared, full)))) | {"ir_features": features}
        yield tuple(arrays[name] for name in signature(info))
        return
    letterbox = Letterbox.fit((rgb.shape[1], rgb.shape[0]), info.input_size)
    for has_rgb, has_infrared in _GIVEN[streams or info.streams]:
        make = NetworkInputs(info)  # a new one each time, since its buffers are overwritten
        frames = rgb if has_rgb else None, infrared if has_infrared else None
        yield make(*frames, letterbox, ThermalNormaliser(info.thermal))


def drawn_inputs(info: ModelInfo) -> list[NetworkInput]:
    """Return inputs for comparing a model without sample pairs, such as a checkpoint."""
    return [given for rgb, infrared in drawn_samples(info) for given in network_inputs(rgb, infrared, info)]


def sample_inputs(engine: OnnxEngine, both: OnnxEngine | None = None) -> list[NetworkInput]:
    """Return inputs from the sample pairs of an engine's file; `both` as in `network_inputs`.

    Raises:
        BundleError: the samples are damaged, or do not fit the model's description.
    """
    try:
        pairs = unpack_samples(engine.metadata, engine.info, engine.path)
        return [given for rgb, ir in pairs for given in network_inputs(rgb, ir, engine.info, both=both)]
    except (FrameError, ThermalError) as error:
        raise BundleError(
            f"{engine.path}: its sample images do not fit its description ({error}); export the model again"
        ) from None


def largest_difference(
    reference: Engine, engine: Engine, inputs: Iterable[NetworkInput], others: Iterable[NetworkInput] | None = None
) -> Difference:
    """Compute the maximum differences of `engine` from `reference` over some inputs.

    Boxes are compared where the reference's score is at least a tenth of the serving threshold: elsewhere a box is
    meaningless. Boxes are clipped to the input, as in serving. `others` are the same images in the form that `engine`
    takes, if it differs.

    Raises:
        EngineError: one of the engines failed.
        ValueError: no inputs.
    """
    info = reference.info
    side = np.array(info.input_size * 2, np.float32)
    worst: Difference | None = None
    both = ((given, given) for given in inputs) if others is None else zip(inputs, others, strict=True)
    for given, other_given in both:
        boxes, scores, mask = reference.run(*given)
        other_boxes, other_scores, other_mask = engine.run(*other_given)
        scored = scores.max(axis=1, initial=0) >= 0.1 * info.score_threshold
        apart = np.abs(np.clip(boxes, 0, side) - np.clip(other_boxes, 0, side))[scored]
        differs = 0.0
        if mask is not None:
            differs = 1.0 if other_mask is None else float((mask != other_mask).mean())
        found = Difference(_largest(apart), _largest(np.abs(scores - other_scores)), differs)
        worst = found if worst is None else worst | found
    if worst is None:
        raise ValueError("parity needs at least one input")
    return worst


def _largest(values: np.ndarray) -> float:
    """Return the maximum; infinity if a value is not finite, which `max` may skip."""
    largest = float(values.max(initial=0))
    return largest if np.isfinite(largest) else float("inf")


def first_that_agrees(
    candidates: Sequence[EngineCandidate],
    open_one: Callable[[EngineCandidate], Engine],
    reference: Engine,
    inputs: Sequence[NetworkInput],
    remembered: Engine | None = None,
) -> Engine:
    """Open the first of some candidates, best first, that runs and agrees with the CPU engine (device "cpu").

    `remembered` returns the reference's results, possibly cached; None: the reference computes them.

    Raises:
        EngineError: no candidate is usable; names the problem of each.
    """
    problems: list[str] = []
    for candidate in candidates:
        if candidate.device == "cpu":
            return reference
        engine: Engine | None = None  # release the previous one, which may fill the device's memory
        try:
            engine = open_one(candidate)
            difference = largest_difference(remembered or reference, engine, inputs)
        except (EngineError, BundleError) as error:
            problem = str(error)
        else:
            problem = tolerance_of(_precision(candidate, reference.info), reference.info).problem(difference)
            if not problem:
                log.info("%s agrees with the CPU: %s", candidate, difference.to_dict())
                return engine
            problem = f"its results differ from the CPU's ({problem})"
        problems.append(f"{candidate}: {problem}")
        log.warning("%s is not used: %s", candidate, problem)
    raise EngineError("; ".join(problems) + ". Set device to 'cpu', or check the driver and the runtime's version")


def _precision(candidate: EngineCandidate, info: ModelInfo) -> str:
    """Return the precision of the arithmetic: the engine's, or at most fp16 for a file converted to half precision.

    The CPU computes such a file in single precision, with the same rounded weights, and rounds between operators.
    """
    return "fp16" if file_precision(info) == "fp16" and candidate.precision == "fp32" else candidate.precision


class RememberedEngine:
    """`Engine` that caches its results in files: on the samples they take seconds for a large model."""

    def __init__(self, engine: Engine, folder: Path, key: str) -> None:
        """Cache in a folder; `key` identifies the model file's content and the runtime's version in file names."""
        self.info, self.label, self.on_cpu = engine.info, engine.label, engine.on_cpu
        self._engine, self._folder, self._key = engine, folder, key

    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """See `Engine`."""
        digest = hashlib.sha256()
        for array in inputs:
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        path = self._folder / f"{self._key}-{digest.hexdigest()[:16]}.npz"
        held = _read(path)
        if held is not None:
            return held
        boxes, scores, mask = self._engine.run(*inputs)
        try:
            with written_atomically(path) as scratch, Path(scratch).open("wb") as file:
                np.savez(file, boxes=boxes, scores=scores, mask=np.empty(0, np.uint8) if mask is None else mask)
        except OSError as error:
            log.debug("the CPU's results are not cached in %s: %s", self._folder, error)
        return boxes, scores, mask


def _read(path: Path) -> RawPredictions | None:
    """Read a cached result; None if there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as held:
            mask = held["mask"]
            return held["boxes"], held["scores"], mask if mask.size else None
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile and zlib have their own exceptions
        log.debug("%s is damaged: %s", path, error)
        return None


def pack_samples(pairs: Iterable[Pair], info: ModelInfo) -> str:
    """Encode pairs as text for a model file's metadata, scaled to the network's input size."""
    width, height = info.input_size
    packed = []
    for rgb, infrared in pairs:
        small = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        counts = cv2.resize(infrared, (width, height), interpolation=cv2.INTER_AREA)
        colour = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
        packed.append({"rgb": _text(colour), "ir": _text(cv2.imencode(".png", counts)[1])})
    return json.dumps({"format": 1, "pairs": packed})


def unpack_samples(metadata: Mapping[str, str], info: ModelInfo, source: object) -> list[Pair]:
    """Decode the pairs in a file's metadata, or return `drawn_samples`; BundleError, naming `source`, if damaged."""
    text = metadata.get(SAMPLES_KEY)
    if text is None:
        return drawn_samples(info)
    try:
        if len(text) > _MAX_TEXT:
            raise ValueError(f"{len(text) >> 20} MiB")
        held = parse_json(text, "list")
        if held["format"] != 1:
            raise ValueError(f"format {held['format']}")
        if len(held["pairs"]) > _MAX_PAIRS:
            raise ValueError(f"{len(held['pairs'])} pairs")
        pairs = [(_image(pair["rgb"], 3), _image(pair["ir"], 2)) for pair in held["pairs"]]
        if not pairs:
            raise ValueError("none")
    except (ValueError, KeyError, TypeError, AttributeError, cv2.error) as error:
        reason = printable(" ".join(str(error).split()))
        raise BundleError(f"{source}: its sample images are damaged ({reason}); export the model again") from None
    return pairs


def drawn_samples(info: ModelInfo) -> list[Pair]:
    """Generate two pairs of blurred noise with bright and dark blocks, deterministic for an input size."""
    width, height = info.input_size
    drawn = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        rgb = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), np.uint8), (0, 0), 4)
        infrared = cv2.GaussianBlur(rng.integers(0, 4096, (height, width)).astype(np.uint16), (0, 0), 4)
        for _ in range(12):
            x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
            w, h = int(rng.integers(8, max(9, width // 4))), int(rng.integers(8, max(9, height // 3)))
            rgb[y : y + h, x : x + w] = rng.integers(0, 256, 3)
            infrared[y : y + h, x : x + w] = int(rng.integers(500, 4096))
        drawn.append((rgb, _counts(infrared, info)))
    return drawn


def _counts(infrared: np.ndarray, info: ModelInfo) -> np.ndarray:
    """Map counts 0..4095 to the depth of the model's camera, and to its range if that is fixed."""
    contract = info.thermal
    kind, max_value = (np.uint16, 65535) if 16 in contract.depths else (np.uint8, 255)
    low, high = (0.0, 4095.0) if max_value > 255 else (0.0, 255.0)
    if contract.kind == "fixed":
        per_count = contract.kelvin_per_count or 1.0
        low, high = contract.low / per_count, contract.high / per_count
    return np.clip(low + infrared.astype(np.float64) / 4095 * (high - low), 0, max_value).astype(kind)


def _text(encoded: np.ndarray) -> str:
    return base64.b64encode(encoded.tobytes()).decode("ascii")


def _image(text: str, dimensions: int) -> np.ndarray:
    data = base64.b64decode(text, validate=True)
    size = claimed_size(data)
    if size is None or size_fault(*size, MAX_FILE_PIXELS):
        raise ValueError("not an image" if size is None else f"one {size_fault(*size, MAX_FILE_PIXELS)}")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != dimensions:
        raise ValueError("not an image")
    return np.ascontiguousarray(image[..., ::-1]) if dimensions == 3 else image
