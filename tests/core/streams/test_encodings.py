"""Encodings sent by real RGB and thermal cameras: known colours and temperatures, encoded here by formulas.

Nothing here uses OpenCV, so that a wrong channel order or Bayer pattern cannot cancel out.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from spectradino_core.streams.decode import (
    INFRARED_ENCODINGS,
    READ_AS_RGB,
    RGB_ENCODINGS,
    DecodeError,
    DecodeOptions,
    decode_infrared,
    decode_rgb,
)

HEIGHT, WIDTH = 16, 24
RED, GREEN, BLUE, ORANGE = (200, 30, 40), (20, 180, 60), (35, 45, 210), (230, 140, 20)


@dataclass
class Message:
    """The fields of sensor_msgs/Image that are read."""

    height: Any
    width: Any
    encoding: Any
    is_bigendian: Any
    step: Any
    data: Any


def message_of(rows: np.ndarray, encoding: str, padding: int = 0, big: bool = False, height: int = HEIGHT) -> Message:
    """Create a message of rows of numbers [R, ...], with `padding` random bytes after each row."""
    stored = rows.astype(rows.dtype.newbyteorder(">" if big else "<"))
    raw = [row.tobytes() + b"\xa5" * padding for row in stored]
    width = WIDTH if rows.ndim == 2 and "nv" in encoding else rows.shape[1]
    return Message(height, width, encoding, int(big), len(raw[0]), array("B", b"".join(raw)))


@pytest.fixture
def scene() -> np.ndarray:
    """Four fields of colour, each far larger than any chroma block: uint8 [h, w, 3] in RGB order."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[: HEIGHT // 2, : WIDTH // 2], image[: HEIGHT // 2, WIDTH // 2 :] = RED, GREEN
    image[HEIGHT // 2 :, : WIDTH // 2], image[HEIGHT // 2 :, WIDTH // 2 :] = BLUE, ORANGE
    return image


def assert_same_fields(got: np.ndarray, wanted: np.ndarray, tolerance: int) -> None:
    """Check that the inside of each field has its colour; at edges colours may mix."""
    assert got.shape == wanted.shape
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    inside = np.zeros(got.shape[:2], bool)
    for top in (0, HEIGHT // 2):
        for left in (0, WIDTH // 2):
            inside[top + 2 : top + HEIGHT // 2 - 2, left + 2 : left + WIDTH // 2 - 2] = True
    assert np.abs(got[inside].astype(int) - wanted[inside]).max() <= tolerance


PATTERNS = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}


def mosaic_of(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """Return the image of a sensor whose first two rows begin with the pattern's letters."""
    mosaic = np.empty(rgb.shape[:2], rgb.dtype)
    for place, letter in enumerate(PATTERNS[pattern]):
        rows, columns = slice(place // 2, None, 2), slice(place % 2, None, 2)
        mosaic[rows, columns] = rgb[rows, columns, "RGB".index(letter)]
    return mosaic


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_bayer(scene, pattern, padding):
    mosaic = mosaic_of(scene, pattern)
    assert_same_fields(decode_rgb(message_of(mosaic, f"bayer_{pattern}8", padding)), scene, 1)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_bayer_of_16_bits(scene, pattern, padding, big):
    mosaic = mosaic_of(scene, pattern).astype(np.uint16) * 257
    assert_same_fields(decode_rgb(message_of(mosaic, f"bayer_{pattern}16", padding, big)), scene, 1)


def test_bayer_of_odd_size(scene):
    mosaic = mosaic_of(scene, "rggb")[:15, :23]
    got = decode_rgb(message_of(mosaic, "bayer_rggb8", height=15))
    assert got.shape == (15, 23, 3)
    assert np.abs(got[3, 3].astype(int) - RED).max() <= 1


def yuv_of(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Convert by BT.601, limited range."""
    r, g, b = (rgb[..., n].astype(float) for n in range(3))
    y = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
    u = 128 + (-37.797 * r - 74.203 * g + 112.0 * b) / 255
    v = 128 + (112.0 * r - 93.786 * g - 18.214 * b) / 255
    return tuple(np.rint(plane).astype(np.uint8) for plane in (y, u, v))  # type: ignore[return-value]


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")],
)
def test_packed_yuv(scene, encoding, order, padding):
    y, u, v = yuv_of(scene)
    packed = np.empty((HEIGHT, WIDTH, 2), np.uint8)
    luma, chroma = (1, 0) if order == "UYVY" else (0, 1)
    packed[..., luma] = y
    packed[:, 0::2, chroma], packed[:, 1::2, chroma] = u[:, 0::2], v[:, 0::2]
    assert_same_fields(decode_rgb(message_of(packed, encoding, padding)), scene, 3)


def planes_of(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """Return rows of an NV image, each [WIDTH]."""
    y, u, v = yuv_of(rgb)
    if encoding == "nv21":
        u, v = v, u
    step = 1 if encoding == "nv24" else 2
    chroma = np.dstack([u[::step, ::step], v[::step, ::step]]).reshape(-1, WIDTH)
    return np.vstack([y, chroma])


@pytest.mark.parametrize("padding", [0, 8])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24"])
def test_planar_yuv(scene, encoding, padding):
    message = message_of(planes_of(scene, encoding), encoding, padding)
    if encoding == "nv24" and padding:  # a row of its chroma is as long as two of brightness, padding and all
        chroma = planes_of(scene, encoding)[HEIGHT:].reshape(HEIGHT, -1)
        message.data = message.data[: HEIGHT * message.step] + array(
            "B", b"".join(row.tobytes() + b"\xa5" * 2 * padding for row in chroma)
        )
    assert_same_fields(decode_rgb(message), scene, 3)


@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24"])
@pytest.mark.parametrize("factor", [1, 1.5, 2, 3])
def test_dense_planes_are_read_with_any_step(scene, encoding, factor):
    message = message_of(planes_of(scene, encoding), encoding)
    message.step = int(WIDTH * factor)
    assert_same_fields(decode_rgb(message), scene, 3)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("rgb16", (0, 1, 2)), ("bgr16", (2, 1, 0)), ("16UC3", (2, 1, 0)), ("rgba16", (0, 1, 2, 3)),
     ("bgra16", (2, 1, 0, 3)), ("16UC4", (2, 1, 0, 3))],
)  # fmt: skip
def test_16_bits_a_channel(scene, encoding, order, padding, big):
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    wide = np.concatenate([scene, alpha], axis=2)[..., list(order)].astype(np.uint16) * 257
    got = decode_rgb(message_of(wide, encoding, padding, big))
    np.testing.assert_array_equal(got, scene)


@pytest.mark.parametrize(
    ("encoding", "height", "width", "words"),
    [("nv12", 15, 24, "even"), ("nv21", 16, 23, "even"), ("yuv422", 16, 23, "even"), ("yuyv", 3, 5, "even"),
     ("bayer_rggb8", 3, 24, "at least 4")],
)  # fmt: skip
def test_a_size_that_the_encoding_cannot_have_is_refused(encoding, height, width, words):
    message = Message(height, width, encoding, 0, 2 * width, bytes(3 * height * width))
    with pytest.raises(DecodeError, match=words) as caught:
        decode_rgb(message)
    assert caught.value.cause == "wrong_size"


@pytest.mark.parametrize(
    ("change", "cause"), [({"step": 23}, "wrong_step"), ({"data": bytes(10)}, "short_data"), ({}, "long_data")]
)
def test_planes_that_do_not_fit_their_fields_are_refused(scene, change, cause):
    message = message_of(planes_of(scene, "nv12"), "nv12")
    message.data = message.data.tobytes() + b"x"
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(DecodeError) as caught:
        decode_rgb(message)
    assert caught.value.cause == cause


def test_the_encodings_that_messages_name_are_those_that_are_read():
    for encoding in RGB_ENCODINGS:
        family = encoding.partition("_")[0] if encoding.startswith("bayer") else encoding
        base = family.replace("16", "8") if family not in ("bayer",) else family
        assert base in READ_AS_RGB, encoding
    assert {"16SC1", "32FC1", "mono16"} <= set(INFRARED_ENCODINGS)


def infrared(rows: np.ndarray, encoding: str, padding: int = 0, big: bool = False, **options: Any) -> np.ndarray:
    return decode_infrared(message_of(rows, encoding, padding, big, height=len(rows)), options=DecodeOptions(**options))


class TestThermal:
    """Messages of thermal cameras, as counts."""

    @pytest.mark.parametrize("big", [False, True])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("padding", [0, 3])
    def test_kelvin_becomes_hundredths(self, dtype, padding, big):
        kelvin = np.array([[293.15, 310.004], [0.0, 700.0]], dtype)
        got = infrared(kelvin, "32FC1" if dtype is np.float32 else "64FC1", padding, big, ir_float_unit="kelvin")
        assert got.dtype == np.uint16
        assert got.tolist() == [[29315, 31000], [1, 65534]]

    @pytest.mark.parametrize("unit", ["auto", "celsius"])
    def test_celsius_becomes_hundredths_of_a_kelvin(self, unit):
        celsius = np.array([[20.0, 36.85], [-40.0, 100.0]], np.float32)
        assert infrared(celsius, "32FC1", ir_float_unit=unit).tolist() == [[29315, 31000], [23315, 37315]]

    def test_auto_knows_kelvin_counts_and_fractions(self):
        assert infrared(np.full((8, 8), 300.0, np.float32), "32FC1")[0, 0] == 30000
        assert infrared(np.full((8, 8), 7421.0, np.float32), "32FC1")[0, 0] == 7421
        assert infrared(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8), "32FC1").max() == 65534

    def test_what_is_no_number_becomes_the_invalid_count(self):
        kelvin = np.full((8, 8), 300.0, np.float32)
        kelvin[1, 1:4] = np.nan, np.inf, -np.inf
        got = infrared(kelvin, "32FC1")
        assert got[1, :5].tolist() == [30000, 0, 0, 0, 30000]
        assert (infrared(np.full((8, 8), np.nan, np.float32), "32FC1") == 0).all()

    @pytest.mark.parametrize("big", [False, True])
    def test_signed_counts_keep_their_order(self, big):
        signed = np.array([[-4000, -1, 0, 2500]], np.int16)
        assert infrared(signed, "16SC1", 1, big).tolist() == [[28768, 32767, 32768, 35268]]

    def test_the_counts_of_a_double_height_frame(self):
        frame = np.random.default_rng(0).integers(0, 255, (384, 256)).astype(np.uint16)
        frame[192:] = 19000 + np.arange(256)
        got = infrared(frame, "mono16", ir_crop=(0, 192, 256, 192))
        assert got.shape == (192, 256)
        np.testing.assert_array_equal(got, frame[192:])
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(infrared(frame, "mono16", ir_crop=(0, 192, 0, 0)), frame[192:])

    def test_counts_labelled_as_yuv(self):
        """InfiRay over V4L2: yuv422_yuy2, image above, two bytes a count below."""
        above = np.full((192, 256, 2), 128, np.uint8)
        counts = (19000 + np.arange(192 * 256) % 3000).reshape(192, 256).astype("<u2")
        below = counts.view(np.uint8).reshape(192, 256, 2)
        got = infrared(np.vstack([above, below]), "yuv422_yuy2", ir_encoding="mono16", ir_crop=(0, 192, 256, 192))
        np.testing.assert_array_equal(got, counts)

    @pytest.mark.parametrize(
        "crop", [(0, 0, 25, 0), (24, 0, 0, 0), (0, 10, 0, 7), (-1, 0, 5, 5), (0, -2, 4, 4), (2, 2, -1, 4)]
    )
    def test_a_crop_outside_the_image_is_refused(self, crop):
        with pytest.raises(DecodeError, match=r"ir_crop.*24x16") as caught:
            infrared(np.zeros((HEIGHT, WIDTH), np.uint16), "mono16", ir_crop=crop)
        assert caught.value.cause == "crop_outside"

    @pytest.mark.parametrize("encoding", ["yuv422", "yuv422_yuy2"])
    def test_grey_sent_as_yuv(self, encoding):
        grey = np.tile(np.linspace(16, 235, WIDTH).astype(np.uint8), (HEIGHT, 1))
        packed = np.full((HEIGHT, WIDTH, 2), 128, np.uint8)
        packed[..., 1 if encoding == "yuv422" else 0] = grey
        got = infrared(packed, encoding)
        assert got.shape == grey.shape
        assert np.abs(got - (grey - 16.0) * 255 / 219).max() <= 1

    @pytest.mark.parametrize("encoding", ["rgb8", "nv12", "yuv422_yuy2", "bayer_rggb8", "rgb16"])
    def test_a_palette_is_refused_with_the_reason(self, scene, encoding):
        if encoding == "nv12":
            message = message_of(planes_of(scene, "nv12"), "nv12")
        elif encoding.startswith("bayer"):
            message = message_of(mosaic_of(scene, "rggb"), encoding)
        elif encoding.startswith("yuv"):
            y, u, v = yuv_of(scene)
            chroma = np.where(np.arange(WIDTH) % 2 == 0, u, v)
            message = message_of(np.dstack([y, chroma]), encoding)
        else:
            message = message_of(scene.astype(np.uint16) * 257 if "16" in encoding else scene, encoding)
        with pytest.raises(DecodeError, match="palette") as caught:
            decode_infrared(message)
        assert caught.value.cause == "colour_infrared"

    def test_grey_of_16_bits_a_channel_keeps_them(self):
        grey = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
        np.testing.assert_array_equal(infrared(np.repeat(grey[..., None], 3, 2), "rgb16"), grey)
