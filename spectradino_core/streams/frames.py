"""Frames of image messages: header and pixels decoded on demand, live and from bags."""

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

_GLANCE_PIXELS = 4_000_000
"""Larger compressed images take over 50 ms to decode, as PNG over 100 ms."""


class CameraFrame:
    """A checked image message whose pixels are decoded on first access.

    Decoding takes milliseconds and is deferred because most frames of a camera that is faster than the model are
    dropped.

    Attributes:
        header: header of the message.
        received_s: time of arrival, by `perf_counter`.
        decode_ms: time spent on decoding so far.
        camera: "rgb" or "ir".
        used: the frame was used in a result; set by the caller that makes results.
        fingerprint: array that differs between different images, see `decode.OpenImage`.
    """

    def __init__(
        self, header: Any, unpack: Callable[[], np.ndarray], camera: str = "", fingerprint: np.ndarray | None = None
    ) -> None:
        self.header = header
        self.received_s = perf_counter()
        self.decode_ms = 0.0
        self.camera = camera
        self.used = False
        self.fingerprint = np.empty((0, 0), np.uint8) if fingerprint is None else fingerprint
        self._unpack: Callable[[], np.ndarray] | None = unpack  # called once
        self._stated_size: tuple[int, int] | None = None
        self._packed = 0
        self._pixels: np.ndarray | None = None
        self._lock = Lock()

    @property
    def pixels(self) -> np.ndarray:
        """RGB image uint8 [h, w, 3], or IR counts uint8 or uint16 [h, w].

        Raises:
            DecodeError: the pixels are damaged, which shows only in decoding.
        """
        # Accessed by the worker's thread, and by the executor's to estimate the time offset between the cameras.
        with self._lock:
            if self._pixels is None:
                assert self._unpack is not None
                start = perf_counter()
                try:
                    self._pixels = self._unpack()
                except DecodeError as error:
                    error.camera = self.camera
                    self._unpack = partial(_raise, error)  # raised again without decoding again
                    raise
                finally:
                    self.decode_ms += (perf_counter() - start) * 1e3
                self._unpack = None  # frees the compressed data
            return self._pixels

    @property
    def is_large(self) -> bool:
        """Whether the compressed image is too large for `small_pixels`."""
        return self._packed > _GLANCE_PIXELS

    def small_pixels(self) -> np.ndarray:
        """Return `pixels` for use on the executor's thread, which decoding a large image would block.

        Raises:
            DecodeError: the image is large and not yet decoded, or damaged.
        """
        if self._pixels is None and self.is_large:
            raise DecodeError("not_unpacked", f"{self._packed} compressed pixels are too many to decode here")
        return self.pixels

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height); None for a compressed image that is not yet decoded."""
        if self._pixels is None:
            return self._stated_size
        return int(self._pixels.shape[1]), int(self._pixels.shape[0])

    @classmethod
    def decode(
        cls, key: str, message: Any, converter: Converter | None = None, options: DecodeOptions | None = None
    ) -> CameraFrame:
        """Make a frame of "rgb" or "ir" from a sensor_msgs/Image or CompressedImage, checking its fields.

        Raises:
            DecodeError: the message can't be decoded; its `cause` names a drop counter.
        """
        start = perf_counter()
        is_compressed = hasattr(message, "format")
        try:
            opened: OpenImage
            if is_compressed:
                opened = (open_compressed_rgb if key == "rgb" else open_compressed_infrared)(message, options)
            else:
                opened = open_rgb(message, converter) if key == "rgb" else open_infrared(message, converter, options)
        except DecodeError as error:
            error.camera = key
            raise
        frame = cls(message.header, opened.unpack, key, opened.fingerprint)
        if key == "rgb" and not is_compressed:
            frame._stated_size = (int(message.width), int(message.height))
        frame._packed = opened.packed
        frame.decode_ms = (perf_counter() - start) * 1e3
        return frame


def _raise(error: DecodeError) -> np.ndarray:
    raise error
