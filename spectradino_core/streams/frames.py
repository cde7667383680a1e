"""Image messages as frames: decoded pixels beside their headers, live and from a bag alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np

from spectradino_core.streams.compressed import open_compressed_infrared, open_compressed_rgb
from spectradino_core.streams.decode import Converter, DecodeOptions, OpenImage, open_infrared, open_rgb
from spectradino_core.streams.image_message import DecodeError

__all__ = ["CameraFrame"]

_GLANCE_PIXELS = 4_000_000
"""Compressed images of more take over 50 ms to unpack, PNG twice that."""


class CameraFrame:
    """A message whose fields are right, with its pixels, which are unpacked when they are first asked for.

    Unpacking takes milliseconds and is not done where messages arrive: most frames of a camera that is faster than the
    model are never looked at.

    Attributes:
        header: the message's.
        received_s: when it came, by `perf_counter`.
        decode_ms: how long decoding took so far.
        camera: "rgb" or "ir".
        look: an array that differs where the image does, see `decode.OpenImage`.
    """

    def __init__(
        self, header: Any, unpack: Callable[[], np.ndarray], camera: str = "", look: np.ndarray | None = None
    ) -> None:
        """
        Args:
            header: the message's.
            unpack: gives the pixels, once.
            camera: "rgb" or "ir".
            look: see above; None: empty.
        """
        self.header = header
        self.received_s = perf_counter()
        self.decode_ms = 0.0
        self.camera = camera
        self.look = np.empty((0, 0), np.uint8) if look is None else look
        self._unpack: Callable[[], np.ndarray] | None = unpack
        self._told_size: tuple[int, int] | None = None
        self._packed = 0
        self._pixels: np.ndarray | None = None
        self._lock = Lock()

    @property
    def pixels(self) -> np.ndarray:
        """uint8 [h, w, 3] in RGB order, or infrared counts uint8 or uint16 [h, w].

        Raises:
            DecodeError: they are damaged, as only shows now.
        """
        # The worker answers with them, and the executor's thread looks at some for the time between the cameras.
        with self._lock:
            if self._pixels is None:
                assert self._unpack is not None
                start = perf_counter()
                try:
                    self._pixels = self._unpack()
                except DecodeError as error:
                    error.camera = self.camera
                    self._unpack = partial(_raise, error)  # who asks next learns it without decoding again
                    raise
                finally:
                    self.decode_ms += (perf_counter() - start) * 1e3
                self._unpack = None  # and with it the packed data
            return self._pixels

    @property
    def is_large(self) -> bool:
        """Whether the image came compressed and is too large for `glance`."""
        return self._packed > _GLANCE_PIXELS

    def glance(self) -> np.ndarray:
        """`pixels`, for who takes messages meanwhile: not of a large image that is compressed yet.

        Raises:
            DecodeError: it is such an image, or damaged.
        """
        if self._pixels is None and self.is_large:
            raise DecodeError("not_unpacked", f"{self._packed} pixels are compressed, too many to be unpacked here")
        return self.pixels

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height); None before a compressed image is unpacked."""
        if self._pixels is None:
            return self._told_size
        return int(self._pixels.shape[1]), int(self._pixels.shape[0])

    @classmethod
    def decode(
        cls, key: str, message: Any, converter: Converter | None = None, options: DecodeOptions | None = None
    ) -> CameraFrame:
        """The frame of a message of the camera "rgb" or "ir".

        Args:
            key: which camera.
            message: anything with the fields of sensor_msgs/Image or CompressedImage.
            converter: reads the encodings that `decode` does not.
            options: limits, and how infrared images are read.

        Raises:
            DecodeError: the message can't be read; its `cause` is a name for counters.
        """
        start = perf_counter()
        try:
            opened = _open(key, message, converter, options)
        except DecodeError as error:
            error.camera = key
            raise
        frame = cls(message.header, opened.unpack, key, opened.look)
        if key == "rgb" and not hasattr(message, "format"):
            frame._told_size = (int(message.width), int(message.height))
        frame._packed = opened.packed
        frame.decode_ms = (perf_counter() - start) * 1e3
        return frame


def _raise(error: DecodeError) -> np.ndarray:
    raise error


def _open(key: str, message: Any, converter: Converter | None, options: DecodeOptions | None) -> OpenImage:
    if hasattr(message, "format"):
        return (open_compressed_rgb if key == "rgb" else open_compressed_infrared)(message, options)
    if key == "rgb":
        return open_rgb(message, converter)
    return open_infrared(message, converter, options)
