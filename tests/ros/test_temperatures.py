"""Temperatures of the detections of a radiometric camera, over DDS."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sensor_msgs.msg import Image
from spectradino_msgs.msg import DetectionTemperatures

from tests.ros.harness import ir_pixels, rgb_pixels, running, to_ns, wait_until
from tests.ros.rig import Rig

RED, HOT = (20, 20, 60, 50), (40, 30, 60, 50)
IR_TO_RGB = "[2.0, 0.0, 10.5, 0.0, 2.0, 4.5, 0.0, 0.0, 1.0]"
RGB_PIXELS = rgb_pixels((160, 120), RED)
OPTIONS = {
    "device": "cpu",
    "threads": 1,
    "fallback_mode": "fused_only",
    "ir_to_rgb": IR_TO_RGB,
}
MS = 1_000_000


def counts(hot: int, cold: int = 1200) -> np.ndarray:
    """An Optris frame: counts of 0.1 K from -100 Celsius, with a dead pixel in the hot square."""
    pixels = ir_pixels((80, 60), None)
    pixels[:] = cold + np.arange(80, dtype=np.uint16) % 4
    pixels[HOT[1] : HOT[3], HOT[0] : HOT[2]] = hot
    pixels[40, 50] = 0
    return pixels


def listed(message: DetectionTemperatures) -> dict[str, tuple[float, float, float]]:
    return {d.class_id: (d.minimum, d.mean, d.maximum) for d in message.detections}


@pytest.mark.slow  # a node; tests/core/bags/test_annotate.py covers the message
def test_temperatures_have_the_header_of_the_detections(blob_model, peer):
    """Two RGB frames share an infrared frame, and both get its temperatures, until the next, hotter one arrives."""
    options = OPTIONS | {"model": blob_model, "ir_kelvin_per_count": 0.1, "ir_celsius_offset": -100.0}
    with running("-r", "__ns:=/radiometric", **options) as node:
        node.wait_for_line("temperatures: 0.1 K per count from -100 Celsius")
        rig = Rig(peer, "radiometric")
        rig.wait_for_node()
        found = peer.collect(DetectionTemperatures, f"{rig.name}/temperatures")
        overlays = peer.collect(Image, f"{rig.name}/segmentation/overlay")
        wait_until(lambda: rig.answer_to(RGB_PIXELS, counts(1500)) and found and overlays, "temperatures")
        time.sleep(0.5)
        start = peer.now()
        stamps = [start, start + 33 * MS, start + 110 * MS]
        for number, stamp in enumerate(stamps):
            time.sleep(max(0.0, (stamp - peer.now()) / 1e9))
            rig.send(RGB_PIXELS, None if number == 1 else counts((1363, 0, 1500)[number]), stamp)

        def complete() -> list[DetectionTemperatures] | None:
            by_stamp = {to_ns(m.header.stamp): m for m in list(found)}
            return [by_stamp[stamp] for stamp in stamps] if set(stamps) <= set(by_stamp) else None

        messages = wait_until(complete, "temperatures of each frame")
        reports = {stamp: wait_until(lambda stamp=stamp: rig.find(stamp), "the result")[1] for stamp in stamps}
        assert [reports[stamp].ir_reused for stamp in stamps] == [False, True, False]
        assert [to_ns(m.ir_stamp) for m in messages] == [stamps[0], stamps[0], stamps[2]]
        for message, celsius in zip(messages, (36.3, 36.3, 50.0), strict=True):
            detections, _ = rig.find(to_ns(message.header.stamp))
            assert message.header == detections.header
            assert [d.class_id for d in message.detections] == [
                d.results[0].hypothesis.class_id for d in detections.detections
            ]
            low, mean, high = listed(message)["1"]
            assert (mean, high) == pytest.approx((celsius, celsius), abs=2.5)
            assert high == pytest.approx(celsius, abs=0.01)
            assert low > 19.0  # the dead pixel, -100 Celsius, does not count
            assert listed(message)["0"] == pytest.approx((20.0, 20.15, 20.3), abs=0.06)


@pytest.mark.slow  # a node; tests/core/bags/test_annotate.py covers the message
def test_without_a_scale_there_is_no_such_topic(blob_model, peer):
    with running("-r", "__ns:=/grey", model=blob_model, **OPTIONS):
        rig = Rig(peer, "grey")
        rig.wait_for_node()
        rig.answer_to(RGB_PIXELS, counts(1500))
        assert f"{rig.name}/temperatures" not in dict(peer.node.get_topic_names_and_types())
        assert f"{rig.name}/detections" in dict(peer.node.get_topic_names_and_types())


@pytest.mark.slow  # a node; tests/core/runtime/test_temperatures.py covers it
def test_eight_bits_have_no_temperature_which_is_logged(blob_model, peer):
    with running("-r", "__ns:=/agc", model=blob_model, ir_kelvin_per_count=0.04, **OPTIONS) as node:
        rig = Rig(peer, "agc")
        rig.wait_for_node()
        found = peer.collect(DetectionTemperatures, f"{rig.name}/temperatures")
        rig.answer_to(RGB_PIXELS, ir_pixels((80, 60), HOT, np.uint8))
        node.wait_for_line("8-bit images, after the camera's automatic gain, so detections get no temperatures")
        assert not found
