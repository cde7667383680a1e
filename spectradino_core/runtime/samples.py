"""Sample pairs stored in a model file, for the parity check of an engine on the robot.

They are stored as small images (JPEG and PNG) under a separate key of the file's metadata. For a file without samples
deterministic images are generated.

Letters: h x w an image.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping

import cv2
import numpy as np

from spectradino_core.files import parse_json
from spectradino_core.runtime.bundle import BundleError, ModelInfo
from spectradino_core.runtime.image_size import MAX_FILE_PIXELS, claimed_size, size_fault
from spectradino_core.text import printable

__all__ = ["SAMPLES_KEY", "drawn_samples", "pack_samples", "unpack_samples"]

SAMPLES_KEY = "spectradino_samples"

Pair = tuple[np.ndarray, np.ndarray]
"""RGB uint8 [h, w, 3] and raw infrared counts, uint8 or uint16 [h', w']."""

_JPEG_QUALITY = 90
_MAX_TEXT, _MAX_PAIRS = 64 << 20, 64


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
    """Decode the pairs of a model file; `drawn_samples` if it has none.

    Args:
        metadata: metadata of the file.
        info: the model.
        source: named in errors.

    Raises:
        BundleError: the samples are damaged.
    """
    if SAMPLES_KEY not in metadata:
        return drawn_samples(info)
    try:
        if len(metadata[SAMPLES_KEY]) > _MAX_TEXT:
            raise ValueError(f"{len(metadata[SAMPLES_KEY]) >> 20} MiB")
        held = parse_json(metadata[SAMPLES_KEY], "list")
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


def drawn_samples(info: ModelInfo, count: int = 2) -> list[Pair]:
    """Generate blurred noise with bright and dark blocks, deterministic for an input size."""
    width, height = info.input_size
    drawn = []
    for seed in range(count):
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
    kind, most = (np.uint16, 65535) if 16 in contract.depths else (np.uint8, 255)
    low, high = (0.0, 4095.0) if most > 255 else (0.0, 255.0)
    if contract.kind == "fixed":
        per_count = contract.kelvin_per_count or 1.0
        low, high = contract.low / per_count, contract.high / per_count
    return np.clip(low + infrared.astype(np.float64) / 4095 * (high - low), 0, most).astype(kind)


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
