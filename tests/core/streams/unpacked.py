"""Compressed images decoded at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from spectradino_core.streams.compressed import open_compressed_infrared, open_compressed_rgb
from spectradino_core.streams.decode import DecodeOptions


def decode_compressed_rgb(message: Any, options: DecodeOptions | None = None) -> np.ndarray:
    return open_compressed_rgb(message, options).unpack()


def decode_compressed_infrared(message: Any, options: DecodeOptions | None = None) -> np.ndarray:
    return open_compressed_infrared(message, options).unpack()
