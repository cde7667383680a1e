"""Pairing by stamps: cases computed by hand, clock faults, and a missing camera."""

from __future__ import annotations

import random

import pytest

from spectradino_core.streams.pairing import Pairer, Stream
from tests.core.streams.recording import MS, START, Recording, camera, push, stamps


class TestByHand:
    def test_equal_rates_pair_at_the_second_frame_of_each_pair(self):
        pairer = Pairer(slop_ms=20)
        for i in range(5):
            assert push(pairer, ("rgb", 33 * i)) == []
            assert push(pairer, ("ir", 33 * i + 4)) == [(33 * i, 33 * i + 4)]
        assert pairer.drops == {}
        assert pairer.pairs == 5

    def test_a_pair_carries_what_was_pushed_and_both_offsets(self):
        pairer = Pairer(slop_ms=5, offset_ms=100)
        pairer.push("rgb", 1_000_000_000, "colour")
        (pair,) = pairer.push(Stream.IR, 1_103_000_000, "heat")
        assert (pair.rgb, pair.ir) == ("colour", "heat")
        assert (pair.rgb_stamp_ns, pair.ir_stamp_ns) == (1_000_000_000, 1_103_000_000)
        assert pair.ir_stamp_ns - pair.rgb_stamp_ns == 103 * MS
        assert pair.error_ns == 3 * MS
        assert pairer.median_offset_ms == 103.0

    def test_nanoseconds_are_not_rounded(self):
        pairer = Pairer(slop_ms=50)
        stamp = 1_700_000_000_123_456_789
        pairer.push("rgb", stamp, None)
        (pair,) = pairer.push("ir", stamp + 1, None)
        assert (pair.rgb_stamp_ns, pair.error_ns) == (stamp, 1)

    def test_beyond_the_slop_there_is_no_pair_and_both_are_counted(self):
        pairer = Pairer(slop_ms=10)
        assert push(pairer, ("rgb", 0), ("ir", 11), ("rgb", 100), ("ir", 110)) == [(100, 110)]
        assert pairer.drops == {"unpaired_rgb": 1, "unpaired_ir": 1}

    def test_the_slow_camera_gets_the_nearest_frame_of_the_fast_one(self):
        pairer = Pairer(slop_ms=50)
        rgb = [("rgb", t) for t in (0, 33, 67, 100, 133, 167, 200, 233, 267)]
        # Infrared that arrives late finds neighbours on both sides: 70 is nearest 67, 190 nearest 200.
        assert push(pairer, *rgb, ("ir", 70), ("ir", 190)) == [(67, 70), (200, 190)]

    def test_it_waits_for_a_nearer_frame_only_while_one_may_come(self):
        pairer = Pairer(slop_ms=50)
        push(pairer, *[("rgb", t) for t in (0, 33, 66, 99)], ("ir", 0), ("ir", 100))  # rhythms are known
        assert push(pairer, ("rgb", 132), ("rgb", 165), ("rgb", 198)) == []
        # 222 is 24 from 198; the next RGB frame, due at 231, will be nearer: wait.
        assert push(pairer, ("ir", 222)) == []
        assert push(pairer, ("rgb", 231)) == [(231, 222)]
        # 310 is 4 from 306... which is nearer than half a period: nothing better can come.
        assert push(pairer, ("rgb", 264), ("rgb", 297), ("ir", 310)) == [(297, 310)]

    def test_flush_gives_what_waited(self):
        pairer = Pairer(slop_ms=50)
        push(pairer, *[("rgb", t) for t in (0, 33, 66, 99)], ("ir", 0), ("ir", 100), ("rgb", 198))
        assert push(pairer, ("ir", 222)) == []
        assert stamps(pairer.flush()) == [(198, 222)]
        assert pairer.flush() == []

    def test_after_a_lost_frame_equal_cameras_are_in_step_at_once(self):
        pairer = Pairer(slop_ms=150)
        frames = [(s, t) for t in range(0, 1000, 100) for s in ("rgb", "ir") if (s, t) != ("rgb", 500)]
        pairs = push(pairer, *frames)
        assert pairs == [(t, t) for t in range(0, 1000, 100) if t != 500]
        assert pairer.drops == {"unpaired_ir": 1}

    def test_a_gap_in_the_fast_camera_does_not_cost_frames_of_the_slow_one(self):
        """RGB has no frame from 33 to 170, which is 59 from 111 and 52 from 222; but 222 has a nearer one at 236."""
        pairer = Pairer(slop_ms=70)
        push(pairer, *[("rgb", t) for t in (-67, -34, 0, 33)], ("ir", -111), ("ir", 0))
        frames = [("ir", 111), ("rgb", 170), ("rgb", 203), ("ir", 222), ("rgb", 236)]
        assert push(pairer, *frames) == [(170, 111), (236, 222)]

    def test_half_a_period_with_jitter_does_not_cost_frames(self):
        rng = random.Random(1)
        recording = Recording(camera(30, 20, 0, 2, 0, rng), camera(30, 20, 16.7, 2, 0, rng))
        pairs = recording.play(Pairer(slop_ms=50))
        assert len(pairs) >= 0.97 * len(recording.rgb)

    def test_a_bad_phase_does_not_stay(self):
        """Infrared 25 ms late at 30 Hz: the RGB frame 8.3 ms later is the better partner."""
        rgb = [START + 1000 / 30 * i for i in range(100)]
        pairs = Recording(rgb, [t + 25 for t in rgb]).play(Pairer(slop_ms=50))
        assert len(pairs) >= 98
        assert all(abs(pair.error_ns) < 9 * MS for pair in pairs[20:])

    def test_a_late_stream_is_waited_for(self):
        """Infrared arrives 150 ms after RGB frames of the same stamp."""
        rgb = [START + 1000 / 30 * i for i in range(60)]
        recording = Recording(rgb, list(rgb), ir_delay=150)
        pairs = recording.play(Pairer(slop_ms=10))
        assert len(pairs) == 60
        assert all(pair.error_ns == 0 for pair in pairs)

    def test_a_constant_offset_is_taken_out(self):
        rgb = [START + 100 * i for i in range(20)]
        recording = Recording(rgb, [t - 730 for t in rgb], ir_delay=730)
        assert len(recording.play(Pairer(slop_ms=5, offset_ms=-730))) == 20

    def test_the_offset_may_be_changed_while_frames_wait(self):
        pairer = Pairer(slop_ms=10)
        assert push(pairer, ("ir", 1000), ("ir", 1100)) == []
        pairer.offset_ns = 900 * MS
        assert push(pairer, ("rgb", 100), ("rgb", 200)) == [(100, 1000), (200, 1100)]
        assert pairer.restarts == 0
        assert push(pairer, ("rgb", 300), ("ir", 1200)) == [(300, 1200)]

    @pytest.mark.parametrize("arguments", [{"slop_ms": 0}, {"slop_ms": float("nan")}])
    def test_settings_out_of_range_are_refused(self, arguments):
        with pytest.raises(ValueError, match="slop_ms"):
            Pairer(**arguments)

    def test_an_unknown_stream_is_refused(self):
        with pytest.raises(ValueError, match="depth_camera"):
            Pairer(10).push("depth_camera", 1, None)


