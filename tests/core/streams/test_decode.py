"""Image messages to arrays: every plain encoding, any step and byte order, and refusals."""

from __future__ import annotations

import gc
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.streams.decode import (
    INFRARED_ENCODINGS,
    RGB_ENCODINGS,
    DecodeError,
    decode_infrared,
    decode_rgb,
)
from tests.examples import examples


@dataclass
class Message:
    """The fields of sensor_msgs/Image that are read."""

    height: Any = 2
    width: Any = 3
    encoding: Any = "rgb8"
    is_bigendian: Any = 0
    step: Any = 9
    data: Any = b""


def message_of(pixels: np.ndarray, encoding: str, padding: int = 0, big: bool = False) -> Message:
    """Create a message as a driver sends it: rows of `pixels` [h, w, ...] followed by `padding` random bytes."""
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    rows = [row.tobytes() + b"\xa5" * padding for row in stored]
    return Message(pixels.shape[0], pixels.shape[1], encoding, int(big), len(rows[0]), array("B", b"".join(rows)))


CHANNEL_ORDER = {
    "rgb8": (0, 1, 2),
    "bgr8": (2, 1, 0),
    "8UC3": (2, 1, 0),
    "rgba8": (0, 1, 2, 3),
    "bgra8": (2, 1, 0, 3),
    "8UC4": (2, 1, 0, 3),
}


@pytest.mark.parametrize("padding", [0, 1, 7, 64])
@pytest.mark.parametrize("encoding", sorted(CHANNEL_ORDER))
def test_rgb_order_for_every_encoding_and_step(encoding, padding):
    rgba = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    sent = rgba[..., list(CHANNEL_ORDER[encoding])]
    got = decode_rgb(message_of(sent, encoding, padding))
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, rgba[..., :3])


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_is_repeated_for_rgb_and_kept_for_infrared(encoding, padding):
    grey = np.random.default_rng(1).integers(0, 256, (4, 6), np.uint8)
    message = message_of(grey, encoding, padding)
    np.testing.assert_array_equal(decode_rgb(message), np.repeat(grey[..., None], 3, axis=2))
    got = decode_infrared(message)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, grey)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 2, 13])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_sixteen_bits_in_either_byte_order_and_odd_steps(encoding, padding, big):
    counts = np.random.default_rng(2).integers(0, 1 << 16, (4, 5)).astype(np.uint16)
    got = decode_infrared(message_of(counts, encoding, padding, big))
    assert got.dtype == np.uint16
    assert got.dtype.isnative
    assert got.flags.c_contiguous
    assert got.flags.aligned
    np.testing.assert_array_equal(got, counts)


def test_one_count_by_hand():
    message = Message(1, 2, "mono16", 0, 4, bytes([0x34, 0x12, 0xFF, 0x00]))
    assert decode_infrared(message).tolist() == [[0x1234, 0x00FF]]
    message.is_bigendian = 1
    assert decode_infrared(message).tolist() == [[0x3412, 0xFF00]]


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "8UC3", "8UC4"])
def test_infrared_as_three_equal_channels_is_read_as_grey(encoding):
    grey = np.random.default_rng(3).integers(0, 256, (40, 30), np.uint8)
    sent = np.repeat(grey[..., None], len(CHANNEL_ORDER[encoding]), axis=2)
    np.testing.assert_array_equal(decode_infrared(message_of(sent, encoding)), grey)


def test_a_false_colour_infrared_image_is_refused_with_the_remedy():
    coloured = np.zeros((16, 16, 3), np.uint8)
    coloured[..., 0] = 200
    with pytest.raises(DecodeError, match="palette") as caught:
        decode_infrared(message_of(coloured, "rgb8"))
    assert caught.value.cause == "colour_infrared"


def test_a_dense_message_is_not_copied_and_outlives_its_message():
    pixels = np.random.default_rng(4).integers(0, 256, (48, 64, 3), np.uint8)
    message = message_of(pixels, "rgb8")
    got = decode_rgb(message)
    assert np.shares_memory(got, np.frombuffer(message.data, np.uint8))
    assert not got.flags.writeable
    del message
    gc.collect()
    np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: array("B", b), list, tuple])
def test_data_of_any_kind_of_byte_sequence(kind):
    raw = bytes(range(18))
    got = decode_rgb(Message(data=kind(raw)))
    assert got.reshape(-1).tolist() == list(range(18))


GOOD = bytes(18)


