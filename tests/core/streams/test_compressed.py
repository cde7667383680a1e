"""Compressed image messages: supported formats, and refusal of damage, contradictions and decompression bombs."""

from __future__ import annotations

import struct
import time
import zlib
from array import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.streams.compressed import open_compressed_infrared, open_compressed_rgb
from spectradino_core.streams.decode import DecodeError, DecodeOptions
from spectradino_core.streams.modes import FrozenDetector
from tests.core.streams.unpacked import decode_compressed_infrared, decode_compressed_rgb
from tests.examples import examples


def message(data: bytes, text: str = "") -> SimpleNamespace:
    return SimpleNamespace(format=text, data=array("B", data))


def packed(extension: str, image: np.ndarray, *parameters: int) -> bytes:
    good, data = cv2.imencode(extension, image, parameters)
    assert good
    return data.tobytes()


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    """Smooth RGB image, red on the left."""
    frame = np.zeros((60, 80, 3), np.uint8)
    frame[..., 0] = np.linspace(255, 0, 80).astype(np.uint8)
    frame[..., 2] = np.linspace(0, 200, 60).astype(np.uint8)[:, None]
    return frame


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
def test_images_are_in_rgb_order(rgb, extension, text, error):
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


def test_grey_in_a_colour_jpeg_is_read_and_colour_is_refused(rgb):
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


