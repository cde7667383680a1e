"""Malformed and odd `sensor_msgs/CompressedImage` messages, drawn from a seed; see `odd_images`."""

from __future__ import annotations

import random
import struct
import zlib
from array import array
from collections.abc import Callable

import cv2
from sensor_msgs.msg import CompressedImage

from tests.fuzz.odd_images import SIZES, good_pixels
from tests.ros.harness import to_stamp

__all__ = ["COMPRESSED_FAULTS", "compressed", "odd_compressed"]

FORMATS = ("", "jpeg", "png", "tiff", "webp", "mono16; png compressed", "mono16; jpeg compressed mono8", "x" * 5000)
MAGIC = (
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"II*\x00",
    b"MM\x00*",
    b"GIF89a",
    b"RIFF\x00\x00\x00\x00WEBP",
    b"BM",
)


def compressed(draw: random.Random, key: str, stamp_ns: int, size: tuple[int, int], kind: str) -> CompressedImage:
    """Good message: `kind` "jpeg", "png" or "tiff"; infrared is 16-bit except for JPEG."""
    encoding = "bgr8" if key == "rgb" else "mono8" if kind == "jpeg" else "mono16"
    message = CompressedImage(format=f"{encoding}; {kind} compressed {encoding}")
    message.header.stamp, message.header.frame_id = to_stamp(stamp_ns), f"{key}_optical"
    done, data = cv2.imencode(f".{kind}", good_pixels(draw, key, size, encoding))
    assert done
    message.data = array("B", data.tobytes())
    return message


def odd_compressed(draw: random.Random, key: str, stamp_ns: int) -> tuple[str, CompressedImage]:
    """Draw a message for the camera "rgb" or "ir", and the names of its faults, joined by "+"."""
    message = compressed(draw, key, stamp_ns, draw.choice(SIZES), draw.choice(["jpeg", "png", "tiff"]))
    names = draw.sample(sorted(COMPRESSED_FAULTS), 1 if draw.random() < 0.85 else 2)
    for name in names:
        COMPRESSED_FAULTS[name](draw, key, message)
    return "+".join(names), message


def _set_data(message: CompressedImage, data: bytes) -> None:
    message.data = array("B", data)


def _cut(draw: random.Random, key: str, message: CompressedImage) -> None:
    data = message.data.tobytes()
    _set_data(message, data[: draw.randrange(len(data) + 1)])


def _flipped(draw: random.Random, key: str, message: CompressedImage) -> None:
    data = bytearray(message.data.tobytes())
    for _ in range(draw.randint(1, 20) if data else 0):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    _set_data(message, bytes(data))


def _flipped_head(draw: random.Random, key: str, message: CompressedImage) -> None:
    data = bytearray(message.data.tobytes())
    for _ in range(draw.randint(1, 6) if data else 0):
        data[draw.randrange(min(len(data), 64))] = draw.randrange(256)
    _set_data(message, bytes(data))


def _empty(draw: random.Random, key: str, message: CompressedImage) -> None:
    _set_data(message, b"")


def _rubbish(draw: random.Random, key: str, message: CompressedImage) -> None:
    _set_data(message, draw.choice((b"", *MAGIC)) + draw.randbytes(draw.randint(0, 3000)))


def _bomb(draw: random.Random, key: str, message: CompressedImage) -> None:
    """Header that claims gigabytes."""
    side = draw.choice([9000, 60_000, 2**31 - 1])
    if draw.random() < 0.5:
        head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", side, side, 16, 0, 0, 0, 0)
    else:
        head = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, side % 65536, side % 65536, 1) + bytes(3)
    _set_data(message, head + draw.randbytes(200) + b"\xff\xd9")


def _as_jpeg(draw: random.Random, key: str, *options: int) -> bytes:
    """JPEG large enough to be damaged in its middle."""
    encoding = "bgr8" if key == "rgb" else "mono8"
    done, data = cv2.imencode(".jpg", good_pixels(draw, key, (160, 120), encoding), list(options))
    assert done
    return data.tobytes()


