"""Bags with damaged frames and with encodings of real cameras: results, counts and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spectradino_core.runtime.perception_result import Mode
from tests.blob_model import make_blob_model
from tests.core.bags.recorded import IR, MS, RGB, SIZE, START_NS, Row, pairs, record
from tests.core.bags.test_replay import replayed, summaries


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_blob_model(tmp_path_factory.mktemp("model") / "blob.onnx", SIZE)


def half(message_data: np.ndarray) -> np.ndarray:
    """Cut a JPEG in its middle and append an end marker: damage that shows only in decoding."""
    data = message_data.tobytes()
    return np.frombuffer(data[: len(data) * 6 // 10] + b"\xff\xd9", np.uint8)


def with_damaged_rgb(count: int, damaged: set[int]) -> list[Row]:
    """Pairs whose RGB images are JPEGs, some of them truncated."""
    rows = pairs(count)
    for n, row in enumerate(r for r in rows if r.topic == RGB):
        row.topic, row.form = RGB + "/compressed", "jpeg"
        # Noise, or so small a JPEG could hide what is missing in its last block.
        row.pixels = row.pixels + np.random.default_rng(n).integers(0, 40, row.pixels.shape).astype(np.uint8) // 2
        row.pixels[10:30, :24] = (255, 0, 0)
        if n in damaged:
            row.change = (("data", half(row.message().data)),)
    return rows


def test_a_damaged_frame_does_not_take_its_partner_with_it(tmp_path, model):
    bag = record(tmp_path / "bag", with_damaged_rgb(8, {3, 4}))
    answers, replay = replayed(bag, model)
    assert [a.mode for a in answers] == [Mode.FUSED] * 3 + [Mode.IR_ONLY] * 2 + [Mode.FUSED] * 3
    assert [a.cause for a in answers] == [""] * 8
    alone = answers[3]
    assert (alone.rgb, alone.rgb_stamp_ns, alone.error_ns) == (None, None, None)
    assert alone.stamp_ns == START_NS + 304 * MS
    assert alone.perception is not None
    np.testing.assert_allclose(alone.perception.boxes, [[74, 50, 94, 70]])
    assert replay.drops() == {"rgb_corrupt_data": 2}
    lines = [e.text for e in replay.take_events() if e.warning]
    (line,) = (line for line in lines if line.startswith("dropped"))
    assert "dropped a frame of /rgb/image_raw/compressed: the jpeg image" in line
    assert summaries(replayed(bag, model)[0]) == summaries(answers)


def test_a_damaged_frame_costs_the_pair_if_no_camera_may_be_used_alone(tmp_path, model):
    bag = record(tmp_path / "bag", with_damaged_rgb(6, {2}))
    for mode in ("fused_only", "rgb_only"):
        answers, replay = replayed(bag, model, fallback_mode=mode)
        assert [a.cause for a in answers] == [""] * 2 + ["rgb_corrupt_data"] + [""] * 3
        assert answers[2].perception is None
        assert replay.drops() == {"rgb_corrupt_data": 1}


def yuv_rows(rows: list[Row]) -> list[Row]:
    """The same recording with yuv422_yuy2 images and temperatures in degrees Celsius."""
    for row in rows:
        if row.topic == RGB:
            red_there = row.pixels[..., 0] > 200
            y, u, v = (np.where(red_there, a, b).astype(np.uint8) for a, b in ((81, 68), (90, 128), (240, 128)))
            chroma = np.where(np.arange(SIZE[0]) % 2 == 0, u, v)
            row.change = (("encoding", "yuv422_yuy2"), ("step", 2 * SIZE[0]),
                          ("data", np.dstack([y, chroma]).astype(np.uint8).reshape(-1)))  # fmt: skip
        else:
            celsius = (row.pixels / 100).astype(np.float32)
            row.change = (("encoding", "32FC1"), ("step", 4 * SIZE[0]), ("data", celsius.view(np.uint8).reshape(-1)))
    return rows


def test_encodings_of_real_cameras_give_equal_results(tmp_path, model):
    """The red squares begin at even columns here, as two pixels share their chroma."""
    rows = [row for n in range(0, 12, 2) for row in pairs(1, first=n)]
    plain, _ = replayed(record(tmp_path / "plain", rows), model, ir_float_unit="counts")
    yuv, replay = replayed(record(tmp_path / "yuv", yuv_rows(rows)), model, ir_float_unit="celsius")
    assert not replay.drops()
    assert len(yuv) == 6
    for a, b in zip(plain, yuv, strict=True):
        assert a.perception is not None
        assert b.perception is not None
        np.testing.assert_array_equal(a.perception.labels, b.perception.labels)
        np.testing.assert_allclose(a.perception.boxes, b.perception.boxes)


@pytest.mark.parametrize("key", ["rgb", "ir"])
def test_a_camera_of_which_nothing_can_be_read_is_named_with_what_to_do(tmp_path, model, key):
    rows = pairs(5)
    topic = {"rgb": RGB, "ir": IR}[key]
    for row in rows:
        if row.topic == topic:
            row.change = (("encoding", "yuv411"),)
    _, replay = replayed(record(tmp_path / "bag", rows), model)
    assert replay.drops()[f"{key}_unknown_encoding"] == 5
    (line,) = (event.text for event in replay.take_events() if "yuv411" in event.text and event.change is None)
    for words in (f"dropped a frame of {topic}", "'yuv411'", "republish"):
        assert words in line


def test_the_crop_holds_in_a_bag(tmp_path, model):
    """Double-height frames with the counts in the lower half and something hot in the upper."""
    rows = pairs(4)
    for row in rows:
        if row.topic == IR:
            row.pixels = np.vstack([np.full_like(row.pixels, 65535), row.pixels])
    answers, replay = replayed(record(tmp_path / "bag", rows), model, ir_crop=(0.0, SIZE[1], 0.0, SIZE[1]))
    assert not replay.drops()
    for n, answer in enumerate(answers):
        assert answer.perception is not None
        x = 80 - 2 * n % 60
        np.testing.assert_allclose(answer.perception.boxes[0], [x, 50, x + 20, 70])