class TestFaultsOfTime:
    def test_zero_stamps_are_refused_counted_and_reported_once(self):
        pairer = Pairer(slop_ms=50)
        for _ in range(3):
            assert pairer.push("rgb", 0, None) == []
            assert pairer.push("ir", 0, None) == []
        assert pairer.drops == {"zero_stamp": 6}
        events = pairer.take_events()
        assert len(events) == 2
        assert "rgb" in events[0]
        assert "header.stamp" in events[0]
        assert pairer.take_events() == []

    def test_duplicates_and_small_steps_back_are_refused_and_disturb_nothing(self):
        pairer = Pairer(slop_ms=20)
        assert push(pairer, ("rgb", 100), ("rgb", 100), ("rgb", 90), ("ir", 101)) == [(100, 101)]
        assert pairer.drops == {"duplicate_stamp": 1, "backward_stamp": 1}
        assert push(pairer, ("rgb", 133), ("ir", 134)) == [(133, 134)]
        assert pairer.restarts == 0

    def test_a_clock_set_back_a_little_is_believed_after_three_frames(self):
        pairer = Pairer(slop_ms=20)
        push(pairer, *[(s, t) for t in range(0, 1000, 100) for s in ("rgb", "ir")])
        late = [(s, t) for t in range(620, 1500, 100) for s in ("rgb", "ir")]
        pairs = push(pairer, *late)
        assert pairs[0][0] <= 820
        assert pairs[-1] == (1420, 1420)
        assert pairer.drops["backward_stamp"] == 4

    def test_a_large_step_back_restarts_both_and_is_reported(self):
        pairer = Pairer(slop_ms=20)
        push(pairer, ("rgb", 20000), ("ir", 20001), ("rgb", 20033))
        assert push(pairer, ("rgb", 7700), ("ir", 7701)) == [(7700, 7701)]
        assert pairer.restarts == 1
        assert pairer.drops == {"unpaired_rgb": 1}
        (event,) = pairer.take_events()
        assert "12.3 s" in event
        assert "rgb" in event

    def test_one_stamp_from_the_future_costs_little(self):
        pairer = Pairer(slop_ms=20)
        frames = [(s, t) for t in range(0, 3000, 100) for s in ("rgb", "ir")]
        frames[20] = ("rgb", 3_600_000)
        pairs = push(pairer, *frames)
        assert len(pairs) >= 28
        assert pairs[-1] == (2900, 2900)

    def test_one_stamp_from_the_past_costs_little_and_the_next_loop_is_still_seen(self):
        pairer = Pairer(slop_ms=20)
        frames = [(s, t) for t in range(60_000, 63_000, 100) for s in ("rgb", "ir")]
        frames[20] = ("rgb", 100)
        pairs = push(pairer, *frames)
        assert len(pairs) >= 28
        assert pairs[-1] == (62_900, 62_900)
        assert pairer.restarts == 1
        push(pairer, ("ir", 50_000))
        assert pairer.restarts == 2
        assert push(pairer, ("rgb", 50_000)) == [(50_000, 50_000)]
        assert pairer.restarts == 2

    @pytest.mark.parametrize("wrong", ["rgb", "ir"])
    @pytest.mark.parametrize("period_ms", [100, 700, 5000])
    def test_one_stamp_from_the_past_costs_little_however_slow_the_cameras_are(self, wrong, period_ms):
        """With frames farther apart than a jump, each looked as if it came before one."""
        pairer = Pairer(slop_ms=20)
        frames = [(s, t) for t in range(10**8, 10**8 + 30 * period_ms, period_ms) for s in ("rgb", "ir")]
        frames.insert(20, (wrong, 1_000_000))
        pairs = push(pairer, *frames)
        assert len(pairs) >= 28
        assert pairs[-1] == (frames[-1][1], frames[-1][1])

    @pytest.mark.parametrize("tail_first", ["rgb", "ir"])
    @pytest.mark.parametrize("swap", [0, 1, 3])
    def test_a_bag_looped_three_times_with_ragged_ends_gives_equal_counts(self, tail_first, swap):
        """RGB begins first and ends last or the other way round; at the seam some messages overtake others."""
        rng = random.Random(5)
        rgb, ir = camera(30, 9, 0, 2, 0.02, rng), camera(9, 9, 80, 2, 0.02, rng)
        if tail_first == "ir":
            ir, rgb = [t for t in ir if t > START + 700], [t for t in rgb if t < START + 8300]
        else:
            rgb, ir = [t for t in rgb if t > START + 600], [t for t in ir if t < START + 8000]
        loop = [(s, t) for _, s, t in Recording(rgb, ir).arrivals()]
        played = loop * 3
        for seam in (len(loop), 2 * len(loop)):
            # The first `swap` frames of the new loop's own stream arrive before the last ones of the other stream.
            tail = [f for f in played[seam - 6 : seam] if f[0] == tail_first]
            head = [f for f in played[seam - 6 : seam] if f[0] != tail_first]
            ahead = [f for f in played[seam : seam + 6] if f[0] != tail_first][:swap]
            assert len(ahead) == swap
            assert tail
            rest = list(played[seam : seam + 6])
            for frame in ahead:
                rest.remove(frame)
            played[seam - 6 : seam + 6] = head + ahead + tail + rest
        pairer = Pairer(slop_ms=50)
        pairs = [pair for s, t in played for pair in pairer.push(s, round(t * MS), None)] + pairer.flush()
        assert pairer.restarts == 2
        loops: list[list[int]] = [[]]
        for pair in pairs:
            if loops[-1] and pair.rgb_stamp_ns < loops[-1][-1] - 2000 * MS:
                loops.append([])
            loops[-1].append(pair.rgb_stamp_ns)
        assert len(loops) == 3
        assert loops[0] == loops[1] == loops[2]
        assert len(loops[0]) >= len([t for t in ir if rgb[0] <= t <= rgb[-1]]) - 1
        assert (pairer.drops["previous_loop"] > 0) == (swap > 0)

    def test_unrelated_clocks_are_reported_with_the_remedy(self):
        pairer = Pairer(slop_ms=20)
        push(pairer, *[(s, t + (400 if s == "ir" else 0)) for t in range(0, 30000, 1000) for s in ("rgb", "ir")])
        assert pairer.pairs == 0
        (event,) = pairer.take_events()
        assert "+400.0 ms" in event
        assert "ir_time_offset_ms" in event
        assert "sync_slop_ms" in event


