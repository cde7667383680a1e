"""Captures from frames: pairs, or single frames while a camera is silent, independent of the times of calls."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.runtime.perception_result import Mode
from spectradino_core.streams.feed import Feed
from spectradino_core.streams.pairing import PAIRING
from spectradino_core.streams.settings import Settings
from tests.core.streams.feeding import IMAGES, MS, START, Rig, camera
from tests.examples import examples


def odd_recording(seed: int) -> list[tuple[float, str, float]]:
    """Two cameras with jitter, losses, gaps of seconds, stamps that are zero, duplicate or early, and a jump back."""
    rng = random.Random(seed)
    frames = []
    for stream in ("rgb", "ir"):
        now, stamp = rng.uniform(0, 40), 0.0
        period, back = rng.choice([16.7, 33.3, 100.0, 111.0]), 0.0
        while now < 9000:
            kind = rng.random()
            if kind < 0.01:
                now += rng.uniform(600, 2500)  # silent
            elif kind < 0.015:
                back += rng.uniform(600, 3000)  # a bag that starts again
            stamp = now - back
            if kind > 0.99:
                stamp -= 2 * period
            elif kind > 0.98:
                stamp = -1.0  # zero
            if rng.random() > 0.05:
                frames.append((now + 10, stream, max(stamp, -1.0)))
            now += period + rng.uniform(-2, 2)
    return sorted(frames)


class TestPairs:
    def test_both_cameras_alive_give_pairs_and_nothing_else(self):
        rig = Rig().run(camera("rgb", 1, 2000, 33.3) + camera("ir", 5, 2000, 33.3))
        assert rig.counts["rgb_only"] == rig.counts["ir_only"] == 0
        assert rig.counts["fused"] == 60
        assert all(c.rgb[0] == "rgb" and c.ir[0] == "ir" for c in rig.captures)
        assert {round(c.error_ns / MS) for c in rig.captures} == {4}
        assert rig.modes == []
        assert rig.feed.modes.mode is Mode.FUSED

    def test_a_capture_has_its_stamps_and_the_time_of_its_decision(self):
        rig = Rig(ir_time_offset_ms=100)
        rig.push("rgb", 10, arrival=15)
        (capture,) = rig.push("ir", 112, arrival=40) or rig.feed.flush()
        assert (capture.rgb_stamp_ns, capture.ir_stamp_ns) == ((START + 10) * MS, (START + 112) * MS)
        assert capture.error_ns == 2 * MS
        assert capture.ready_ns == 40 * MS
        assert capture.mode is Mode.FUSED

    def test_a_pair_that_waits_for_something_nearer_leaves_when_nothing_comes(self):
        rig = Rig(sync_slop_ms=60, pairing="one_to_one").run(camera("rgb", 0, 340, 33) + camera("ir", 20, 360, 111))
        pairer = rig.feed.pairer
        assert pairer.waiting("rgb") == pairer.waiting("ir") == 1  # the RGB frame of 363 ms would be nearer
        assert not rig.watch(800)
        (capture,) = rig.watch(2000)
        assert (capture.rgb[1], capture.ir[1]) == (330, 353)
        assert capture.ready_ns / MS == pytest.approx(830, abs=1)  # half a second after the RGB camera's last frame


class TestSilence:
    def test_an_infrared_frame_is_used_no_more_once_its_camera_is_given_up(self):
        rig = Rig(stale_ms=500, sync_slop_ms=3000).run(camera("rgb", 0, 4000, 33) + camera("ir", 3, 2000, 111))
        ((given_up, mode),) = rig.modes
        assert mode == "rgb_only"
        later = [c for c in rig.captures if c.ready_ns / MS > given_up]
        assert len(later) > 30
        assert {c.mode for c in later} == {Mode.RGB_ONLY}

    def test_infrared_stops_and_comes_back(self):
        rig = Rig(stale_ms=500).run(
            camera("rgb", 0, 6000, 40) + camera("ir", 3, 2000, 40) + camera("ir", 4003, 6000, 40)
        )
        assert [mode for _, mode in rig.modes] == ["rgb_only", "fused"]
        stopped, back = (at for at, _ in rig.modes)
        assert 2400 < stopped < 2500  # one timeout after the last frame
        assert 4050 < back < 4150  # with hysteresis: the third frame
        alone = [c for c in rig.captures if c.mode is Mode.RGB_ONLY]
        assert len(alone) == pytest.approx((back - stopped) / 40, abs=4)
        times = [c.rgb_stamp_ns for c in rig.captures]
        assert times == sorted(set(times))  # none twice, none out of order
        longest = max(b - a for a, b in zip(times, times[1:])) / MS
        assert longest <= 580  # one image is repeated for no longer than the timeout

    def test_rgb_stops(self):
        rig = Rig(stale_ms=300).run(camera("rgb", 0, 1000, 40) + camera("ir", 3, 3000, 40))
        assert [mode for _, mode in rig.modes] == ["ir_only"]
        assert all(c.ir is not None for c in rig.captures)
        assert rig.counts["ir_only"] > 35

    @pytest.mark.parametrize(
        ("fallback", "silent", "mode"),
        [("fused_only", "ir", "stale"), ("ir_only", "ir", "stale"), ("rgb_only", "ir", "rgb_only")],
    )
    def test_the_fallback_decides_which_camera_may_be_used_alone(self, fallback, silent, mode):
        rig = Rig(stale_ms=300, fallback_mode=fallback).run(camera("rgb", 0, 3000, 40) + camera("ir", 3, 1000, 40))
        assert [m for _, m in rig.modes] == [mode]
        assert (rig.counts["rgb_only"] > 0) == (mode == "rgb_only")

    def test_both_stop(self):
        rig = Rig(stale_ms=300).run(camera("rgb", 0, 1000, 40) + camera("ir", 3, 1000, 40))
        rig.watch(5000)
        assert [m for _, m in rig.modes][-1] == "stale"
        assert rig.feed.modes.mode is Mode.STALE

    def test_frames_that_waited_for_a_camera_that_was_given_up_are_counted(self):
        rig = Rig(stale_ms=300).run(camera("rgb", 0, 600, 40))
        assert rig.counts == {"fused": 0, "rgb_only": len(rig.captures), "ir_only": 0}
        assert rig.feed.drops() == {"unpaired_rgb": rig.pushed - len(rig.captures)}


class TestFrozen:
    def frames(self, rig: Rig, frozen: tuple[float, float], end: float = 4000) -> Rig:
        for arrival, stream, stamp in sorted(camera("rgb", 0, end, 40) + camera("ir", 3, end, 40)):
            stuck = stream == "ir" and frozen[0] <= stamp < frozen[1]
            rig.push(stream, stamp, arrival, image=7 if stuck else None)
        return rig

    def test_a_shutter_calibration_is_bridged_by_the_rgb_camera(self):
        rig = self.frames(Rig(), (1000, 2500))
        assert [mode for _, mode in rig.modes] == ["rgb_only", "fused"]
        stopped, back = (at for at, _ in rig.modes)
        assert 1380 < stopped < 1450  # frozen_ms after the first of the equal images
        assert 2500 < back < 2650
        assert 26 <= rig.feed.drops()["frozen_ir"] <= 30
        assert not [c for c in rig.captures if c.ir is not None and stopped < c.ir[1] < 2500]
        assert sum("repeats one image for 400 ms" in line for line in rig.lines) == 1
        assert not rig.feed.ir_frozen

    def test_it_can_be_switched_off(self):
        rig = self.frames(Rig(frozen_ms=0), (1000, 2500))
        assert rig.modes == []
        assert "frozen_ir" not in rig.feed.drops()

    def test_an_rgb_camera_may_show_a_wall(self):
        rig = Rig()
        for arrival, stream, stamp in sorted(camera("rgb", 0, 2000, 40) + camera("ir", 3, 2000, 40)):
            rig.push(stream, stamp, arrival, image=7 if stream == "rgb" else None)
        assert rig.modes == []


class TestTime:
    @settings(max_examples=examples(40), deadline=None)
    @given(st.integers(0, 10_000), st.integers(0, 10_000), st.sampled_from(["auto", "fused_only", "rgb_only"]))
    def test_it_does_not_matter_when_the_clock_is_looked_at(self, seed, watch_seed, fallback):
        """A node whose timer ticks at odd times, and a replay without timer, decide the same at the same times."""
        frames = odd_recording(seed)
        replay, node = (Rig(stale_ms=400, fallback_mode=fallback, learn_ir_time_offset=True) for _ in range(2))
        rng = random.Random(watch_seed)
        for arrival, stream, stamp in frames:
            replay.push(stream, stamp, arrival)
        now = 0.0
        for arrival, stream, stamp in frames:
            while now + 100 < arrival:
                now += rng.uniform(1, 600)
                if now < arrival:
                    node.watch(now)
            node.push(stream, stamp, arrival)
            now = max(now, arrival)
        for rig in (replay, node):
            rig.watch(20_000)
        assert node.captures == replay.captures
        assert node.modes == replay.modes
        assert node.feed.drops() == replay.feed.drops()
        assert node.lines == replay.lines

    @settings(max_examples=examples(60), deadline=None)
    @given(st.integers(0, 10_000), st.sampled_from(["auto", "fused_only", "ir_only"]), st.sampled_from(PAIRING))
    def test_every_frame_is_in_a_capture_or_in_one_counter(self, seed, fallback, pairing):
        rig = Rig(stale_ms=400, fallback_mode=fallback, pairing=pairing).run(odd_recording(seed))
        rgb, ir = ([getattr(c, key) for c in rig.captures if getattr(c, key) is not None] for key in ("rgb", "ir"))
        answered = len(rgb) + sum(one is not before for one, before in zip(ir, [None, *ir]))
        waiting = rig.feed.pairer.waiting("rgb") + rig.feed.pairer.waiting("ir")
        assert answered + waiting + sum(rig.feed.drops().values()) == rig.pushed
        assert waiting <= 32
        for capture in rig.captures:
            if capture.mode is Mode.FUSED:
                assert abs(capture.error_ns) <= (50 if pairing == "one_to_one" else 250) * MS

    def test_a_bag_looped_three_times_gives_equal_counts_and_reports_the_jumps(self):
        """With ragged ends: the infrared stream of each loop ends 200 ms before the RGB stream."""
        rig, counts = Rig(), []
        for loop in range(3):
            before = len(rig.captures)
            frames = camera("rgb", 0, 4000, 33.3) + camera("ir", 8, 3800, 33.3)
            for arrival, stream, stamp in sorted(frames):
                rig.push(stream, stamp, arrival + 4030 * loop)
            counts.append(len(rig.captures) - before)
        assert max(counts) - min(counts) <= 1
        jumps = [i for i, c in enumerate(rig.captures) if c.after_jump]
        assert len(jumps) == 2
        for i in jumps:
            assert rig.captures[i].rgb_stamp_ns < rig.captures[i - 1].rgb_stamp_ns
        assert rig.feed.pairer.restarts == 2

    def test_a_clock_that_jumps_often_is_reported_rarely(self):
        rig = Rig()
        for t in range(0, 12_000, 50):
            rig.push("rgb", t if t % 100 else t + 60_000, t)
        jumps = [line for line in rig.lines if "time jumped backwards" in line]
        assert rig.feed.pairer.restarts > 100
        assert len(jumps) == 3  # at once, after 5 s and after 10 s

    @pytest.mark.parametrize("pair_by", ["auto", "stamp"])
    def test_stamps_that_are_comparable_only_at_times_are_reported_rarely(self, pair_by):
        rig = Rig(pair_by=pair_by)
        for number, t in enumerate(range(0, 12_000, 50)):
            rig.push("rgb", t)
            rig.push("ir", t + (60_000 if number // 10 % 2 else 0), t + 1)
        assert len([line for line in rig.lines if "paired by" in line or "no frame finds" in line]) == 3

    def test_simulated_time_that_starts_again_waits_for_both_anew(self):
        rig = Rig(stale_ms=300).run(camera("rgb", 0, 2000, 40))
        assert rig.feed.modes.mode is Mode.RGB_ONLY
        rig.run(camera("rgb", 0, 200, 40) + camera("ir", 3, 200, 40))
        assert rig.feed.modes.mode is Mode.FUSED

    def test_due_ns_is_when_something_happens(self):
        rig = Rig(stale_ms=300)
        rig.push("rgb", 5)
        rig.push("ir", 20)
        due = rig.feed.due_ns / MS
        assert not rig.watch(due - 0.001)
        assert rig.modes == []
        rig.watch(due)
        assert rig.modes or rig.captures
        for _ in range(9):
            if rig.feed.due_ns is None:
                break
            rig.watch(rig.feed.due_ns / MS)
        assert rig.feed.due_ns is None


class TestSettings:
    def test_changes_hold_at_once_and_streams_are_not_forgotten(self):
        rig = Rig(stale_ms=1000).run(camera("rgb", 0, 1500, 40) + camera("ir", 3, 700, 40))
        assert rig.modes == []
        rig.feed.apply(replace(rig.feed.settings, stale_ms=300.0))
        rig.watch(1500)
        assert [m for _, m in rig.modes] == ["rgb_only"]
        rig.feed.apply(replace(rig.feed.settings, fallback_mode="fused_only"))
        rig.watch(1501)
        assert [m for _, m in rig.modes] == ["rgb_only", "stale"]
        assert rig.feed.pairer.pairs > 10

    @pytest.mark.parametrize(
        "change",
        [
            {"sync_slop_ms": -1.0},
            {"pairing": "any"},
            {"stale_ms": -1.0},
            {"fallback_mode": "any"},
            {"frozen_ms": -1.0},
            {"pair_by": "luck"},
        ],
    )
    def test_what_makes_no_sense_is_refused_and_changes_nothing(self, change):
        feed: Feed[int] = Feed(Settings(), 0)
        with pytest.raises(ValueError, match=next(iter(change)).removeprefix("sync_")):
            feed.apply(replace(feed.settings, **change))
        assert feed.settings == Settings()
        with pytest.raises(ValueError, match=next(iter(change))):
            Feed(Settings(**change), 0)

    def test_before_the_first_frame_a_mode_is_no_warning(self):
        feed: Feed[int] = Feed(Settings(stale_ms=100), 0)
        feed.watch(1000 * MS)
        (event,) = feed.take_events()
        assert event.change.mode is Mode.STALE
        assert not event.warning
        feed.frame("rgb", START * MS, 1001 * MS, 0, IMAGES[0])
        assert [(e.change.mode, e.warning) for e in feed.take_events()] == [(Mode.FUSED, False)]
        feed.frame("rgb", (START + 60) * MS, 1061 * MS, 0, IMAGES[0])
        feed.frame("rgb", (START + 120) * MS, 1121 * MS, 0, IMAGES[0])
        assert [(e.change.mode, e.warning) for e in feed.take_events()] == [(Mode.RGB_ONLY, True)]

    def test_untaken_events_are_bounded(self):
        feed: Feed[int] = Feed(Settings(stale_ms=1), 0)
        for i in range(2000):
            feed.watch(i * 100 * MS)
            for j in range(3):
                feed.frame("rgb", (START + i * 100 + j) * MS, (i * 100) * MS + j, 0, IMAGES[0])
        assert len(feed.take_events()) <= 256
