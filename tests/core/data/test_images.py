"""Image files of a data set: what is read, and what is refused by its header."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest

from spectradino_core.data.images import (
    ImageFileError,
    exif_orientation,
    in_colour,
    read_colour,
    read_counts,
    read_image,
)
from spectradino_core.data.labels.masks import read_mask
from spectradino_core.runtime.image_size import MAX_FILE_PIXELS, claimed_size, tiff_tags

SUFFIXES = (".png", ".jpg", ".tif", ".bmp", ".webp", ".pgm", ".ppm")
COLOUR = np.random.default_rng(0).integers(0, 256, (21, 34, 3), np.uint8)


def png(width: int, height: int, bits: int = 1, kind: int = 0) -> bytes:
    """Encode a PNG with all pixels 0: a thousandth of the size that its header states."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = zlib.compressobj(9)
    row = bytes(1 + -(-width * bits // 8))
    packed = b"".join(pixels.compress(row) for _ in range(height)) + pixels.flush()
    palette = chunk(b"PLTE", bytes(6)) if kind == 3 else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + palette + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def tiff(width: int, height: int, order: str = "<", big: bool = False) -> bytes:
    """Return the header of a TIFF file."""
    offset, number = ("Q", "Q") if big else ("I", "H")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "I", 8)
    entries = [(256, 4, width), (257, 4, height)]
    packed = struct.pack(order + number, len(entries))
    for tag, kind, value in entries:
        packed += struct.pack(order + "HH" + offset + "I", tag, kind, 1, value) + (bytes(4) if big else b"")
    return head + packed


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_header_gives_the_size_that_is_decoded(tmp_path, suffix):
    for shape in ((21, 34), (1, 1), (300, 7)):
        image = cv2.resize(COLOUR, shape[::-1])
        path = tmp_path / f"a{suffix}"
        assert cv2.imwrite(str(path), image[..., 0] if suffix == ".pgm" else image)
        assert claimed_size(path.read_bytes()) == shape[::-1]
        assert read_image(path, cv2.IMREAD_UNCHANGED).shape[:2] == shape


def test_other_forms_of_the_same_formats_are_read(tmp_path):
    files = {
        "progressive.jpg": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
        "lossless.webp": [cv2.IMWRITE_WEBP_QUALITY, 101],
        "packed.tif": [cv2.IMWRITE_TIFF_COMPRESSION, 5],
    }
    for name, options in files.items():
        assert cv2.imwrite(str(tmp_path / name), COLOUR, options)
        assert claimed_size((tmp_path / name).read_bytes()) == (34, 21)
        assert read_colour(tmp_path / name).shape == (21, 34, 3)
    commented = tmp_path / "a.pgm"
    commented.write_bytes(b"P5 # a remark\n# 9 9\n34\t21\n65535\n" + bytes(34 * 21 * 2))
    assert read_counts(commented).shape == (21, 34)
    assert claimed_size(tiff(70_000, 5, ">")) == (70_000, 5)
    assert claimed_size(tiff(70_000, 5, "<", big=True)) == (70_000, 5)


def test_only_wanted_tags_of_a_tiff_are_decoded():
    """Many long tags may refer to the same bytes, which would take gigabytes."""
    values, entries = 1 << 16, 500
    start = 10 + 12 * entries
    long = b"".join(struct.pack("<HHII", 1000 + tag, 4, values, start) for tag in range(entries - 2))
    size = struct.pack("<HHIIHHII", 256, 4, 1, 40, 257, 4, 1, 30)
    data = b"II*\0" + struct.pack("<IH", 8, entries) + size + long + bytes(4 * values)
    assert claimed_size(data) == (40, 30)
    assert tiff_tags(data, (256, 1000)) == {256: [40], 1000: [0] * values}
    too_many = data.replace(struct.pack("<HHI", 1000, 4, values), struct.pack("<HHI", 1000, 4, values + 1))
    assert tiff_tags(too_many + bytes(8), (256, 1000)) == {256: [40]}
    tracemalloc.start()
    claimed_size(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_tiff_with_two_widths_is_refused():
    """libtiff takes the first, so the second must not hide its size."""
    large, small = tiff(30_000, 20), tiff(30, 20)
    assert claimed_size(large) == (30_000, 20)
    assert claimed_size(large[:8] + struct.pack("<H", 3) + large[10:] + small[10:22]) is None


BOMBS = {
    "a.png": png(20_000, 20_000),
    "a.jpg": b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc2\x00\x11\x08" + struct.pack(">HH", 60_000, 60_000) + bytes(99),
    "a.tif": tiff(30_000, 30_000),
    "a.bmp": b"BM" + struct.pack("<IIIIii", 99, 0, 54, 40, 30_000, -30_000) + bytes(99),
    "a.webp": b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + b"\xff\xff\x00" * 2 + bytes(99),
    "a.ppm": b"P6\n40000 40000\n255\n" + bytes(99),
}


@pytest.mark.parametrize("name", BOMBS)
def test_an_image_that_claims_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch, name):
    data = BOMBS[name]
    if name == "a.jpg":
        data += b"\xff\xd9"
    (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    for read in (read_colour, read_counts, read_mask):
        with pytest.raises(ImageFileError, match=rf"{name}: claims \d+x\d+ pixels, above the limit of 100 .*shrink"):
            read(tmp_path / name)
    assert not in_colour(tmp_path / name)


def test_a_palette_mask_is_no_way_around_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "mask.png"
    path.write_bytes(png(12_000, 9_000, 1, 3))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ImageFileError, match="mask.png: claims 12000x9000 pixels"):
        read_mask(path)


def test_a_side_that_no_camera_has_is_refused_and_the_largest_image_is_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(70_000, 2))
    with pytest.raises(ImageFileError, match="more than 65536 on a side"):
        read_counts(path)
    path.write_bytes(png(10_000, MAX_FILE_PIXELS // 10_000))
    assert read_counts(path).shape == (10_000, 10_000)


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xd9", b"II*\0", b"BM", b"RIFF", b"P6 3", b"text"]
)
def test_headers_that_are_cut_are_no_images(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageFileError, match=r"a\.png: "):
        read_image(tmp_path / "a.png", cv2.IMREAD_COLOR)


def jpeg_turned(orientation, order="<", before=b""):
    """Return a JPEG with an EXIF segment."""
    stored = cv2.imencode(".jpg", np.zeros((8, 16, 3), np.uint8))[1].tobytes()
    directory = struct.pack(order + "HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8) + directory
    return stored[:2] + before + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + stored[2:]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (jpeg_turned(6), 6),
        (jpeg_turned(3, ">", b"\xff\xe0\0\4ab"), 3),
        (jpeg_turned(1), 1),
        (jpeg_turned(99), 1),
        (jpeg_turned(6)[:30], 1),
        (b"\xff\xd8" + b"\xff\xe0\0\2" * 1000, 1),
        (b"", 1),
        (b"\x89PNG", 1),
    ],
)
def test_exif_orientation_is_read_and_not_applied(tmp_path, data, expected):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert exif_orientation(path) == expected
    if expected != 1:
        assert read_colour(path).shape == (8, 16, 3)


def test_messages_name_the_remedy(tmp_path):
    path = tmp_path / "a.tif"
    cv2.imwrite(str(path), np.zeros((8, 8), np.float32))
    with pytest.raises(ImageFileError, match=r"is float32; .*: save its values, such as kelvin \* 100, as uint16"):
        read_counts(path)
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint16))
    with pytest.raises(ImageFileError, match=r"is uint16; .*: convert it \(e.g. mogrify -depth 8\)"):
        read_colour(path)
    path.write_bytes(b"\xff\xd8junk")
    with pytest.raises(ImageFileError, match=r"damaged one; fetch it again, or remove it and run the same"):
        read_colour(path)
