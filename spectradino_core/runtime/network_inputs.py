"""Frames to the arrays that a network takes: the one place that knows which those are.

A model file takes them in one of two forms and says in which (`ModelInfo.inputs`):

- "normalised": pictures that are ready, float32: what PyTorch takes, and what model files took at first.
- "raw": bytes and counts of the scaled pictures. The file's graph then does the rest, on a GPU if it runs on one, and a
  quarter of the bytes of a colour picture is touched and sent there. `raw_inputs` makes such a graph.

Both hold the same pictures, scaled by the same code. Of what is scaled, training sees the same pixels too. A network of
one stream (`ModelInfo.streams`) takes that stream's arrays, without the word whether it is there.

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
"""The arrays that `Engine.run` takes, in the order of `signature`."""
_OF_STREAM = {"rgb": ("rgb", "content"), "ir": ("ir", "ir_gain")}
"""Names of the arrays that one stream alone needs."""


def signature(info: ModelInfo) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Type and shape of each input by its name in the graph.

    Of both forms:
        present: 1 where the stream (rgb, infrared) is there, else 0; not for networks of one stream.
    "normalised":
        rgb: as DINOv2 expects it, 0 outside of the picture and where the stream is absent.
        ir: in [0, 1], likewise.
    "raw":
        rgb: in RGB order; whatever outside of the picture.
        content: width and height of the picture, from the top left corner; 0 where the stream is absent.
        ir: counts above the low end of the thermal range; 0 where the camera sees nothing. It is not whole counts from
            zero, since TensorRT may round what it computes to 11 bits, which leaves of 23,000 counts only every 16th.
        ir_gain: what one count is worth, such that the range ends at 1; 0 where the stream is absent.
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
    wanted = _OF_STREAM.get(info.streams, tuple(arrays))
    return {name: (np.dtype(kind), shape) for name, (kind, shape) in arrays.items() if name in wanted}


def blank_input(info: ModelInfo) -> NetworkInput:
    """All streams, black."""
    arrays = {name: np.zeros(shape, kind) for name, (kind, shape) in signature(info).items()}
    if "present" in arrays:
        arrays["present"][:] = 1
    return tuple(arrays.values())


class NetworkInputs(Protocol):
    """Makes one form of them, pair by pair, in memory that the next call writes over."""

    def __call__(
        self,
        rgb: np.ndarray | None,
        infrared: np.ndarray | None,
        letterbox: Letterbox,
        normaliser: ThermalNormaliser,
        registration: Registration | None = None,
    ) -> NetworkInput:
        """
        Args:
            rgb: uint8 [h, w, 3] in RGB order, or None: that stream is absent.
            infrared: raw counts, uint8 or uint16 [h', w'], or None, likewise.
            letterbox: where the picture lies in the input.
            normaliser: how counts become input; it takes notice of the frame.
            registration: where infrared pixels lie in the colour image; None: over the whole of it.

        Raises:
            FrameError, ThermalError, RegistrationError: see `preprocess`.
        """
        ...


def inputs_of(info: ModelInfo) -> NetworkInputs:
    """What makes the form that a model takes. For a network of one stream it refuses the other's frames."""
    both = info.with_(streams="both")
    made = _Raw(both) if info.inputs == "raw" else _Normalised(both)
    return made if info.streams == "both" else _Alone(info, made)


class _Inputs:
    """Memory of the two pictures: written again, it costs a fraction of fresh memory."""

    def __init__(self, info: ModelInfo) -> None:
        self._info = info
        self._of: Letterbox | None = None
        self._rgb = self._ir = np.zeros(0)

    def _pictures(self, letterbox: Letterbox) -> tuple[np.ndarray, np.ndarray]:
        """The inputs "rgb" and "ir" without their first axis; 0 outside of the picture, whatever the last frame was."""
        if self._of != letterbox:
            arrays = signature(self._info)
            self._rgb, self._ir = (np.zeros(shape[1:], kind) for kind, shape in (arrays["rgb"], arrays["ir"]))
            self._of = letterbox
        return self._rgb, self._ir


class _Normalised(_Inputs):
    def __call__(
        self,
        rgb: np.ndarray | None,
        infrared: np.ndarray | None,
        letterbox: Letterbox,
        normaliser: ThermalNormaliser,
        registration: Registration | None = None,
    ) -> NetworkInput:
        rgb_in, ir_in = self._pictures(letterbox)
        if rgb is None:
            rgb_in[...] = 0
        else:
            rgb_input(rgb, letterbox, rgb_in)
        if infrared is None:
            ir_in[...] = 0
        else:
            infrared_input(infrared, letterbox, normaliser, registration, ir_in)
        return rgb_in[None], ir_in[None], _present(rgb, infrared)


class _Raw(_Inputs):
    def __call__(
        self,
        rgb: np.ndarray | None,
        infrared: np.ndarray | None,
        letterbox: Letterbox,
        normaliser: ThermalNormaliser,
        registration: Registration | None = None,
    ) -> NetworkInput:
        rgb_in, ir_in = self._pictures(letterbox)
        width, height = letterbox.content
        content, gain = (0, 0), np.float32(0)
        if rgb is not None:
            scaled_rgb(rgb, letterbox, rgb_in[:height, :width])
            content = letterbox.content
        if infrared is not None:
            small, valid = scaled_infrared(infrared, letterbox, registration, normaliser.valid_pixels(infrared))
            _, gain = normaliser.above_low(small, valid, ir_in[0, :height, :width])
        return (
            rgb_in[None],
            np.array(content, np.int32),
            ir_in[None],
            np.array([gain], np.float32),
            _present(rgb, infrared),
        )


class _Alone:
    def __init__(self, info: ModelInfo, both: NetworkInputs) -> None:
        names = list(signature(info.with_(streams="both")))
        self._places = [names.index(name) for name in signature(info)]
        self._stream = info.streams
        self._both = both

    def __call__(
        self,
        rgb: np.ndarray | None,
        infrared: np.ndarray | None,
        letterbox: Letterbox,
        normaliser: ThermalNormaliser,
        registration: Registration | None = None,
    ) -> NetworkInput:
        if (rgb is not None, infrared is not None) != (self._stream == "rgb", self._stream == "ir"):
            raise FrameError(f"this network takes frames of the {self._stream} camera alone")
        arrays = self._both(rgb, infrared, letterbox, normaliser, registration)
        return tuple(arrays[place] for place in self._places)


def _present(rgb: np.ndarray | None, infrared: np.ndarray | None) -> np.ndarray:
    return np.array([rgb is not None, infrared is not None], np.float32)
