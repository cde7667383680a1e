"""Damaged JPEGs are refused by every decoder, and valid ones of any camera are read."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import threading
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from spectradino_core.streams import jpeg
from spectradino_core.streams.decode import DecodeError
from spectradino_core.streams.jpeg import MAX_SCANS
from spectradino_core.streams.stderr import diverted_stderr
from tests.core.streams.unpacked import decode_compressed_infrared, decode_compressed_rgb

END = b"\xff\xd9"


@pytest.fixture(params=["simplejpeg", "opencv"], autouse=True)
def decoder(request, monkeypatch) -> str:
    """Run every test with the strict decoder, and with its replacement where it is not installed."""
    if request.param == "opencv":
        monkeypatch.setattr(jpeg, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg")
    return request.param


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    """Smooth and noisy image, 320x240: its JPEG is long enough to be damaged in its middle."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    return np.clip(image.astype(int) + rng.integers(-12, 13, image.shape), 0, 255).astype(np.uint8)


def packed(rgb: np.ndarray, *options: int) -> bytes:
    good, data = cv2.imencode(".jpg", rgb[..., ::-1], list(options))
    assert good
    return data.tobytes()


def read(data: bytes, text: str = "rgb8; jpeg compressed bgr8") -> np.ndarray:
    return decode_compressed_rgb(SimpleNamespace(format=text, data=data))


