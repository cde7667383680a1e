"""Malformed and odd `sensor_msgs/Image` messages, drawn from a seed, as sent by broken drivers and odd cameras or by
none.

A fault changes one property of a good message; a message has one fault, sometimes several. Not all are errors: some are
rare but valid (one pixel, big endian, padded rows) and must have a result.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable

import numpy as np
from sensor_msgs.msg import Image

from tests.ros.harness import image

__all__ = ["CONTENT_FAULTS", "good_pixels", "odd_image"]

SIZES = ((64, 48), (33, 57), (80, 20), (14, 14))
RGB_ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "8UC3")
IR_ENCODINGS = ("mono8", "mono16", "16UC1", "8UC1")
FOREIGN = (
    "",
    " ",
    "RGB8",
    "rgb10",
    "sepia13",
    "bayer_rggb12",
    "yuv411",
    "32FC3",
    "64FC4",
    "8UC17",
    "16SC2",
    "nan",
    "jpeg",
    "mono16\n[FATAL]",
    "\N{RAINBOW}" * 40,
    "x" * 5000,
)
REAL_RGB = ("bayer_rggb8", "bayer_gbrg8", "bayer_grbg16", "yuv422", "yuv422_yuy2", "nv12", "nv21", "nv24", "rgb16")
REAL_IR = ("32FC1", "16SC1", "yuv422_yuy2", "nv12")
SIZES_OF_NO_CAMERA = (0, 1, 2, 65535, 65536, 65537, 2**31 - 1, 2**31, 2**32 - 1)


def good_pixels(draw: random.Random, key: str, size: tuple[int, int], encoding: str) -> np.ndarray:
    """Noise, as no real sensor repeats a frame: uint8 [h, w], [h, w, 3], [h, w, 4] or uint16 [h, w]."""
    noise = np.random.default_rng(draw.getrandbits(32))
    width, height = size
    if encoding in ("mono16", "16UC1"):
        return noise.integers(20000, 23000, (height, width)).astype(np.uint16)
    channels = {"rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4}.get(encoding)
    shape = (height, width) if channels is None else (height, width, channels)
    pixels = noise.integers(0, 200, shape).astype(np.uint8)
    pixels[0, 0] = 128  # pure green there would make the blob model fail
    return pixels


def odd_image(draw: random.Random, key: str, stamp_ns: int) -> tuple[str, Image]:
    """Draw a message for the camera "rgb" or "ir", and the names of its faults, joined by "+"."""
    encoding = draw.choice(RGB_ENCODINGS if key == "rgb" else IR_ENCODINGS)
    message = image(good_pixels(draw, key, draw.choice(SIZES), encoding), encoding, stamp_ns, f"{key}_optical")
    names = draw.sample(sorted(CONTENT_FAULTS), 1 if draw.random() < 0.85 else draw.randint(2, 4))
    for name in names:
        CONTENT_FAULTS[name](draw, key, message)
    return "+".join(names), message


def _set_data(message: Image, data: bytes) -> None:
    message.data = array("B", data)


def _replace(message: Image, other: Image) -> None:
    for name in ("height", "width", "encoding", "is_bigendian", "step", "data"):
        setattr(message, name, getattr(other, name))


def _wrong_step(draw: random.Random, key: str, message: Image) -> None:
    message.step = draw.choice([0, 1, max(message.step - 1, 0), message.step + 1, 2 * message.step, 2**31, 2**32 - 1])


def _wrong_size(draw: random.Random, key: str, message: Image) -> None:
    name = draw.choice(["height", "width"])
    near = [getattr(message, name) + by for by in (-1, 1)]
    setattr(message, name, draw.choice([max(n, 0) for n in near] + list(SIZES_OF_NO_CAMERA)))


def _huge(draw: random.Random, key: str, message: Image) -> None:
    """Consistent fields that would take all memory, with too few data."""
    message.height = message.width = draw.choice([50_000, 65_536, 2**31, 2**32 - 1])
    message.step = min(message.width * 4, 2**32 - 1)


def _empty(draw: random.Random, key: str, message: Image) -> None:
    _set_data(message, b"")


def _cut(draw: random.Random, key: str, message: Image) -> None:
    data = message.data.tobytes()
    _set_data(message, data[: draw.randrange(len(data) + 1)])


def _too_long(draw: random.Random, key: str, message: Image) -> None:
    _set_data(message, message.data.tobytes() + draw.randbytes(draw.choice([1, 2, 1000, 100_000])))


def _foreign_encoding(draw: random.Random, key: str, message: Image) -> None:
    message.encoding = draw.choice(FOREIGN)


def _exchanged(draw: random.Random, key: str, message: Image) -> None:
    """An image of the other camera."""
    encoding = draw.choice(IR_ENCODINGS[1:3] if key == "rgb" else RGB_ENCODINGS[:4])
    other = "ir" if key == "rgb" else "rgb"
    _replace(message, image(good_pixels(draw, other, draw.choice(SIZES), encoding), encoding, 0, ""))


def _encoding_of_another(draw: random.Random, key: str, message: Image) -> None:
    """A known encoding that does not fit the bytes."""
    message.encoding = draw.choice(RGB_ENCODINGS + IR_ENCODINGS)


def _real_encoding(draw: random.Random, key: str, message: Image) -> None:
    """Encodings of real cameras besides rgb8 and mono16; the size may be impossible for the encoding."""
    noise = np.random.default_rng(draw.getrandbits(32))
    width, height = draw.choice(SIZES)
    encoding = draw.choice(REAL_RGB if key == "rgb" else REAL_IR)
    rows, row = height, width
    if encoding in ("nv12", "nv21"):
        rows = height + height // 2
    elif encoding == "nv24":
        rows = 3 * height
    elif encoding == "32FC1":
        row = 4 * width
    elif encoding.startswith("bayer") and encoding.endswith("8"):
        row = width
    else:
        row = width * {"rgb16": 6, "bgr16": 6}.get(encoding, 2)
    # Near grey however it is read, for the same reason as in `good_pixels`.
    data = noise.integers(100, 156, rows * row).astype(np.uint8).tobytes()
    if encoding == "32FC1":
        kelvin = noise.normal(300, 10, height * width).astype("<f4")
        kelvin[noise.random(kelvin.size) < draw.choice([0, 0.01, 1])] = draw.choice([np.nan, np.inf, -1e30, 1e30])
        data = kelvin.tobytes()
    message.height, message.width, message.step, message.encoding = height, width, row, encoding
    message.is_bigendian = 0
    _set_data(message, data if draw.random() < 0.8 else data[: draw.randrange(len(data))])


def _byte_order(draw: random.Random, key: str, message: Image) -> None:
    message.is_bigendian = draw.choice([1, 2, 255])


def _padded(draw: random.Random, key: str, message: Image) -> None:
    encoding = draw.choice(RGB_ENCODINGS if key == "rgb" else IR_ENCODINGS)
    pixels = good_pixels(draw, key, draw.choice(SIZES), encoding)
    _replace(message, image(pixels, encoding, 0, "", big_endian=draw.random() < 0.5, padding=draw.randint(1, 70)))


def _tiny(draw: random.Random, key: str, message: Image) -> None:
    encoding = draw.choice(RGB_ENCODINGS if key == "rgb" else IR_ENCODINGS)
    size = draw.choice([(1, 1), (1, 2), (2, 1), (1, 300), (300, 1), (3, 3)])
    _replace(message, image(good_pixels(draw, key, size, encoding), encoding, 0, ""))


def _extreme_values(draw: random.Random, key: str, message: Image) -> None:
    """All dark, all bright, the bits of NaN, or noise over the whole range."""
    size = len(message.data)
    _set_data(message, draw.choice([bytes(size), b"\xff" * size, b"\x00\x00\xc0\x7f" * (size // 4 + 1)])[:size])
    if draw.random() < 0.3:
        _set_data(message, (b"\x80" * 4 + draw.randbytes(size))[:size])


def _odd_frame_id(draw: random.Random, key: str, message: Image) -> None:
    message.header.frame_id = draw.choice(
        ["", "/", "other camera", "\N{CAMERA}", "\x1b[31m[FATAL] red", "a\nb", "%s%n{}", "x" * 5000]
    )


def _anything(draw: random.Random, key: str, message: Image) -> None:
    message.height, message.width, message.step = (
        draw.choice([draw.getrandbits(32), draw.randint(0, 80)]) for _ in "hws"
    )
    message.encoding = draw.choice(RGB_ENCODINGS + IR_ENCODINGS + FOREIGN)
    message.is_bigendian = draw.randint(0, 255)
    _set_data(message, draw.randbytes(draw.randint(0, 4000)))


CONTENT_FAULTS: dict[str, Callable[[random.Random, str, Image], None]] = {
    "anything": _anything,
    "byte order": _byte_order,
    "cut data": _cut,
    "empty data": _empty,
    "encoding of another": _encoding_of_another,
    "exchanged topics": _exchanged,
    "extreme values": _extreme_values,
    "foreign encoding": _foreign_encoding,
    "huge": _huge,
    "odd frame_id": _odd_frame_id,
    "padded rows": _padded,
    "real encoding": _real_encoding,
    "tiny": _tiny,
    "too much data": _too_long,
    "wrong size": _wrong_size,
    "wrong step": _wrong_step,
}