class TestOneCameraGone:
    def test_memory_stays_bounded_and_the_other_is_not_blocked(self):
        pairer = Pairer(slop_ms=50, depth=8)
        push(pairer, *[(s, t) for t in range(0, 1000, 100) for s in ("rgb", "ir")])
        for t in range(1000, 60000, 100):
            assert push(pairer, ("rgb", t)) == []
            assert pairer.waiting("rgb") <= 8
        assert pairer.drops == {"unpaired_rgb": 590 - 8}
        assert push(pairer, *[(s, t) for t in range(60000, 61000, 100) for s in ("ir", "rgb")]) == [
            (t, t) for t in range(60000, 61000, 100)
        ]

    def test_release_returns_each_unpaired_frame_once(self):
        pairer = Pairer(slop_ms=50)
        push(pairer, ("rgb", 100), ("rgb", 133))
        released = pairer.release("rgb")
        assert [frame.payload for frame in released] == [("rgb", 100), ("rgb", 133)]
        assert released[0].stamp_ns == (START + 100) * MS
        assert pairer.release(Stream.RGB) == []
        assert push(pairer, ("ir", 133)) == []
        assert pairer.drops == {"released_rgb": 2}

    def test_overflow_is_distinguished_from_silence(self):
        """RGB at 60 Hz, infrared alive but 500 ms late: more frames are in transit than the buffer holds."""
        rgb = [START + 1000 / 60 * i for i in range(120)]
        pairer = Pairer(slop_ms=5, depth=8)
        Recording(rgb, rgb[::6], ir_delay=500).play(pairer)
        assert pairer.drops["overflow"] > 40
        assert any("overflow" in event for event in pairer.take_events())

    def test_clear_forgets_and_counts(self):
        pairer = Pairer(slop_ms=50)
        push(pairer, ("rgb", 5000), ("rgb", 5033))
        pairer.clear()
        assert pairer.waiting("rgb") == 0
        assert pairer.drops == {"unpaired_rgb": 2}
        assert push(pairer, ("rgb", 100), ("ir", 100)) == [(100, 100)]
        assert pairer.restarts == 0