def cause_of(data: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        read(data)
    return caught.value.cause


KINDS = {
    "baseline": (),
    "optimised": (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    "restart markers": (cv2.IMWRITE_JPEG_RST_INTERVAL, 10),
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_image_is_what_was_sent(rgb, kind):
    got = read(packed(rgb, cv2.IMWRITE_JPEG_QUALITY, 95, *KINDS[kind]))
    assert got.shape == rgb.shape
    assert np.abs(got.astype(int) - rgb).mean() < 7


def test_both_decoders_give_the_same_pixels(rgb, monkeypatch):
    pytest.importorskip("simplejpeg")
    data = packed(rgb)
    strict = read(data)
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert np.abs(strict.astype(int) - read(data)).max() <= 2


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_image_with_an_end_marker_is_refused(rgb, kind, fraction, capfd):
    data = packed(rgb, *KINDS[kind])
    start = data.index(b"\xff\xda") + 16
    cut = data[: start + int(fraction * (len(data) - start))].rstrip(b"\xff")
    assert cause_of(cut + END) == "corrupt_data"
    assert capfd.readouterr().err == ""


def scan_ends(data: bytes) -> list[int]:
    """Return the offset behind each scan, in an image without restart markers."""
    starts = [found.start() for found in re.finditer(b"\xff\xda", data)]
    return [re.compile(b"\xff[^\0\xff]").search(data, start + 2).start() for start in starts]


def test_a_progressive_image_cut_between_two_scans_is_refused(rgb):
    """Decoders show the received scans, coarse or grey, without a warning."""
    data = packed(rgb, *KINDS["progressive"])
    ends = scan_ends(data)
    assert len(ends) > 3
    for end in ends[:-1]:
        assert cause_of(data[:end] + END) == "corrupt_data"
    read(data[: ends[-1]] + END)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def made(sampling: list[tuple[int, int]], scans: list[list[int]], frame: int = 0xC0, bits: int = 8) -> bytes:
    """Grey JPEG of one MCU, as no available encoder writes it.

    Args:
        sampling: horizontal and vertical factor of each component.
        scans: components of each scan, whose blocks have level 128.
        frame: marker of the frame type.
        bits: bits per channel.
    """
    width, height = (8 * max(factors) for factors in zip(*sampling))
    parts = b"".join(bytes([n, h << 4 | v, 0]) for n, (h, v) in enumerate(sampling))
    data = b"\xff\xd8" + segment(0xDB, bytes([0, *[8] * 64]))
    data += segment(frame, struct.pack(">BHHB", bits, height, width, len(sampling)) + parts)
    for table in (0x00, 0x10):  # two codes of one and two bits: nothing, and a coefficient of one bit
        data += segment(0xC4, bytes([table, 1, 1, *[0] * 14, 0, 1]))
    for scan in scans:
        blocks = sum(h * v for h, v in (sampling[n] for n in scan))
        data += segment(0xDA, bytes([len(scan), *(byte for n in scan for byte in (n, 0)), 0, 63, 0]))
        data += ((1 << -2 * blocks % 8) - 1).to_bytes(-(-2 * blocks // 8), "big")
    return data + END


@pytest.mark.parametrize("scans", [[[0]], [[0], [1]], [[1, 2]], [[0], [0], [0]]])
def test_an_image_without_one_of_its_components_is_refused(scans):
    sampling = [(2, 2), (1, 1), (1, 1)]
    assert (read(made(sampling, [[0], [1], [2]])) == 128).all()
    assert cause_of(made(sampling, scans)) == "corrupt_data"


@pytest.mark.parametrize("sampling", [[(3, 1), (1, 1), (1, 1)], [(4, 2), (1, 1), (1, 1)], [(2, 2), (2, 1), (1, 2)]])
def test_rare_subsampling_is_no_damage(sampling, capfd):
    data = made(sampling, [[0, 1, 2]])
    assert (read(data) == 128).all()
    cut = data.index(b"\xff\xda") + 14
    assert cause_of(data[:cut] + END) == "corrupt_data"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (made([(1, 1)] * 3, [[0, 1, 2]], frame=0xC1, bits=12), "3 channels of 12 bits"),
        (made([(1, 1)] * 2, [[0, 1]]), "2 channels of 8 bits"),
        (made([(1, 1)] * 3, [[0, 1, 2]], frame=0xC5), "marker 0xffc5"),
    ],
)
def test_a_kind_that_is_not_read_is_not_called_damaged(data, said):
    with pytest.raises(DecodeError, match=f"{said}.*: set the camera") as caught:
        read(data)
    assert caught.value.cause == "unknown_format"


def test_what_no_decoder_reads_is_explained_once(rgb):
    data = packed(rgb)
    with pytest.raises(DecodeError) as caught:
        read(data.replace(b"\xff\xc4\0", b"\xff\xc4\0\1\xff\xc4\0", 1))
    assert str(caught.value).count("damaged") == 1
    assert "tj" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_in_the_middle_are_refused(rgb, kind, capfd):
    data = bytearray(packed(rgb, *KINDS[kind]))
    middle = len(data) // 2
    data[middle : middle + 4096] = bytes(4096)
    assert cause_of(bytes(data)) == "corrupt_data"
    assert capfd.readouterr().err == ""


def test_a_hole_that_holds_as_many_blocks_as_what_was_there_is_refused(rgb):
    """At this quality zeros make about as many blocks as real data, so that the decoder may end in the right place."""
    dark = np.full((120, 160, 3), 60, np.uint8) + np.random.default_rng(0).integers(0, 19, (120, 160, 3), np.uint8)
    data = packed(dark, cv2.IMWRITE_JPEG_QUALITY, 95)
    start, size = data.index(b"\xff\xda") + 14, len(data) // 3
    for at in range(start, len(data) - size - 2, 97):
        assert cause_of(data[:at] + bytes(size) + data[at + size :]) == "corrupt_data"


@pytest.mark.parametrize("optimise", [0, 1])
@pytest.mark.parametrize("level", [0, 16, 128, 255])
def test_an_image_of_one_level_is_no_hole(level, optimise):
    """Tables made for such an image encode a block by two zero bits."""
    flat = np.full((480, 640, 3), level, np.uint8)
    for quality in (30, 95):
        data = packed(flat, cv2.IMWRITE_JPEG_OPTIMIZE, optimise, cv2.IMWRITE_JPEG_QUALITY, quality)
        assert np.abs(read(data).astype(int) - level).max() <= 1


@pytest.mark.parametrize("tail", [bytes(60_000), b"\xff" * 4000, bytes(range(256)) * 200, b"\x00\xff\xd8\xff" * 99])
def test_padding_behind_the_image_changes_nothing(rgb, tail):
    data = packed(rgb)
    np.testing.assert_array_equal(read(data + tail), read(data))


@pytest.mark.parametrize("tail", [bytes(60_000), b"\xff" * 4000, b""])
def test_a_cut_image_is_refused_with_padding_too(rgb, tail):
    data = packed(rgb)
    assert cause_of(data[: int(0.6 * len(data))] + tail) == "corrupt_data"


def test_the_rest_of_an_older_frame_does_not_complete_a_cut_one(rgb):
    older = packed(rgb[::-1])
    data = packed(rgb)
    cut = int(0.5 * len(data))
    assert cause_of(data[:cut] + older[cut:]) == "corrupt_data"


def test_restart_markers_must_all_be_there_and_in_order(rgb):
    data = packed(rgb, cv2.IMWRITE_JPEG_RST_INTERVAL, 10)
    markers = [m.start() for m in re.finditer(rb"\xff[\xd0-\xd7]", data) if m.start() > data.index(b"\xff\xda")]
    third, fifth = markers[3], markers[5]
    assert cause_of(data[:third] + data[third + 2 :]) == "corrupt_data"
    assert cause_of(data[: third + 1] + b"\xd0" + data[third + 2 :]) == "corrupt_data"
    assert cause_of(data[:third] + data[fifth:]) == "corrupt_data"


@pytest.mark.parametrize("kind", ["baseline", "restart markers"])
def test_alignment_before_the_end_marker_is_harmless(rgb, kind, capfd):
    """Many USB cameras pad to a word; libjpeg warns about it in each frame."""
    data = packed(rgb, *KINDS[kind])
    for fill in (b"\x00", b"\x00" * 12, b"\x00" * 60):
        np.testing.assert_array_equal(read(data[:-2] + fill + END), read(data))
    assert capfd.readouterr().err == ""
    middle = len(data) // 2
    left_over = data[middle : middle + 300].replace(b"\xff", b"\xfe")
    assert cause_of(data[:-2] + left_over + END) == "corrupt_data"


def test_motion_jpeg_without_huffman_tables_is_read(rgb):
    data = packed(rgb)
    bare = data
    while (at := bare.find(b"\xff\xc4", 0, bare.index(b"\xff\xda"))) > 0:
        bare = bare[:at] + bare[at + 2 + int.from_bytes(bare[at + 2 : at + 4], "big") :]
    assert len(bare) < len(data)
    np.testing.assert_array_equal(read(bare, "mjpeg"), read(data))


@pytest.mark.parametrize("scans", [MAX_SCANS, 100, 1000])
def test_an_image_of_many_scans_is_refused_unseen(rgb, scans):
    data = packed(rgb, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    last = data.rindex(b"\xff\xda")
    assert cause_of(data[:-2] + data[last:-2] * scans + END) == "too_many_scans"


@pytest.mark.parametrize("count", [0, 2, 4, 255])
def test_a_scan_header_that_claims_other_components_is_refused(rgb, count):
    data = packed(rgb[:8, :8])
    at = data.rindex(b"\xff\xda")
    assert cause_of(data[: at + 4] + bytes([count]) + data[at + 5 :]) == "corrupt_data"
    assert cause_of(data[: at + 4] + bytes([count]) + data[at + 5 : at + 14] + END) == "corrupt_data"


def test_a_second_pass_that_fails_is_a_damaged_image(rgb, monkeypatch, decoder):
    if decoder == "opencv":
        return  # which decodes once

    def decode(data, colours, strict=True):
        raise ValueError("Corrupt JPEG data: 1 extraneous bytes before marker 0xd9" if strict else "out of memory")

    monkeypatch.setattr(jpeg, "simplejpeg", SimpleNamespace(decode_jpeg=decode))
    assert cause_of(packed(rgb)) == "corrupt_data"


def test_a_header_of_endless_parts_is_refused(rgb):
    data = packed(rgb)
    assert cause_of(data[:2] + b"\xff\xfe\x00\x02" * 100_000 + data[2:]) == "corrupt_data"


def test_grey_is_one_channel_for_infrared_and_three_for_rgb(rgb):
    grey = cv2.GaussianBlur(rgb[..., 1], (0, 0), 3)
    good, data = cv2.imencode(".jpg", grey)
    assert good
    message = SimpleNamespace(format="mono8; jpeg compressed mono8", data=data.tobytes())
    got = decode_compressed_infrared(message)
    assert got.shape == grey.shape
    assert np.abs(got.astype(int) - grey).max() <= 8
    np.testing.assert_array_equal(read(data.tobytes()), np.repeat(got[..., None], 3, axis=2))


class TestDivertedStderr:
    def test_lines_of_others_are_passed_on_and_those_of_libraries_kept(self, capfd):
        with diverted_stderr(re.compile("^Corrupt JPEG")) as found:
            os.write(2, b"Corrupt JPEG data: bad Huffman code\nlibpng error: x\n[ERROR] [node]: a line of a thread\n")
        assert found == ["Corrupt JPEG data: bad Huffman code"]
        assert capfd.readouterr().err == "[ERROR] [node]: a line of a thread\n"

    def test_an_exception_gives_the_descriptor_back(self, capfd):
        with pytest.raises(ValueError, match="x"), diverted_stderr(re.compile("x")):
            raise ValueError("x")
        os.write(2, b"after\n")
        assert capfd.readouterr().err == "after\n"

    def test_nothing_of_many_threads_is_lost(self, capfd):
        def write() -> None:
            for number in range(200):
                os.write(2, b"line %d\n" % number)

        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(300):
            with diverted_stderr(re.compile("x")):
                pass
        for thread in threads:
            thread.join()
        with diverted_stderr(re.compile("x")):
            pass
        assert capfd.readouterr().err.count("line") == 600

    def test_a_forked_child_has_a_memory_of_its_own(self):
        code = (
            "import os, re\n"
            "from spectradino_core.streams.stderr import diverted_stderr\n"
            "def seen(line):\n"
            "    with diverted_stderr(re.compile('^Corrupt JPEG')) as found: os.write(2, line)\n"
            "    return found\n"
            "assert seen(b'Corrupt JPEG a\\n') == ['Corrupt JPEG a']\n"
            "child = os.fork()\n"
            "if not child: os._exit(seen(b'Corrupt JPEG b\\n') != ['Corrupt JPEG b'])\n"
            "assert os.waitpid(child, 0)[1] == 0\n"
            "print(seen(b'Corrupt JPEG c\\n'))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "['Corrupt JPEG c']"

    def test_without_error_output_nothing_fails(self):
        code = (
            "import os, re; os.close(2)\n"
            "from spectradino_core.streams.stderr import diverted_stderr\n"
            "with diverted_stderr(re.compile('x')) as found: pass\n"
            "print(found)"
        )
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "[]"
