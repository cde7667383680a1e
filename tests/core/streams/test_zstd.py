"""Images of zstd_image_transport: raw images compressed by zlib, and refusals."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from spectradino_core.streams.compressed import encoding_of, open_compressed_infrared
from spectradino_core.streams.decode import DecodeError
from tests.core.streams.unpacked import decode_compressed_infrared, decode_compressed_rgb


def message(data: bytes, text: str) -> SimpleNamespace:
    return SimpleNamespace(format=text, data=data)


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    return np.random.default_rng(0).integers(20000, 30000, (60, 80)).astype(np.uint16)


def zstd_of(encoding: str, height: int, width: int, step: int, raw: bytes, big: int = 0) -> SimpleNamespace:
    """Compress like zstd_image_transport: fields in little endian, the encoding, and gzip."""
    head = struct.pack("<IIBII", height, width, big, step, len(encoding)) + encoding.encode()
    packer = zlib.compressobj(3, wbits=31)
    return message(head + packer.compress(raw) + packer.flush(), "zstd")


class TestZstd:
    """The transport `zstd`, which in spite of its name compresses by zlib."""

    def test_colour(self, rgb):
        got = decode_compressed_rgb(zstd_of("bgr8", 60, 80, 240, rgb[..., ::-1].tobytes()))
        np.testing.assert_array_equal(got, rgb)

    @pytest.mark.parametrize("big", [0, 1])
    def test_infrared(self, counts, big):
        raw = counts.astype(">u2" if big else "<u2").tobytes()
        got = decode_compressed_infrared(zstd_of("mono16", 60, 80, 160, raw, big))
        np.testing.assert_array_equal(got, counts)

    def test_planes(self):
        raw = np.concatenate([np.full(80 * 60, 120), np.full(80 * 30, 128)]).astype(np.uint8).tobytes()
        got = decode_compressed_rgb(zstd_of("nv12", 60, 80, 80, raw))
        assert np.abs(got.astype(int) - 121).max() <= 1

    @pytest.mark.parametrize(("encoding", "width", "step"), [("rgb8", 1, 4100), ("nv12", 2, 4112)])
    def test_padding_of_many_rows_is_refused_before_it_is_unpacked(self, encoding, width, step):
        """65,536 rows of 4 KiB each: 270 MB, and three times that for chroma rows."""
        sent = zstd_of(encoding, 65536, width, step, b"")
        with pytest.raises(DecodeError, match=f"rows of {step} bytes: the publisher must") as caught:
            decode_compressed_rgb(sent)
        assert caught.value.cause == "wrong_step"

    def test_its_encoding_is_known_without_unpacking(self, counts):
        sent = zstd_of("mono16", 60, 80, 160, counts.tobytes())
        assert encoding_of(sent) == "mono16; zstd"
        assert encoding_of(message(b"x", "rgb8; jpeg compressed bgr8")) == "rgb8; jpeg compressed bgr8"

    @pytest.mark.parametrize(
        ("change", "cause"),
        [
            (lambda data: data[:10], "corrupt_data"),
            (lambda data: data[:-30], "corrupt_data"),
            (lambda data: data[:60] + bytes(40) + data[100:], "corrupt_data"),
            (lambda data: data[:13] + b"\xff\xff\xff\xff" + data[17:], "corrupt_data"),
            (lambda data: struct.pack("<I", 60_000) * 2 + data[8:], "implausible_size"),
            (lambda data: data[:9] + struct.pack("<I", 2**31) + data[13:], "wrong_step"),
            (lambda data: struct.pack("<I", 30) + data[4:], "long_data"),
            (lambda data: struct.pack("<I", 90) + data[4:], "short_data"),
            (lambda data: data[:17] + b"mono99" + data[23:], "unknown_encoding"),
        ],
    )
    def test_damage_is_refused(self, counts, change, cause):
        sent = zstd_of("mono16", 60, 80, 160, counts.tobytes())
        with pytest.raises(DecodeError) as caught:
            decode_compressed_infrared(message(change(sent.data), "zstd"))
        assert caught.value.cause == cause

    def test_a_bomb_is_not_unpacked_beyond_its_claim(self):
        sent = zstd_of("mono8", 16, 16, 16, bytes(100_000_000))
        tracemalloc.start()
        with pytest.raises(DecodeError) as caught:
            decode_compressed_infrared(sent)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert caught.value.cause == "long_data"
        assert peak < 2_000_000


def test_a_camera_that_repeats_one_image_is_known_by_the_packed_bytes(counts):
    other = counts.copy()
    other[30, 41] += 1
    sent = [zstd_of("mono16", 60, 80, 160, image.tobytes()) for image in (counts, counts, other)]
    looks = [open_compressed_infrared(one).fingerprint.item() for one in sent]
    assert looks[0] == looks[1] != looks[2]
