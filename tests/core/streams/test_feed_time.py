"""The feed and the cameras' clocks: the offset in use, and handling of meaningless stamps."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from spectradino_core.runtime.perception_result import Mode
from tests.core.streams.feeding import MS, START, Rig, camera, play, real_errors
from tests.core.streams.scene import shots


class TestOffset:
    def test_an_offset_beyond_the_slop_is_learnt_once_the_images_confirm_it(self):
        rig = play(Rig(learn_ir_time_offset=True), shots(seconds=29, offset_ms=420.0))
        assert rig.feed.offsets.learnt.triggered
        assert any("+420.0 ms" in line and "not applied until motion" in line for line in rig.lines)
        assert rig.feed.ir_time_offset_ms == pytest.approx(420, abs=1), "to the phase of cameras in step"
        assert any("learnt from the images" in line for line in rig.lines)
        late = real_errors(rig, 26_000)
        assert len(late) > 60
        assert max(map(abs, late)) < 3
        # Without it, pairs are made of moments 400 ms apart.
        errors = real_errors(play(Rig(), shots(seconds=5, offset_ms=420.0)))
        assert all(abs(error) > 300 for error in errors)

    # slow: the other rows cover equal rates and a fast camera.
    @pytest.mark.parametrize("rates", [pytest.param((30.0, 30.0), marks=pytest.mark.slow), (30.0, 9.0), (10.0, 10.0)])
    @pytest.mark.parametrize("moving", [True, False])
    def test_frames_that_are_long_on_their_way_do_not_spoil_a_correct_rig(self, rates, moving):
        """Equal clocks, infrared arrives 120 ms later than RGB."""
        scene = {"rates": rates, "delays_ms": (20.0, 140.0), "phase_ms": 4.0, "moving": moving}
        seconds = 32 if moving else 9
        learning = play(Rig(learn_ir_time_offset=True), shots(seconds, **scene))
        plain = play(Rig(), shots(seconds, **scene))
        assert abs(learning.feed.ir_time_offset_ms) < 5
        if moving:
            assert any("is transport delay" in line for line in learning.lines)
        wrong, usual = (np.mean(np.abs(real_errors(rig))) for rig in (learning, plain))
        assert wrong < usual + 1

    def test_a_constant_that_nothing_confirms_is_reported_and_not_put_into_force(self):
        rig = play(Rig(learn_ir_time_offset=True), shots(seconds=10, offset_ms=420.0, rates=(30.0, 8.6), moving=False))
        assert rig.feed.ir_time_offset_ms == 0
        (line,) = [line for line in rig.lines if "learnt" in line]
        assert "not applied until motion" in line
        assert "motion in both images" in line

    @pytest.mark.parametrize(("offset_ms", "given_ms"), [(40.0, 0.0), (-65.0, 0.0), (40.0, 100.0)])
    def test_a_clock_that_is_off_is_reported_by_what_the_images_show(self, offset_ms, given_ms):
        frames = shots(seconds=29, offset_ms=offset_ms, rates=(30.0, 9.0))
        rig = play(Rig(ir_time_offset_ms=given_ms), frames)
        (hint,) = [line for line in rig.lines if "ir frames look" in line]
        number = re.search(r"about (\d+) ms (late|early)", hint)
        assert float(number[1]) == pytest.approx(abs(offset_ms), abs=10)
        assert number[2] == ("late" if offset_ms > 0 else "early")
        assert "set ir_time_offset_ms to" in hint
        assert "learn_ir_time_offset" in hint
        assert rig.feed.ir_time_offset_ms == given_ms, "reported only"
        assert rig.feed.offsets.image_offset.offset_ns / MS == pytest.approx(offset_ms, abs=10)

    @pytest.mark.parametrize(("offset_ms", "given_ms"), [(0.0, 0.0), (40.0, 40.0)])
    def test_a_clock_that_is_right_or_corrected_draws_no_hint(self, offset_ms, given_ms):
        frames = shots(seconds=29, offset_ms=offset_ms, delays_ms=(20.0, 90.0))
        rig = play(Rig(ir_time_offset_ms=given_ms), frames)
        assert rig.feed.offsets.image_offset is not None
        assert not [line for line in rig.lines if "ir frames look" in line]

    def test_what_the_images_show_is_put_into_force_if_it_may_be_learnt(self):
        """By stamps, 40 ms of free-running cameras cannot be distinguished from a delay."""
        rig = play(Rig(learn_ir_time_offset=True), shots(seconds=29, offset_ms=40.0, rates=(30.0, 8.6)))
        assert rig.feed.ir_time_offset_ms == pytest.approx(40, abs=10)

    def test_it_is_not_learnt_unless_requested(self):
        rig = play(Rig(), shots(seconds=6, offset_ms=420.0, moving=False))
        assert rig.feed.offsets.learnt is None
        assert rig.feed.ir_time_offset_ms == 0

    def test_what_is_given_anew_holds_and_switching_off_returns_to_it(self):
        rig = play(Rig(learn_ir_time_offset=True), shots(seconds=29, offset_ms=420.0))
        rig.feed.apply(replace(rig.feed.settings, sync_slop_ms=20.0))
        assert rig.feed.ir_time_offset_ms == pytest.approx(420, abs=1)
        rig.feed.apply(replace(rig.feed.settings, ir_time_offset_ms=300.0))
        assert rig.feed.ir_time_offset_ms == 300
        rig.feed.apply(replace(rig.feed.settings, learn_ir_time_offset=False, ir_time_offset_ms=7.0))
        assert rig.feed.ir_time_offset_ms == 7
        assert rig.feed.offsets.learnt is None

    def test_other_settings_that_change_meanwhile_do_not_start_the_learning_anew(self):
        frames = list(shots(seconds=6, offset_ms=420.0, moving=False))
        undisturbed = play(Rig(learn_ir_time_offset=True), frames)
        rig = Rig(learn_ir_time_offset=True)
        for number, frame in enumerate(frames):
            play(rig, [frame])
            rig.feed.apply(replace(rig.feed.settings, stale_ms=900.0 + number % 2))
        assert rig.feed.offsets.learnt is not None
        assert rig.feed.offsets.learnt == undisturbed.feed.offsets.learnt

    def test_cameras_in_time_keep_what_was_given(self):
        rig = play(Rig(learn_ir_time_offset=True, ir_time_offset_ms=0.0), shots(seconds=6, moving=False))
        assert abs(rig.feed.ir_time_offset_ms) < 1


class TestClocks:
    """Cameras with incomparable stamps: since boot, not set, hours or the leap seconds apart."""

    UPTIME = (START, 4_211_000.0)

    @pytest.mark.parametrize(
        ("start_ms", "words"),
        [
            ((START, 4_211_000.0), "ir with 4211 s"),
            ((90_000.0, START), "rgb with 90 s"),
            ((90_000.0, 4_211_000.0), "rgb with 90 s and ir with 4211 s"),
            ((START, START + 37_000.0), "ir is stamped 37.0 s later than rgb frames that arrive at the same time"),
            ((START, START - 5 * 3_600_000.0), "ir is stamped 18000.0 s earlier"),
        ],
    )
    @pytest.mark.parametrize("rates", [(30.0, 30.0), (30.0, 9.0)])
    def test_frames_are_paired_by_arrival_with_the_reason_in_the_log(self, start_ms, words, rates):
        rig = play(
            Rig(pairing="one_to_one"), shots(seconds=6, start_ms=start_ms, rates=rates, phase_ms=4.0, moving=False)
        )
        (line, *more) = rig.lines
        assert words in line
        assert "paired by their times of arrival" in line
        assert more == [], "and nothing that is not so"
        assert rig.feed.by_arrival
        errors = real_errors(rig)
        assert len(errors) > 5 * rates[1]
        assert np.median(np.abs(errors)) < 25
        assert all(abs(c.error_ns) < 50 * MS for c in rig.captures if c.error_ns is not None)
        wanted = {shot.stamp_ns for shot in shots(seconds=6, start_ms=start_ms, rates=rates, phase_ms=4.0)}
        assert {c.rgb_stamp_ns for c in rig.captures} | {c.ir_stamp_ns for c in rig.captures} <= wanted

    @pytest.mark.parametrize("who", ["rgb", "ir", "rgb ir"])
    def test_cameras_without_stamps(self, who):
        frames = [replace(s, stamp_ns=0) if s.stream in who.split() else s for s in shots(seconds=4, moving=False)]
        rig = play(Rig(), frames)
        assert len(real_errors(rig)) > 90
        assert any(f"{' and '.join(who.split())} frames have no stamp" in line for line in rig.lines)

    def test_by_stamp_only_they_never_meet_and_the_remedy_is_named(self):
        rig = play(Rig(pair_by="stamp"), shots(seconds=6, start_ms=self.UPTIME, moving=False))
        assert not real_errors(rig)
        assert "no frame finds a partner: set pair_by to auto or arrival" in rig.lines[0]
        assert not any("arrive much later" in line for line in rig.lines), "nothing is known of that"
        assert not any("set ir_time_offset_ms" in line for line in rig.lines)
        zero = play(Rig(pair_by="stamp"), [replace(s, stamp_ns=0) for s in shots(seconds=3, moving=False)])
        assert zero.feed.modes.mode is Mode.STALE
        assert "rgb sends frames that are refused (header.stamp is zero)" in zero.feed.modes.reason

    def test_by_arrival_only_if_requested(self):
        """Infrared is stamped 300 ms late and arrives 30 ms later: only its delay remains to be configured."""
        scene = {"seconds": 5, "offset_ms": 300.0, "delays_ms": (20.0, 50.0), "moving": False}
        rig = play(Rig(pair_by="arrival", ir_time_offset_ms=30.0), shots(**scene))
        assert rig.feed.by_arrival
        assert np.quantile(np.abs(real_errors(rig, 500)), 0.95) < 2
        assert rig.lines == []
        rig.feed.apply(replace(rig.feed.settings, pair_by="stamp"))
        assert not rig.feed.by_arrival

    @pytest.mark.parametrize("rates", [(30.0, 30.0), (30.0, 8.6)])
    def test_a_constant_of_any_size_is_learnt(self, rates):
        frames = shots(seconds=20, start_ms=self.UPTIME, rates=rates, delays_ms=(20.0, 25.0), moving=False)
        rig = play(Rig(learn_ir_time_offset=True, pairing="one_to_one"), frames)
        assert not rig.feed.by_arrival, "with the constant taken out stamps are the better times"
        assert rig.feed.ir_time_offset_ms == pytest.approx(4_211_000 - START, abs=2 if rates[1] == 30 else 12)
        errors = real_errors(rig, 15_000)
        assert len(errors) > 4 * rates[1]
        assert max(map(abs, errors)) < (3 if rates[1] == 30 else 30)

    def test_a_camera_that_starts_again_and_a_clock_that_is_set(self):
        """Infrared counts from its start, restarts after 5 s, and gets the time of day after 10 s."""
        rig = play(Rig(), shots(seconds=5, start_ms=self.UPTIME, moving=False))
        again = shots(seconds=5, start_ms=(START, -4_000.0), first_ms=5_000, moving=False)
        play(rig, again)
        assert rig.feed.by_arrival
        play(rig, shots(seconds=5, first_ms=10_000, moving=False))
        assert not rig.feed.by_arrival
        assert len(real_errors(rig)) > 0.93 * 450
        assert "paired by their stamps" in rig.lines[-1]

    def test_equal_clocks_are_never_called_apart(self):
        """A bag played repeatedly, fast and with ragged ends, delayed frames, both clocks since one start."""
        rig = Rig()
        for loop in range(3):
            frames = camera("rgb", 0, 60_000, 100) + camera("ir", 8, 59_000, 111)
            for arrival, stream, stamp in sorted(frames):
                rig.push(stream, stamp, (arrival + 60_030 * loop) / 20)
        play(rig, shots(seconds=5, delays_ms=(20.0, 900.0), moving=False, first_ms=600_000))
        assert not any("arrival" in line for line in rig.lines)
        both = play(Rig(), shots(seconds=5, start_ms=(4_000_000.0, 4_000_000.0), moving=False))
        assert both.lines == []


def test_pairing_by_arrival_takes_no_clock_offset_from_the_first_frame_on():
    """A constant between two clocks, as in a calibration file, does not apply to times of arrival."""
    rig = play(Rig(pair_by="arrival", ir_time_offset_ms=5000.0), shots(seconds=4, offset_ms=5000.0))
    assert rig.feed.by_arrival
    assert rig.feed.pairer.pairs > 20


class TestTimeOfCaptures:
    def test_it_advances_by_arrivals_where_stamps_do_not(self):
        rig = Rig(pair_by="arrival", ir_time_offset_ms=30.0, stale_ms=300.0)
        frames = [(n * 100.0, "rgb", -1.0) for n in range(10)] + [(n * 100.0 + 30, "ir", -1.0) for n in range(20)]
        rig.run(frames)
        assert rig.modes[-1][1] == "ir_only"
        times = [c.time_ns for c in rig.captures]
        assert len(times) >= 15
        assert all(50 * MS <= later - one <= 500 * MS for one, later in zip(times, times[1:], strict=False))

    def test_an_infrared_frame_alone_has_the_time_of_the_rgb_clock(self):
        rig = Rig(ir_time_offset_ms=60_000.0, stale_ms=300.0, pair_by="stamp")
        frames = camera("rgb", 0, 1000, 100)
        frames += [(arrival, stream, stamp + 60_000) for arrival, stream, stamp in camera("ir", 0, 2000, 100)]
        rig.run(frames)
        assert rig.captures[-1].mode is Mode.IR_ONLY
        assert rig.captures[-1].time_ns == (START + 1900) * MS
        assert next(c for c in rig.captures if c.mode is Mode.FUSED).time_ns == START * MS