def test_8_bit_data_stated_as_16_bit(counts):
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
def test_data_that_is_not_an_image_is_refused(data, text, cause):
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


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_that_claims(width: int, height: int, pixels: bytes = b"", others: bytes = b"") -> bytes:
    """PNG with valid checksums whose header states a grey image, with these rows and further chunks."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + others + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (1 << 20, 4), (8193, 8193)])
def test_a_bomb_is_refused_before_it_is_unpacked(width, height):
    with pytest.raises(DecodeError) as caught:
        decode_compressed_infrared(message(png_that_claims(width, height), "png"))
    assert caught.value.cause == "implausible_size"


@pytest.mark.parametrize(
    "others",
    [
        chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(7_900_000), 9)) * 30,
        chunk(b"eXIf", b"MM\0*" + bytes(20_000_000)),
        # An animation whose first image is larger than the file's.
        chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 9000, 9000, *[0] * 6)),
    ],
    ids=["texts", "metadata", "animation"],
)
def test_what_a_png_holds_beside_its_image_costs_nothing(others):
    data = png_that_claims(8, 4, bytes(4 * 9), others)
    begun = time.process_time()
    assert not decode_compressed_infrared(message(data, "mono8; png")).any()
    assert time.process_time() - begun < 0.5


def test_a_png_of_endless_chunks_is_refused_at_once():
    data = png_that_claims(8, 4, bytes(4 * 9), chunk(b"IDAT", b"") * 300_000)
    begun = time.process_time()
    with pytest.raises(DecodeError, match="chunks") as caught:
        open_compressed_infrared(message(data, "mono8; png"))
    assert caught.value.cause == "corrupt_data"
    assert time.process_time() - begun < 1.0


def test_a_jpeg_turned_by_its_camera_is_not_turned_back(rgb):
    """Boxes are in pixels as sent; an orientation tag must not exchange width and height."""
    plain = packed(".jpg", rgb)
    exif = (
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    )
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    assert decode_compressed_rgb(message(turned, "jpeg")).shape == rgb.shape


@settings(max_examples=examples(150), deadline=None)
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


@settings(max_examples=examples(120), deadline=None)
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


def test_a_damaged_image_is_refused_without_output_of_opencv(rgb, capfd):
    data = bytearray(packed(".tiff", rgb))
    data[-60:] = bytes(60)  # the directory, which OpenCV would complain of at length
    with pytest.raises(DecodeError):
        decode_compressed_rgb(message(bytes(data), "tiff"))
    assert capfd.readouterr().err == ""


def test_a_png_that_holds_less_than_it_claims_is_refused_in_silence(capfd):
    with pytest.raises(DecodeError) as caught:
        decode_compressed_infrared(message(png_that_claims(64, 48, bytes(65 * 20)), "mono8; png"))
    assert caught.value.cause == "corrupt_data"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("limit", "good"), [(4800, True), (4799, False)])
@pytest.mark.parametrize("extension", [".jpg", ".png", ".tiff"])
def test_more_pixels_than_the_parameter_allows_are_refused(rgb, extension, limit, good):
    sent = message(packed(extension, rgb))
    if good:
        assert decode_compressed_rgb(sent, DecodeOptions(max_pixels=limit)).shape == rgb.shape
        return
    with pytest.raises(DecodeError, match="max_image_megapixels") as caught:
        decode_compressed_rgb(sent, DecodeOptions(max_pixels=limit))
    assert caught.value.cause == "implausible_size"


def tiff_of(changes: dict[int, int], pixels: np.ndarray) -> bytes:
    """Uncompressed TIFF as written by OpenCV, with values of some tags changed."""
    good, stored = cv2.imencode(".tiff", pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    assert good
    data = bytearray(stored.tobytes())
    (at,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, at)
    for entry in range(entries):
        place = at + 2 + 12 * entry
        tag, kind = struct.unpack_from("<HH", data, place)
        if tag in changes:
            struct.pack_into("<I" if kind == 4 else "<H", data, place + 8, changes[tag])
    return bytes(data)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, ""),
        ({279: 60_000}, "corrupt_data"),  # the strip ends behind the file
        ({273: 9_000_000}, "corrupt_data"),  # or begins there
        ({257: 600}, "corrupt_data"),  # more rows than are stored
        ({259: 7}, "unknown_format"),  # JPEG inside, whose scans nobody counted
        ({277: 77}, "unknown_format"),
        ({256: 60_000, 257: 60_000}, "corrupt_data"),
    ],
)
def test_a_tiff_is_checked_before_it_is_decoded(counts, changes, cause, capfd):
    sent = message(tiff_of(changes, counts), "mono16; tiff")
    if not cause:
        np.testing.assert_array_equal(decode_compressed_infrared(sent), counts)
        return
    with pytest.raises(DecodeError) as caught:
        open_compressed_infrared(sent)
    assert caught.value.cause == cause
    assert capfd.readouterr().err == ""


def test_a_tiff_that_gives_two_sizes_is_refused(counts):
    """Limits would be checked with one of them, and pixels decoded with the other."""
    data = bytearray(tiff_of({}, counts))
    (at,) = struct.unpack_from("<I", data, 4)
    entries = [bytes(data[place : place + 12]) for place in range(at + 2, at + 26, 12)]
    assert [struct.unpack_from("<H", entry)[0] for entry in entries] == [256, 257]
    (count,) = struct.unpack_from("<H", data, at)
    rest = bytes(data[at + 26 : at + 2 + 12 * count + 4])
    large = [struct.pack("<HHII", tag, 4, 1, 60_000) for tag in (256, 257)]
    struct.pack_into("<I", data, 4, len(data))
    data += struct.pack("<H", count + 2) + large[0] + entries[0] + large[1] + entries[1] + rest
    with pytest.raises(DecodeError, match="tag 256 twice") as caught:
        open_compressed_infrared(message(bytes(data), "mono16; tiff"))
    assert caught.value.cause == "corrupt_data"


def test_temperatures_of_several_channels_are_no_image():
    plain = (cv2.IMWRITE_TIFF_COMPRESSION, 1)  # OpenCV 4.5 would pack floats as 16-bit LogLuv
    data = packed(".tiff", np.zeros((4, 6, 3), np.float32), *plain)
    for open_it in (open_compressed_infrared, open_compressed_rgb):
        with pytest.raises(DecodeError, match=r"32 bits and 3 channels.*: set the publisher") as caught:
            open_it(message(data, "tiff"))
        assert caught.value.cause == "unknown_format"


def test_temperatures_in_a_tiff(counts):
    kelvin = (counts / 100).astype(np.float32)
    got = decode_compressed_infrared(message(packed(".tiff", kelvin), "32FC1; tiff compressed"))
    np.testing.assert_array_equal(got, counts)


def test_a_crop_holds_for_compressed_images_too(counts):
    sent = message(packed(".png", counts), "mono16; png")
    got = decode_compressed_infrared(sent, DecodeOptions(ir_crop=(10, 20, 30, 0)))
    np.testing.assert_array_equal(got, counts[20:, 10:40])
    with pytest.raises(DecodeError) as caught:
        open_compressed_infrared(sent, DecodeOptions(ir_crop=(60, 0, 30, 0)))
    assert caught.value.cause == "crop_outside"


class TestBayer:
    """A Bayer mosaic inside JPEG or PNG, which looks like a grey image."""

    @staticmethod
    def mosaic() -> np.ndarray:
        """Red on the left, blue on the right, as an RGGB sensor sees it."""
        mosaic = np.full((48, 64), 30, np.uint8)
        mosaic[0::2, 0:32:2] = 220
        mosaic[1::2, 33::2] = 220
        return mosaic

    @pytest.mark.parametrize(
        ("extension", "text"),
        [
            (".png", "bayer_rggb8; png compressed "),
            (".png", "bayer_rggb8; png compressed bayer_rggb8"),
            (".jpg", "bayer_rggb8; jpeg compressed bayer_rggb8"),
            (".jpg", "bayer_rggb8; jpeg compressed mono8"),
            (".png", "bayer_rggb8"),
        ],
    )
    def test_becomes_colour(self, extension, text):
        good, data = cv2.imencode(extension, self.mosaic(), [cv2.IMWRITE_JPEG_QUALITY, 100])
        assert good
        got = decode_compressed_rgb(message(data.tobytes(), text)).astype(int)
        assert np.abs(got[8:40, 8:24] - (220, 30, 30)).max() <= 8
        assert np.abs(got[8:40, 40:56] - (30, 30, 220)).max() <= 8

    def test_of_16_bits(self):
        wide = self.mosaic().astype(np.uint16) * 257
        got = decode_compressed_rgb(message(packed(".png", wide), "bayer_rggb16; png compressed "))
        assert got[20, 16].tolist() == [220, 30, 30]

    def test_what_was_made_grey_before_packing_stays_grey(self):
        """compressed_image_transport lets cv_bridge convert bayer_rggb8 to grey for JPEG, and states mono8."""
        grey = np.tile(np.linspace(20, 220, 64).astype(np.uint8), (48, 1))
        got = decode_compressed_rgb(message(packed(".png", grey), "bayer_rggb8; png compressed mono8"))
        np.testing.assert_array_equal(got, np.repeat(grey[..., None], 3, axis=2))


def test_a_camera_that_repeats_one_image_is_known_by_the_packed_bytes(counts):
    """A repeated image is frozen; one that differs in a single pixel is not."""
    other = counts.copy()
    other[30, 41] += 1
    for form in (".png", ".tiff", ".jpg"):
        images = [(i if form != ".jpg" else (i >> 7).astype(np.uint8)) for i in (counts, other)]
        if form == ".jpg":
            images[1] = images[0].copy()
            images[1][30, 41] ^= 63
        still, moved = (open_compressed_infrared(message(packed(form, image), "")).fingerprint for image in images)
        frozen = FrozenDetector(400)
        assert [frozen(still, n * 100_000_000) for n in range(6)] == [False] * 4 + [True] * 2
        assert not frozen(moved, 600_000_000)
        assert not frozen(still, 700_000_000)


def test_16_bit_grey_is_not_an_rgb_image(counts):
    with pytest.raises(DecodeError, match="exchanged"):
        decode_compressed_rgb(message(packed(".png", counts), "mono16; png"))
