"""Inspection of a bag: rates, gaps, odd stamps and the offset between the two streams."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spectradino_core.bags.inspection import inspect
from spectradino_core.bags.reader import BagReader
from tests.core.bags.recorded import IR, MS, RGB, START_NS, pairs, record


def looked_at(path, **options):
    with BagReader(path, **options) as reader:
        return inspect(reader)


def test_a_healthy_bag_is_reported_as_healthy(tmp_path):
    info = looked_at(record(tmp_path / "bag.mcap", pairs(30)))
    assert (info.warnings, info.damage, info.format) == ([], [], "mcap")
    assert info.topics == {RGB: ("sensor_msgs/msg/Image", 30), IR: ("sensor_msgs/msg/Image", 30)}
    rgb, ir = info.cameras["rgb"], info.cameras["ir"]
    assert (rgb.frames, rgb.size, rgb.encoding, ir.encoding) == (30, (112, 84), "rgb8", "mono16")
    assert rgb.rate_hz == pytest.approx(10.0)
    assert rgb.latency_ms == pytest.approx(3.0)
    assert (rgb.gaps, rgb.lost, rgb.duplicates, rgb.backward, rgb.zero) == (0, 0, 0, 0, 0)
    assert (ir.begin_s, ir.end_s) == (0.004, pytest.approx(2.904))
    assert info.offset is not None
    assert info.offset.median_ms == pytest.approx(4.0)
    assert info.offset.spread_ms == pytest.approx(0.0)
    assert info.offset.overlap_s == pytest.approx(2.896)
    json.dumps(info.to_dict())


def test_stamp_faults_are_counted_and_reported(tmp_path):
    rows = [r for r in pairs(40) if r.topic == RGB or not 10 <= (r.stamp_ns - START_NS) / 1e8 < 15]
    of_rgb = [r for r in rows if r.topic == RGB]
    of_rgb[20].stamp_ns = of_rgb[19].stamp_ns
    of_rgb[30].stamp_ns = of_rgb[25].stamp_ns + MS
    of_rgb[-1].change = (("step", 1),)
    info = looked_at(record(tmp_path / "bag", rows))
    rgb, ir = info.cameras["rgb"], info.cameras["ir"]
    assert (rgb.duplicates, rgb.backward, rgb.refused) == (1, 1, {"wrong_step": 1})
    assert (rgb.messages, rgb.frames, rgb.looked_at) == (40, 40, 40)
    assert (ir.gaps, ir.lost) == (1, 5)
    assert ir.longest_gap_ms == pytest.approx(600.0)
    assert ir.longest_gap_at_s == pytest.approx(0.904)
    text = "\n".join(info.warnings)
    for said in ("duplicate stamps", "lie behind", "cannot be read", "ir: frames are missing in 1 places, about 5"):
        assert said in text


def test_clocks_that_are_apart_and_stamps_that_were_never_set(tmp_path):
    rows = pairs(10)
    for row in rows:
        if row.topic == IR:
            row.stamp_ns += 3600 * 1000 * MS
    info = looked_at(record(tmp_path / "a", rows))
    assert info.offset is not None
    assert info.offset.apart_ms == pytest.approx(3599.1 * 1000, rel=1e-3)
    assert any("3600.0 s later" in text and "arrival time" in text for text in info.warnings)
    assert any("off the recorder's clock" in text for text in info.warnings)
    for row in rows:
        row.stamp_ns = 0
    info = looked_at(record(tmp_path / "b", rows))
    assert any("10 images without a stamp" in text for text in info.warnings)
    assert np.isfinite([info.cameras["rgb"].rate_hz, info.cameras["rgb"].jitter_ms]).all()


def test_a_camera_that_stamps_with_the_time_since_its_start_is_called_what_it_is(tmp_path):
    rows = pairs(20)
    for row in rows:
        if row.topic == IR:
            row.stamp_ns += 4_211_000_000_000 - START_NS
    info = looked_at(record(tmp_path / "bag", rows))
    assert info.cameras["ir"].uptime_s == pytest.approx(4211, abs=0.1)
    assert (info.cameras["ir"].begin_s, info.cameras["rgb"].begin_s) == (0.0, 0.0)
    texts = [text for text in info.warnings if "start" in text]
    assert len(texts) == 2
    assert "ir: stamps count from the camera's start (4211 s)" in texts[0]
    assert "paired by arrival time" in texts[1]


def test_meaningless_recording_times_are_reported(tmp_path):
    rows = pairs(20)
    for row in rows:
        row.received_ns = START_NS
    info = looked_at(record(tmp_path / "bag", rows))
    assert sum("--clock stamp" in text for text in info.warnings) == 2


def test_a_bag_without_cameras_and_one_with_a_single_one(tmp_path):
    bag = record(tmp_path / "bag", pairs(3))
    assert looked_at(bag, cameras=False).cameras == {}
    alone = looked_at(bag, rgb_topic="")
    assert list(alone.cameras) == ["ir"]
    assert alone.offset is None