def _half_image(draw: random.Random, key: str, message: CompressedImage) -> None:
    """Damage that decoders repair silently: a truncated JPEG, or one with a hole, with its end marker."""
    data = _as_jpeg(draw, key, cv2.IMWRITE_JPEG_RST_INTERVAL, draw.choice([0, 8]))
    start = data.index(b"\xff\xda") + 16
    at = draw.randrange(start, len(data) - 600)
    if draw.random() < 0.5:
        data = data[:at].rstrip(b"\xff") + b"\xff\xd9"
    else:
        data = data[:at] + bytes(500) + data[at + 500 :]
    message.format = "jpeg"
    _set_data(message, data + bytes(draw.choice([0, 5000])))


def _scans(draw: random.Random, key: str, message: CompressedImage) -> None:
    """A few bytes per scan, each of which costs a pass over all pixels."""
    data = _as_jpeg(draw, key, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    last = data.rindex(b"\xff\xda")
    message.format = "jpeg"
    _set_data(message, data[:-2] + data[last:-2] * draw.choice([1, 9, 30, 100]) + b"\xff\xd9")


def _zstd(draw: random.Random, key: str, message: CompressedImage) -> None:
    """The transport `zstd`: valid, damaged, or with a wrong header."""
    encoding = "rgb8" if key == "rgb" else "mono16"
    pixels = good_pixels(draw, key, draw.choice(SIZES), encoding)
    height, width = pixels.shape[:2]
    fields = [height, width, 0, pixels.nbytes // height]
    if draw.random() < 0.4:
        fields[draw.choice([0, 1, 3])] = draw.choice([0, 1, 60_000, 2**32 - 1])
    packer = zlib.compressobj(1, wbits=31)
    data = struct.pack("<IIBI", *fields) + struct.pack("<I", len(encoding)) + encoding.encode()
    data += packer.compress(pixels.tobytes()) + packer.flush()
    message.format = "zstd"
    _set_data(message, data if draw.random() < 0.5 else data[: draw.randrange(len(data))])


def _mosaic(draw: random.Random, key: str, message: CompressedImage) -> None:
    pixels = good_pixels(draw, "ir", draw.choice([(64, 48), (33, 57), (2, 3)]), draw.choice(["mono8", "mono16"]))
    done, data = cv2.imencode(".png", pixels)
    assert done
    message.format = f"bayer_rggb{8 * pixels.itemsize}; png compressed "
    _set_data(message, data.tobytes())


def _foreign_format(draw: random.Random, key: str, message: CompressedImage) -> None:
    message.format = draw.choice((*FORMATS, "\N{RAINBOW}" * 40))


def _exchanged(draw: random.Random, key: str, message: CompressedImage) -> None:
    other = compressed(draw, "ir" if key == "rgb" else "rgb", 0, draw.choice(SIZES), draw.choice(["jpeg", "png"]))
    message.format, message.data = other.format, other.data


def _tiny(draw: random.Random, key: str, message: CompressedImage) -> None:
    size = draw.choice([(1, 1), (1, 300), (300, 1)])
    other = compressed(draw, key, 0, size, draw.choice(["jpeg", "png", "tiff"]))
    message.format, message.data = other.format, other.data


def _trailing(draw: random.Random, key: str, message: CompressedImage) -> None:
    _set_data(message, message.data.tobytes() + draw.randbytes(draw.choice([1, 100, 50_000])))


COMPRESSED_FAULTS: dict[str, Callable[[random.Random, str, CompressedImage], None]] = {
    "bomb": _bomb,
    "cut file": _cut,
    "empty file": _empty,
    "exchanged topics": _exchanged,
    "flipped bits": _flipped,
    "flipped head": _flipped_head,
    "foreign format": _foreign_format,
    "half image": _half_image,
    "many scans": _scans,
    "mosaic": _mosaic,
    "rubbish": _rubbish,
    "tiny": _tiny,
    "trailing bytes": _trailing,
    "zstd": _zstd,
}
