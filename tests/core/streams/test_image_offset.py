"""Offset between the cameras from common motion: found if measurable, otherwise not reported."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.calibration.registration import Registration
from spectradino_core.streams.image_offset import ImageOffset, ImageOffsetWatch
from spectradino_core.streams.queues import Stream
from tests.core.streams.scene import MS, shots, view


def watched(watch: ImageOffsetWatch | None = None, **scene) -> list[ImageOffset]:
    watch = watch or ImageOffsetWatch()
    found = [watch.push(Stream(shot.stream), shot.stamp_ns, shot.look) for shot in shots(**scene)]
    return [one for one in found if one is not None]


@pytest.mark.parametrize(
    ("offset_ms", "rates", "seed"),
    [
        (40.0, (30.0, 30.0), 0),
        (-120.0, (30.0, 9.0), 1),
        (420.0, (15.0, 25.0), 2),
        (0.0, (30.0, 9.0), 3),
        (-780.0, (60.0, 30.0), 4),
    ],
)
def test_an_offset_is_found_within_half_a_minute_at_any_rates(offset_ms, rates, seed):
    (found,) = watched(seconds=29, offset_ms=offset_ms, rates=rates, seed=seed, phase_ms=3.0)
    assert found.offset_ns / MS == pytest.approx(offset_ms, abs=10)
    assert found.spread_ns <= 15 * MS


def test_transport_delays_are_not_an_offset():
    (found,) = watched(seconds=25, rates=(30.0, 9.0), delays_ms=(20.0, 320.0))
    assert abs(found.offset_ns) < 10 * MS


@pytest.mark.parametrize("what", ["still", "noise", "unlike", "beat"])
def test_nothing_is_claimed_where_images_do_not_say(what):
    watch, found = ImageOffsetWatch(), []
    noise = np.random.default_rng(0)
    for shot in shots(seconds=45, offset_ms=40.0):
        if what == "still":
            image = view(shot.stream, 0.0, noise_ms=shot.seen_ms)
        elif what == "noise":
            image = noise.integers(0, 255, (96, 128) if shot.stream == "ir" else (96, 128, 3)).astype(np.uint8)
        elif what == "unlike":  # each camera sees another scene
            image = view(shot.stream, shot.seen_ms, seed=3 if shot.stream == "ir" else 8)
        else:  # one thing that swings every 400 ms: many offsets fit
            image = np.full((96, 128, 3) if shot.stream == "rgb" else (96, 128), 20, np.uint8)
            left = round(55 + 50 * np.sin(2 * np.pi * shot.seen_ms / 400))
            image[40:70, left : left + 15] = 200
        found.append(watch.push(Stream(shot.stream), shot.stamp_ns, image))
    assert not any(found)


def test_cells_are_compared_at_registered_positions():
    """The infrared camera sees only the middle of the RGB image: without the registration cells do not correspond."""

    def found(registration: Registration | None) -> ImageOffset | None:
        watch, result = ImageOffsetWatch(), None
        watch.registration = registration
        for shot in shots(seconds=25, offset_ms=60.0, rates=(30.0, 15.0), seed=5):
            image = shot.look()
            if shot.stream == "ir":
                image = np.ascontiguousarray(image[24:72, 32:96])
            result = watch.push(Stream(shot.stream), shot.stamp_ns, image) or result
        return result

    with_it = found(Registration((1.0, 0.0, 32.0, 0.0, 1.0, 24.0, 0.0, 0.0, 1.0), (64, 48), (128, 96)))
    assert with_it is not None
    assert with_it.offset_ns / MS == pytest.approx(60, abs=10)
    without = found(None)
    assert without is None or abs(without.offset_ns / MS - 60) < 15


def test_few_frames_are_looked_at_and_none_while_it_rests():
    """Decoding a compressed image takes milliseconds: at most ten per second, none for minutes once the offset is
    known."""
    watch, looks, at_the_end = ImageOffsetWatch(), [], None
    for shot in shots(seconds=40, rates=(60.0, 60.0)):
        if watch.push(Stream(shot.stream), shot.stamp_ns, lambda shot=shot: looks.append(1) or shot.look()):
            at_the_end = len(looks)
    assert at_the_end == len(looks)
    assert len(looks) < 2 * 25 * 13


def test_time_that_jumps_begins_anew_and_memory_is_bounded():
    watch = ImageOffsetWatch()
    assert watched(watch, seconds=12) == []
    assert len(watched(watch, seconds=25)) == 1  # ends where it had been resting, too
    for shot in shots(seconds=300, rates=(20.0, 0.01), moving=False):
        watch.push(Stream(shot.stream), shot.stamp_ns + 10**12, np.zeros((48, 64), np.uint8))
    assert len(watch._streams[Stream.RGB].times) < 4000


def test_the_same_calls_give_the_same():
    assert watched(seconds=25, offset_ms=33.0) == watched(seconds=25, offset_ms=33.0)


def test_memory_is_bounded_while_the_other_camera_is_missing():
    """Without the bound samples of one camera would accumulate."""
    watch = ImageOffsetWatch()
    image = np.zeros((48, 64, 3), np.uint8)
    longest = 0
    for number in range(3000):  # five minutes at 10 Hz
        watch.push(Stream.RGB, 1 + number * 100_000_000, image)
        longest = max(longest, len(watch._streams[Stream.RGB].times))
    assert longest < 400


def test_damaged_frames_are_tried_no_more_often_than_good_ones():
    watch, tried = ImageOffsetWatch(), []

    def damaged():
        tried.append(1)
        raise ValueError("damaged")

    for number in range(100):
        watch.push(Stream.RGB, 1 + number * 10_000_000, damaged)  # 100 Hz, one second
    assert 5 <= len(tried) <= 15