@pytest.mark.parametrize(
    ("fields", "cause", "words"),
    [
        ({"step": 8}, "wrong_step", ("8", "9", "step")),
        ({"step": 0}, "wrong_step", ("0", "9")),
        ({"step": -9}, "wrong_step", ("-9",)),
        ({"data": GOOD[:-1]}, "short_data", ("17", "18")),
        ({"data": GOOD + b"x"}, "long_data", ("19", "18")),
        ({"data": b""}, "empty_image", ("empty",)),
        ({"data": array("B")}, "empty_image", ("empty",)),
        ({"height": 0}, "empty_image", ("3x0",)),
        ({"width": 0}, "empty_image", ("0x2",)),
        ({"width": -3}, "empty_image", ("-3x2",)),
        ({"height": 70000}, "implausible_size", ("70000", "65536")),
        ({"width": 1 << 32}, "implausible_size", ("4294967296",)),
        ({"encoding": "yuv411"}, "unknown_encoding", ("yuv411", "rgb8", "republish")),
        ({"encoding": ""}, "unknown_encoding", ("''",)),
        ({"encoding": "mono16"}, "unknown_encoding", ("exchanged",)),
        ({"encoding": None}, "bad_field", ("encoding",)),
        ({"height": 2.5}, "bad_field", ("height", "2.5")),
        ({"step": None}, "bad_field", ("step",)),
        ({"data": None}, "bad_field", ("data",)),
        ({"data": [1, 2, 300]}, "bad_field", ("data",)),
        ({"data": "text"}, "bad_field", ("data",)),
    ],
)
def test_each_fault_has_its_cause_and_names_the_culprit(fields, cause, words):
    with pytest.raises(DecodeError) as caught:
        decode_rgb(Message(**{"data": GOOD} | fields))
    assert caught.value.cause == cause
    for word in words:
        assert word in str(caught.value)


def test_a_long_encoding_does_not_flood_the_log():
    with pytest.raises(DecodeError) as caught:
        decode_infrared(Message(encoding="x" * 100_000, data=GOOD))
    assert len(str(caught.value)) < 400


class TestConverter:
    """Encodings that are read by cv_bridge, if the node has it."""

    def test_is_called_for_rgb8_and_its_result_is_used(self):
        asked = []

        def converter(message, wanted):
            asked.append((message.encoding, wanted))
            return np.full((2, 3, 3), 7, np.uint8)

        assert decode_rgb(Message(encoding="yuv411", data=GOOD), converter).sum() == 7 * 18
        assert asked == [("yuv411", "rgb8")]

    @pytest.mark.parametrize(("encoding", "wanted"), [("16SC2", "mono16"), ("yuv411", "mono8")])
    def test_infrared_is_requested_at_its_own_depth(self, encoding, wanted):
        asked = []

        def converter(message, wanted):
            asked.append(wanted)
            return np.zeros((2, 3), np.uint16 if wanted == "mono16" else np.uint8)

        decode_infrared(Message(encoding=encoding, data=GOOD), converter)
        assert asked == [wanted]

    def test_is_not_called_for_supported_encodings(self):
        def converter(message, wanted):
            raise AssertionError("asked")

        decode_rgb(Message(data=GOOD), converter)

    def test_its_failure_is_a_decode_error_that_names_the_encoding(self):
        def converter(message, wanted):
            raise RuntimeError("no such conversion")

        with pytest.raises(DecodeError, match=r"'weird'.*no such conversion") as caught:
            decode_rgb(Message(encoding="weird", data=GOOD), converter)
        assert caught.value.cause == "unknown_encoding"

    @pytest.mark.parametrize(
        "answer", [np.zeros((2, 3), np.uint8), np.zeros((2, 3, 3), np.float32), np.zeros((0, 3, 3), np.uint8), None]
    )
    def test_its_wrong_result_is_refused(self, answer):
        with pytest.raises(DecodeError) as caught:
            decode_rgb(Message(encoding="weird", data=GOOD), lambda message, wanted: answer)
        assert caught.value.cause == "converter_failed"


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 1)])
def test_the_smallest_images_are_read(height, width):
    rgb = np.arange(3 * height * width, dtype=np.uint8).reshape(height, width, 3)
    got = decode_rgb(message_of(rgb[..., ::-1], "bgr8"))
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, rgb)


sizes = st.one_of(st.integers(-2, 40), st.integers(-(2**40), 2**40), st.none(), st.floats(), st.text(max_size=3))
odd_messages = st.builds(
    Message,
    height=sizes,
    width=sizes,
    encoding=st.one_of(
        st.sampled_from(RGB_ENCODINGS + INFRARED_ENCODINGS), st.text(max_size=12), st.none(), st.binary()
    ),
    is_bigendian=st.one_of(st.integers(0, 255), st.booleans(), st.none()),
    step=sizes,
    data=st.one_of(
        st.binary(max_size=400),
        st.binary(max_size=400).map(lambda b: array("B", b)),
        st.lists(st.integers(-1, 256), max_size=20),
        st.none(),
        st.text(max_size=5),
        st.integers(),
    ),
)


@settings(max_examples=examples(400), deadline=None)
@given(odd_messages)
def test_any_message_is_an_image_or_a_decode_error(message):
    for decode in (decode_rgb, decode_infrared):
        try:
            image = decode(message)
        except DecodeError:
            continue
        assert image.shape[:2] == (message.height, message.width)
        assert image.dtype in (np.uint8, np.uint16)


@settings(max_examples=examples(200), deadline=None)
@given(
    encoding=st.sampled_from(sorted(CHANNEL_ORDER)),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    padding=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_what_is_sent_is_what_arrives(encoding, height, width, padding, seed):
    rgba = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    got = decode_rgb(message_of(rgba[..., list(CHANNEL_ORDER[encoding])], encoding, padding))
    np.testing.assert_array_equal(got, rgba[..., :3])


@pytest.mark.parametrize("value", [1.7e308, -1.7e308, 5e-324])
def test_temperatures_beyond_all_bounds_print_nothing(value, recwarn):
    counts = decode_infrared(message_of(np.full((8, 8), value), "64FC1"))
    assert counts.dtype == np.uint16
    assert not recwarn.list
