"""Image messages as frames: decoded pixels beside their headers, live and from a bag alike."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from spectradino_core.streams.compressed import decode_compressed_infrared, open_compressed_rgb
from spectradino_core.streams.decode import Converter, decode_infrared, decode_rgb

__all__ = ["CameraFrame"]


class CameraFrame:
    """A message that can be read, with its pixels.

    A compressed colour image is unpacked when its pixels are first asked for: that takes milliseconds, and most frames
    of a camera that is faster than the model are never looked at.

    Attributes:
        header: the message's.
        received_s: when it came, by `perf_counter`.
        decode_ms: how long decoding took so far.
    """

    def __init__(self, header: Any, unpack: Callable[[], np.ndarray]) -> None:
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

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height); None before it is unpacked."""
        return None if self._pixels is None else (int(self._pixels.shape[1]), int(self._pixels.shape[0]))

    @classmethod
    def decode(cls, key: str, message: Any, converter: Converter | None = None) -> CameraFrame:
        """The frame of a message of the camera "rgb" or "ir".

        Args:
            key: which camera.
            message: anything with the fields of sensor_msgs/Image or CompressedImage.
            converter: reads the encodings that `decode` does not.

        Raises:
            DecodeError: the message can't be read; its `cause` is a name for counters.
        """
        is_compressed = hasattr(message, "format")
        if is_compressed and key == "rgb":
            return cls(message.header, open_compressed_rgb(message))
        if is_compressed:
            frame = cls(message.header, lambda: decode_compressed_infrared(message))
        else:
            frame = cls(message.header, lambda: (decode_rgb if key == "rgb" else decode_infrared)(message, converter))
        _ = frame.pixels
        return frame
