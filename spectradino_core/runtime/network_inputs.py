"""Convert frames to the input arrays of a network.

A model file declares one of two forms of inputs (`ModelInfo.inputs`):

- "normalised": normalised float32 images, as in PyTorch and in the first model files.
- "raw": bytes and counts of the scaled images. The graph does the rest, on the GPU if it runs there, and only a quarter
  of an RGB image's bytes is written and transferred. `raw_inputs` creates such a graph.

Both forms use the same scaling code, as does training. A single-stream network (`ModelInfo.streams`) takes that
stream's arrays, without `present`.

Letters: H x W the network's input.
"""

from __future__ import annotations

import numpy as np

from spectradino_core.calibration.registration import Registration
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.preprocess import (
    FrameError,
    Letterbox,
    infrared_input,
    rgb_input,
    scaled_infrared,
    scaled_rgb,
)
from spectradino_core.thermal import ThermalNormaliser

NetworkInput = tuple[np.ndarray, ...]
"""Arrays for `Engine.run`, in the order of `signature`."""
_INPUTS = {
    "both": ("rgb", "content", "ir", "ir_gain", "present"),
    "rgb": ("rgb", "content"),
    "ir": ("ir", "ir_gain"),
    "reuse": ("rgb", "content", "ir_features"),
}
_ONLY_RAW = ("content", "ir_gain")


def signature(info: ModelInfo) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Return type and shape of each input by its name in the graph.

    Both forms:
        ir_features: infrared features of an earlier pass, in place of the infrared image; only for "reuse".
        present: 1 if the stream (rgb, infrared) is present, else 0; only for two-stream networks.
    "normalised":
        rgb: normalised as DINOv2 expects; 0 outside the image and if the stream is absent.
        ir: in [0, 1], likewise.
    "raw":
        rgb: in RGB order; arbitrary outside the image.
        content: width and height of the image, from the top left corner; 0 if the stream is absent.
        ir: counts above the low end of the thermal range; 0 where the camera sees nothing. Not absolute counts, since
            TensorRT may round intermediate values to 11 bits, which would resolve 23,000 counts in steps of 16.
        ir_gain: scale of one count, such that the range ends at 1; 0 if the stream is absent.
    """
    width, height = info.input_size
    is_raw = info.inputs == "raw"
    arrays: dict[str, tuple[type, tuple[int, ...]]] = {
        "rgb": (np.uint8, (1, height, width, 3)) if is_raw else (np.float32, (1, 3, height, width)),
        "content": (np.int32, (2,)),
        "ir": (np.float32, (1, 1, height, width)),
        "ir_gain": (np.float32, (1,)),
        "ir_features": (np.float32, info.features),
        "present": (np.float32, (2,)),
    }
    names = [name for name in arrays if name in _INPUTS[info.streams] and (is_raw or name not in _ONLY_RAW)]
    return {name: (np.dtype(arrays[name][0]), arrays[name][1]) for name in names}


def blank_input(info: ModelInfo) -> NetworkInput:
    """Return black images of all streams."""
    arrays = {name: np.zeros(shape, kind) for name, (kind, shape) in signature(info).items()}
    if "present" in arrays:
        arrays["present"][:] = 1
    return tuple(arrays.values())


class NetworkInputs:
    """Converts pairs to a model's form of inputs, in buffers that the next call overwrites."""

    def __init__(self, info: ModelInfo) -> None:
        self._names = list(signature(info))
        self._streams = info.streams
        self._is_raw = info.inputs == "raw"
        arrays = signature(info.with_(streams="both", features=()))
        self._images = (arrays["rgb"], arrays["ir"])
        self._letterbox: Letterbox | None = None
        self._rgb = self._ir = np.zeros(0)
        self._gain = np.float32(0)
        self._cached_infrared: tuple[object, Registration | None] | None = None

    def __call__(
        self,
        rgb: np.ndarray | None,
        infrared: np.ndarray | None,
        letterbox: Letterbox,
        normaliser: ThermalNormaliser,
        registration: Registration | None = None,
        ir_key: object | None = None,
    ) -> NetworkInput:
        """Convert a pair; arguments and errors are those of `preprocess`, None for a stream that is absent.

        `ir_key` identifies the infrared frame: if it is the object of the previous call, that input is kept. The
        normaliser's state is updated with a new frame. FrameError also for a stream that the network does not take.
        """
        has_rgb, has_infrared = rgb is not None, infrared is not None
        if self._streams != "both" and (has_rgb, has_infrared) != (self._streams == "rgb", self._streams == "ir"):
            raise FrameError(f"this network takes frames of the {self._streams} camera only")
        self._fit_buffers(letterbox)
        self._convert_rgb(rgb, letterbox)
        self._convert_infrared(infrared, letterbox, normaliser, registration, ir_key)
        arrays: dict[str, np.ndarray] = {
            "rgb": self._rgb[None],
            "content": np.array(letterbox.content if has_rgb else (0, 0), np.int32),
            "ir": self._ir[None],
            "ir_gain": np.array([self._gain if has_infrared else 0], np.float32),
            "present": np.array([has_rgb, has_infrared], np.float32),
        }
        return tuple(arrays[name] for name in self._names)

    def forget(self) -> None:
        """Forget the infrared frame of the previous call, whatever its key."""
        self._cached_infrared = None

    def _fit_buffers(self, letterbox: Letterbox) -> None:
        """Keep the buffers, as fresh memory costs much, unless the image's place in them has changed."""
        if self._letterbox != letterbox:
            self._rgb, self._ir = (np.zeros(shape[1:], kind) for kind, shape in self._images)
            self._letterbox, self._cached_infrared = letterbox, None

    def _convert_rgb(self, rgb: np.ndarray | None, letterbox: Letterbox) -> None:
        width, height = letterbox.content
        if rgb is not None:
            if self._is_raw:
                scaled_rgb(rgb, letterbox, self._rgb[:height, :width])
            else:
                rgb_input(rgb, letterbox, self._rgb)
        elif not self._is_raw:  # a raw network hides what is outside `content`
            self._rgb[...] = 0

    def _convert_infrared(
        self,
        infrared: np.ndarray | None,
        letterbox: Letterbox,
        normaliser: ThermalNormaliser,
        registration: Registration | None,
        ir_key: object | None,
    ) -> None:
        if infrared is None:
            if not self._is_raw:  # a raw network multiplies by a gain of 0
                self._ir[...] = 0
                self._cached_infrared = None
            return
        is_same = self._cached_infrared is not None and ir_key is self._cached_infrared[0]
        if is_same and self._cached_infrared is not None and registration == self._cached_infrared[1]:
            return
        self._cached_infrared = None  # of a frame that raises an error, nothing is held
        normaliser.follows = not is_same  # a frame that is only moved must not move the range again
        if self._is_raw:
            width, height = letterbox.content
            small, valid = scaled_infrared(infrared, letterbox, registration, normaliser.valid_pixels(infrared))
            _, self._gain = normaliser.above_low(small, valid, self._ir[0, :height, :width])
        else:
            infrared_input(infrared, letterbox, normaliser, registration, self._ir)
        if ir_key is not None:
            self._cached_infrared = (ir_key, registration)
