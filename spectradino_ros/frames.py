"""Messages as frames, decoded pixels beside their headers, and the frames that are answered together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from spectradino_core.streams.compressed import decode_compressed_infrared, open_compressed_rgb
from spectradino_core.streams.decode import decode_infrared, decode_rgb

__all__ = ["CameraFrame", "Capture", "CvBridgeConverter", "stamp_ns"]


class CameraFrame:
    """A message that can be read, with its pixels.

    A compressed colour image is unpacked when its pixels are first asked for: that takes milliseconds, and most frames
    of a camera that is faster than the model are never looked at.

    Attributes:
        header: the message's.
        received_s: when it came, by `perf_counter`.
        decode_ms: how long decoding took so far.
    """

    def __init__(self, header: Header, unpack: Callable[[], np.ndarray]) -> None:
        """
        Args:
            header: the message's.
            unpack: gives the pixels, once.
        """
        self.header = header
        self.received_s = perf_counter()
        self.decode_ms = 0.0
        self._unpack = unpack
        self._pixels: np.ndarray | None = None

    @property
    def pixels(self) -> np.ndarray:
        """uint8 [h, w, 3] in RGB order, or infrared counts uint8 or uint16 [h, w].

        Raises:
            DecodeError: they are damaged, as only shows now.
        """
        if self._pixels is None:
            start = perf_counter()
            self._pixels = self._unpack()
            self.decode_ms += (perf_counter() - start) * 1e3
        return self._pixels

    @classmethod
    def decode(
        cls, key: str, message: Image | CompressedImage, converter: CvBridgeConverter | None = None
    ) -> CameraFrame:
        """The frame of a message of the camera "rgb" or "ir".

        Raises:
            DecodeError: the message can't be read; its `cause` is a name for counters.
        """
        if isinstance(message, CompressedImage) and key == "rgb":
            return cls(message.header, open_compressed_rgb(message))
        if isinstance(message, CompressedImage):
            frame = cls(message.header, lambda: decode_compressed_infrared(message))
        else:
            frame = cls(message.header, lambda: (decode_rgb if key == "rgb" else decode_infrared)(message, converter))
        _ = frame.pixels
        return frame


def stamp_ns(header: Header) -> int:
    """A header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


class CvBridgeConverter:
    """Converts encodings that are not read without it, where cv_bridge is installed and works.

    It is imported when the first such message comes: distributions ship it built for NumPy 1, so that its import fails,
    at length, beside a NumPy 2, and most cameras never need it.
    """

    def __init__(self) -> None:
        self._bridge: Any = None

    def __call__(self, message: Image, wanted: str) -> np.ndarray:
        if self._bridge is None:
            try:
                from cv_bridge import CvBridge
            except Exception as error:  # a broken build raises whatever it likes
                raise RuntimeError(f"cv_bridge is not to be had: {error}") from None
            self._bridge = CvBridge()
        return self._bridge.imgmsg_to_cv2(message, wanted)


@dataclass(frozen=True)
class Capture:
    """What one answer is made from: a pair, or a frame of one camera while the other is silent.

    Attributes:
        rgb, ir: the frames; one of them may be missing.
        error_ns: infrared stamp minus colour stamp, less the constant offset; None with one frame.
        ready_s: when it was known that these frames belong together, by `perf_counter`.
        after_jump: time jumped back since the capture before, so nothing smoothed over time holds.
    """

    rgb: CameraFrame | None
    ir: CameraFrame | None
    error_ns: int | None
    ready_s: float
    after_jump: bool

    @property
    def reference(self) -> CameraFrame:
        """The frame whose header and pixels the answer is in: the colour one where there is one."""
        frame = self.rgb if self.rgb is not None else self.ir
        assert frame is not None
        return frame
