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

from typing import Protocol

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

__all__ = ["NetworkInput", "NetworkInputs", "blank_input", "inputs_of", "signature"]

NetworkInput = tuple[np.ndarray, ...]
"""Arrays for `Engine.run`, in the order of `signature`."""
_OF_STREAM = {"rgb": ("rgb", "content"), "ir": ("ir", "ir_gain"), "reuse": ("rgb", "content", "ir_features")}
"""Input names of a network that does not take both images."""


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
    if info.inputs == "raw":
        arrays: dict[str, tuple[type, tuple[int, ...]]] = {
            "rgb": (np.uint8, (1, height, width, 3)),
            "content": (np.int32, (2,)),
            "ir": (np.float32, (1, 1, height, width)),
            "ir_gain": (np.float32, (1,)),
            "present": (np.float32, (2,)),
        }
    else:
        arrays = {
            "rgb": (np.float32, (1, 3, height, width)),
            "ir": (np.float32, (1, 1, height, width)),
            "present": (np.float32, (2,)),
        }
    arrays["ir_features"] = (np.float32, tuple(info.features))
    if info.streams == "both":
        del arrays["ir_features"]
    wanted = _OF_STREAM.get(info.streams, tuple(arrays))
    return {name: (np.dtype(kind), shape) for name, (kind, shape) in arrays.items() if name in wanted}


def blank_input(info: ModelInfo) -> NetworkInput:
    """Return black images of all streams."""
    arrays = {name: np.zeros(shape, kind) for name, (kind, shape) in signature(info).items()}
    if "present" in arrays:
        arrays["present"][:] = 1
    return tuple(arrays.values())


class NetworkInputs(Protocol):
    """Converts pairs to one form of inputs, in buffers that the next call overwrites."""

    def __call__(
        self,
        rgb: np.ndarray | None,
        infrared: np.ndarray | None,
        letterbox: Letterbox,
        normaliser: ThermalNormaliser,
        registration: Registration | None = None,
        ir_key: object | None = None,
    ) -> NetworkInput:
        """
        Args:
            rgb: uint8 [h, w, 3] in RGB order, or None: the stream is absent.
            infrared: raw counts, uint8 or uint16 [h', w'], or None, likewise.
            letterbox: geometry of the image in the input.
            normaliser: converts counts to input; updates its state with the frame.
            registration: IR-to-RGB mapping; None: the IR image covers the whole RGB image.
            ir_key: identifies the infrared frame; if it is the object of the previous call, that input is kept.

        Raises:
            FrameError, ThermalError, RegistrationError: see `preprocess`.
        """
        ...

    def forget(self) -> None:
        """Forget the infrared frame of the previous call, whatever its key."""
        ...


def inputs_of(info: ModelInfo) -> NetworkInputs:
    """Return the converter for a model's form of inputs. For a single-stream network it refuses the other's frames."""
    both = info.with_(streams="both")
    made = _Raw(both) if info.inputs == "raw" else _Normalised(both)
    return made if info.streams == "both" else _SingleStream(info, made)


class _Inputs:
    """Reused buffers of the two images: much cheaper than fresh memory."""

    def __init__(self, info: ModelInfo) -> None:
        self._info = info
        self._of: Letterbox | None = None
        self._rgb = self._ir = np.zeros(0)
        self._held: tuple[object, Registration | None] | None = None

    def _buffers(self, letterbox: Letterbox) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs "rgb" and "ir" without batch axis; 0 outside the image whatever the last frame was."""
        if self._of != letterbox:
            arrays = signature(self._info)
            self._rgb, self._ir = (np.zeros(shape[1:], kind) for kind, shape in (arrays["rgb"], arrays["ir"]))
            self._of = letterbox
            self._held = None
        return self._rgb, self._ir

    def _is_held(self, ir_key: object | None, registration: Registration | None, normaliser: ThermalNormaliser) -> bool:
        """Return whether the infrared input of the previous call is that of this frame; else it is released."""
        is_same = self._held is not None and ir_key is self._held[0]
        if is_same and self._held is not None and registration == self._held[1]:
            return True
        self._held, normaliser.follows = None, not is_same  # a frame that is only moved must not move the range again
        return False

    def _hold(self, ir_key: object | None, registration: Registration | None) -> None:
        """Remember the frame whose infrared input is complete; one that raised an error must not be held."""
        self._held = None if ir_key is None else (ir_key, registration)

    def forget(self) -> None:
        """See `NetworkInputs`."""
        self._held = None


class _Normalised(_Inputs):
    def __call__(
        self,
        rgb: np.ndarray | None,
        infrared: np.ndarray | None,
        letterbox: Letterbox,
        normaliser: ThermalNormaliser,
        registration: Registration | None = None,
        ir_key: object | None = None,
    ) -> NetworkInput:
        rgb_in, ir_in = self._buffers(letterbox)
        if rgb is None:
            rgb_in[...] = 0
        else:
            rgb_input(rgb, letterbox, rgb_in)
        if infrared is None:
            ir_in[...] = 0
            self._held = None
        elif not self._is_held(ir_key, registration, normaliser):
            infrared_input(infrared, letterbox, normaliser, registration, ir_in)
            self._hold(ir_key, registration)
        return rgb_in[None], ir_in[None], _present(rgb, infrared)


class _Raw(_Inputs):
    _gain = np.float32(0)

    def __call__(
        self,
        rgb: np.ndarray | None,
        infrared: np.ndarray | None,
        letterbox: Letterbox,
        normaliser: ThermalNormaliser,
        registration: Registration | None = None,
        ir_key: object | None = None,
    ) -> NetworkInput:
        rgb_in, ir_in = self._buffers(letterbox)
        width, height = letterbox.content
        content = (0, 0)
        if rgb is not None:
            scaled_rgb(rgb, letterbox, rgb_in[:height, :width])
            content = letterbox.content
        if infrared is not None and not self._is_held(ir_key, registration, normaliser):
            small, valid = scaled_infrared(infrared, letterbox, registration, normaliser.valid_pixels(infrared))
            _, self._gain = normaliser.above_low(small, valid, ir_in[0, :height, :width])
            self._hold(ir_key, registration)
        gain = np.float32(0) if infrared is None else self._gain
        return (
            rgb_in[None],
            np.array(content, np.int32),
            ir_in[None],
            np.array([gain], np.float32),
            _present(rgb, infrared),
        )


class _SingleStream:
    def __init__(self, info: ModelInfo, both: NetworkInputs) -> None:
        names = list(signature(info.with_(streams="both")))
        self._places = [names.index(name) for name in signature(info) if name in names]
        self._stream = info.streams
        self._both = both

    def forget(self) -> None:
        self._both.forget()

    def __call__(
        self,
        rgb: np.ndarray | None,
        infrared: np.ndarray | None,
        letterbox: Letterbox,
        normaliser: ThermalNormaliser,
        registration: Registration | None = None,
        ir_key: object | None = None,
    ) -> NetworkInput:
        if (rgb is not None, infrared is not None) != (self._stream == "rgb", self._stream == "ir"):
            raise FrameError(f"this network takes frames of the {self._stream} camera only")
        arrays = self._both(rgb, infrared, letterbox, normaliser, registration, ir_key)
        return tuple(arrays[place] for place in self._places)


def _present(rgb: np.ndarray | None, infrared: np.ndarray | None) -> np.ndarray:
    return np.array([rgb is not None, infrared is not None], np.float32)
