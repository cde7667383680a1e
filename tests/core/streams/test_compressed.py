"""Compressed image messages: what is read, and damage, contradictions and bombs that are refused."""

from __future__ import annotations

import struct
import zlib
from array import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.streams.compressed import decode_compressed_infrared, decode_compressed_rgb
from spectradino_core.streams.decode import DecodeError


def message(data: bytes, text: str = "") -> SimpleNamespace:
    return SimpleNamespace(format=text, data=array("B", data))


def packed(extension: str, image: np.ndarray) -> bytes:
    good, data = cv2.imencode(extension, image)
    assert good
    return data.tobytes()


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    """A smooth colour picture, red on the left."""
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[..., 0] = np.linspace(255, 0, 80).astype(np.uint8)
    picture[..., 2] = np.linspace(0, 200, 60).astype(np.uint8)[:, None]
    return picture


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    return np.random.default_rng(0).integers(20000, 30000, (60, 80)).astype(np.uint16)


@pytest.mark.parametrize(
    ("extension", "text", "error"),
    [
        (".jpg", "jpeg", 12),
        (".jpg", "rgb8; jpeg compressed bgr8", 12),
        (".png", "bgr8; png compressed bgr8", 0),
        (".tiff", "rgb8; tiff compressed bgr8", 0),
    ],
)
def test_colour_comes_out_in_rgb_order(rgb, extension, text, error):
    got = decode_compressed_rgb(message(packed(extension, rgb[..., ::-1]), text))
    assert got.shape == rgb.shape
    assert np.abs(got.astype(int) - rgb).max() <= error


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("text", ["mono16; png compressed", "16UC1; png compressed mono16", "png"])
def test_sixteen_bits_survive_png_and_tiff(counts, extension, text):
    got = decode_compressed_infrared(message(packed(extension, counts), text))
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, counts)


def test_eight_bit_infrared(counts):
    grey = (counts >> 8).astype(np.uint8)
    np.testing.assert_array_equal(decode_compressed_infrared(message(packed(".png", grey), "mono8; png")), grey)
    smooth = cv2.GaussianBlur(grey, (0, 0), 5)
    got = decode_compressed_infrared(message(packed(".jpg", smooth), "mono8; jpeg compressed mono8"))
    assert np.abs(got.astype(int) - smooth).max() <= 6


def test_grey_stored_as_colour_jpeg_is_grey_and_colour_is_refused(rgb):
    grey = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (60, 80), np.uint8), (0, 0), 3)
    got = decode_compressed_infrared(message(packed(".jpg", np.repeat(grey[..., None], 3, 2)), "bgr8; jpeg"))
    assert got.shape == grey.shape
    with pytest.raises(DecodeError) as caught:
        decode_compressed_infrared(message(packed(".png", rgb), "bgr8; png"))
    assert caught.value.cause == "colour_infrared"


def test_jpeg_of_sixteen_bits_is_refused_with_the_remedy(counts):
    data = packed(".jpg", (counts >> 8).astype(np.uint8))
    with pytest.raises(DecodeError, match="png") as caught:
        decode_compressed_infrared(message(data, "mono16; jpeg compressed mono8"))
    assert caught.value.cause == "lossy_16bit"


def test_eight_bits_where_the_text_says_sixteen(counts):
    data = packed(".png", (counts >> 8).astype(np.uint8))
    with pytest.raises(DecodeError) as caught:
        decode_compressed_infrared(message(data, "16UC1; png compressed"))
    assert caught.value.cause == "depth_mismatch"


@pytest.mark.parametrize(
    ("data", "text", "cause"),
    [
        (b"", "jpeg", "empty_image"),
        (b"GIF89a" + bytes(50), "gif", "unknown_format"),
        (bytes(12) + b"\x89PNG\r\n\x1a\n", "16UC1; compressedDepth png", "unknown_format"),
        (b"\xff\xd8\xff", "jpeg", "corrupt_data"),
        (b"\xff\xd8\xff\xe0\x00\x04ab\xff\xd9\xff\xd9", "jpeg", "corrupt_data"),
        (b"\x89PNG\r\n\x1a\n", "png", "corrupt_data"),
        (b"II*\x00\xff\xff\xff\xff", "tiff", "corrupt_data"),
    ],
)
def test_what_is_no_picture(data, text, cause):
    for decode in (decode_compressed_rgb, decode_compressed_infrared):
        with pytest.raises(DecodeError) as caught:
            decode(message(data, text))
        assert caught.value.cause == cause


@pytest.mark.parametrize("extension", [".jpg", ".png", ".tiff"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_a_cut_file_is_refused(rgb, extension, share):
    noisy = rgb + np.random.default_rng(2).integers(0, 20, rgb.shape).astype(np.uint8)
    data = packed(extension, noisy)
    with pytest.raises(DecodeError) as caught:
        decode_compressed_rgb(message(data[: int(len(data) * share)], ""))
    assert caught.value.cause in ("corrupt_data", "unknown_format")


def test_a_flipped_bit_in_a_png_is_noticed(counts):
    data = bytearray(packed(".png", counts))
    data[len(data) // 2] ^= 1
    with pytest.raises(DecodeError, match="checksum"):
        decode_compressed_infrared(message(bytes(data), "mono16; png"))


def png_that_claims(width: int, height: int) -> bytes:
    """A well-formed PNG head for a huge black picture; a few bytes long."""

    def part(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(b"")) + part(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (1 << 20, 4), (8193, 8193)])
def test_a_bomb_is_refused_before_it_is_unpacked(width, height):
    with pytest.raises(DecodeError) as caught:
        decode_compressed_infrared(message(png_that_claims(width, height), "png"))
    assert caught.value.cause == "implausible_size"


def test_a_jpeg_turned_by_its_camera_is_not_turned_back(rgb):
    """The boxes are in the pixels as sent; an orientation tag must not exchange width and height."""
    plain = packed(".jpg", rgb)
    exif = (
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    )
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    assert decode_compressed_rgb(message(turned, "jpeg")).shape == rgb.shape


@settings(max_examples=150, deadline=None)
@given(
    head=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\x00", b"MM\x00*"]),
    body=st.binary(max_size=200),
    tail=st.sampled_from([b"", b"\xff\xd9"]),
    text=st.one_of(st.text(max_size=20), st.sampled_from(["jpeg", "mono16; png", "rgb8; jpeg compressed bgr8"])),
)
def test_rubbish_is_a_decode_error(head, body, tail, text):
    for decode in (decode_compressed_rgb, decode_compressed_infrared):
        with pytest.raises(DecodeError):
            decode(message(head + body + tail, text))


@settings(max_examples=120, deadline=None)
@given(
    extension=st.sampled_from([".jpg", ".png", ".tiff"]),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 7)), min_size=1, max_size=4),
)
def test_damage_is_an_image_of_the_right_kind_or_a_decode_error(extension, flips):
    grey = (np.add.outer(np.arange(24), np.arange(32)) * 4).astype(np.uint8)
    data = bytearray(packed(extension, grey))
    for share, bit in flips:
        data[int(share * len(data))] ^= 1 << bit
    try:
        image = decode_compressed_infrared(message(bytes(data), "mono8"))
    except DecodeError:
        return
    assert image.ndim == 2
    assert image.size > 0


def test_a_damaged_picture_is_refused_without_a_word_of_opencvs_own(rgb, capfd):
    data = bytearray(packed(".tiff", rgb))
    data[-60:] = bytes(60)  # the directory, which OpenCV would complain of at length
    with pytest.raises(DecodeError):
        decode_compressed_rgb(message(bytes(data), "tiff"))
    assert capfd.readouterr().err == ""
