"""Modes: silent and returning cameras under each fallback."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.runtime.perception_result import Mode
from spectradino_core.streams.modes import FALLBACKS, FrozenDetector, ModeChange, ModeMachine
from tests.examples import examples

MS = 1_000_000


def machine(fallback: str = "auto", stale_ms: float = 500, back_after: int = 3) -> ModeMachine:
    return ModeMachine(0, stale_ms, fallback, back_after)


def run(modes: ModeMachine, cameras: str, start_ms: int, end_ms: int, every_ms: int = 100) -> list[ModeChange]:
    """Send frames of the named cameras ("rgb ir") periodically; returns the changes."""
    changes = []
    for at in range(start_ms, end_ms, every_ms):
        changes.append(modes.update(at * MS))
        changes += [modes.frame(camera, at * MS) for camera in cameras.split()]
    return [change for change in changes if change is not None]


def test_both_cameras_are_fused_and_nothing_changes():
    modes = machine()
    assert run(modes, "rgb ir", 0, 10_000) == []
    assert modes.mode is Mode.FUSED


@pytest.mark.parametrize(
    ("left", "fallback", "mode"),
    [
        ("rgb", "auto", Mode.RGB_ONLY),
        ("ir", "auto", Mode.IR_ONLY),
        ("rgb", "rgb_only", Mode.RGB_ONLY),
        ("ir", "rgb_only", Mode.STALE),
        ("rgb", "ir_only", Mode.STALE),
        ("ir", "ir_only", Mode.IR_ONLY),
        ("rgb", "fused_only", Mode.STALE),
        ("ir", "fused_only", Mode.STALE),
        ("", "auto", Mode.STALE),
    ],
)
def test_one_camera_silent_under_each_fallback(left, fallback, mode):
    modes = machine(fallback)
    run(modes, "rgb ir", 0, 1000)
    changes = run(modes, left, 1000, 3000)
    assert modes.mode is mode
    (change,) = changes
    assert (change.before, change.mode) == (Mode.FUSED, mode)
    # The last frame came at 900 ms: the change comes within one timeout and one tick.
    assert 1400 * MS < change.time_ns <= 1500 * MS
    assert ("ir" if left == "rgb" else "rgb") in change.reason
    assert "stale_ms 500" in change.reason
    assert ("fallback_mode" in change.reason) == (mode is Mode.STALE and left != "")


def test_it_comes_back_after_three_frames_and_not_before():
    modes = machine()
    run(modes, "rgb ir", 0, 1000)
    run(modes, "rgb", 1000, 3000)
    assert modes.frame("ir", 3000 * MS) is None
    assert modes.frame("ir", 3100 * MS) is None
    assert modes.mode is Mode.RGB_ONLY
    modes.frame("rgb", 3150 * MS)
    change = modes.frame("ir", 3200 * MS)
    assert change is not None
    assert change.mode is Mode.FUSED
    assert modes.is_alive("ir")


def test_a_camera_that_stutters_does_not_flip_the_mode():
    modes = machine()
    run(modes, "rgb ir", 0, 1000)
    changes = []
    for at in range(1000, 10_000, 100):
        cameras = "rgb ir" if at % 1000 < 200 else "rgb"  # two infrared frames, then 900 ms nothing
        changes += run(modes, cameras, at, at + 100)
    assert [change.mode for change in changes] == [Mode.RGB_ONLY]


def test_a_camera_that_loses_most_of_its_frames_flips_the_mode_less_and_less():
    """9 Hz of which a quarter arrives: gaps of a second every few seconds, for minutes."""
    rng = np.random.default_rng(1)
    modes, changes = machine(stale_ms=1000), []
    for at in range(0, 300_000, 111):
        changes.append(modes.frame("rgb", at * MS))
        changes.append(modes.frame("ir", at * MS) if rng.random() < 0.25 else modes.update(at * MS))
    made = [change for change in changes if change is not None]
    assert made, "it is lost"
    late = [change for change in made if change.time_ns > 60_000 * MS]
    assert len(late) <= 4
    back = run(modes, "rgb ir", 300_000, 340_000)
    assert [change.mode for change in back][-1:] == [Mode.FUSED], "and it is trusted again once it is steady"


def test_the_first_losses_and_those_far_apart_cost_three_frames_only():
    modes, at = machine(), 0
    for _ in range(3):
        run(modes, "rgb ir", at, at + 31_000)
        changes = run(modes, "rgb", at + 31_000, at + 33_000)
        changes += run(modes, "rgb ir", at + 33_000, at + 33_400)
        assert [change.mode for change in changes] == [Mode.RGB_ONLY, Mode.FUSED]
        at += 33_400


def test_a_camera_slower_than_the_timeout_is_named_with_the_remedy():
    modes = machine(stale_ms=300)
    run(modes, "ir", 0, 1)
    for at in range(100, 1100, 100):
        modes.frame("rgb", at * MS)
    modes.frame("ir", 1000 * MS)
    for at in range(1100, 3000, 100):
        modes.frame("rgb", at * MS)
    assert modes.mode is Mode.RGB_ONLY
    modes.update(4000 * MS)
    assert modes.mode is Mode.STALE
    assert "1000 ms apart" in modes.reason


def test_nothing_at_all_after_the_start_is_stale_after_one_timeout():
    modes = machine()
    assert modes.update(500 * MS) is None
    change = modes.update(501 * MS)
    assert change is not None
    assert change.mode is Mode.STALE
    assert "rgb has sent nothing" in change.reason
    assert "ir has sent nothing" in change.reason


def test_the_first_frame_of_a_camera_makes_it_alive_at_once_however_late_it_comes():
    modes = machine()
    assert [c.mode for c in run(modes, "rgb", 0, 5000)] == [Mode.RGB_ONLY]
    change = modes.frame("ir", 5000 * MS)
    assert change is not None
    assert (change.mode, change.reason) == (Mode.FUSED, "both cameras are alive")


def test_drivers_that_come_up_late_are_a_new_start():
    modes = machine()
    assert [c.mode for c in run(modes, "", 0, 5000)] == [Mode.STALE]
    change = modes.frame("rgb", 5000 * MS)
    assert change is not None
    assert (change.mode, change.reason) == (Mode.FUSED, "waiting for the first ir frame")
    assert run(modes, "rgb", 5100, 5501) == [], "the other has its time again"
    (change,) = run(modes, "rgb", 5501, 6000)
    assert change.mode is Mode.RGB_ONLY
    assert "ir has sent nothing for 501 ms" in change.reason


def test_a_camera_whose_frames_are_all_refused_is_not_called_silent():
    modes = machine()
    for at in range(0, 2000, 100):
        modes.frame("rgb", at * MS)
        modes.refused("ir", at * MS, "image encoding 'yuv9' is not read here")
    assert modes.mode is Mode.RGB_ONLY
    assert modes.reason == "ir sends frames that are refused (image encoding 'yuv9' is not read here)"
    modes.refused("rgb", 2700 * MS, "empty")
    modes.refused("ir", 2700 * MS, "empty")
    assert modes.mode is Mode.STALE
    assert modes.reason.count("refused") == 2
    modes.update(6000 * MS)
    assert "rgb is silent for 4100 ms" in modes.reason, "once nothing comes any more, that is what is said"


def test_a_refusal_that_begins_after_the_silence_is_named():
    modes = machine()
    assert [c.mode for c in run(modes, "rgb", 0, 2000)] == [Mode.RGB_ONLY]
    assert "ir has sent nothing" in modes.reason
    assert modes.refused("ir", 2000 * MS, "empty") is None
    assert modes.reason == "ir sends frames that are refused (empty)"


def test_a_camera_that_comes_back_is_not_called_silent():
    modes = machine()
    run(modes, "rgb ir", 0, 1000)
    run(modes, "rgb", 1000, 3000)
    modes.frame("ir", 3000 * MS)
    modes.frame("ir", 3100 * MS)
    assert modes.reason == "ir is coming back: 2 of 3 frames received"
    change = modes.update(3500 * MS)
    assert change is not None
    assert change.mode is Mode.STALE
    assert change.reason.startswith("rgb is silent for 600 ms (stale_ms 500); ir is coming back: 2 of 3")


def test_infrared_alone_only_in_the_rgb_grid():
    modes = machine("rgb_grid")
    run(modes, "rgb ir", 0, 1000)
    run(modes, "ir", 1000, 2000)
    assert modes.mode is Mode.STALE
    assert "fallback_mode rgb_grid does not allow ir alone, as no registration" in modes.reason
    modes.rgb_grid = True
    (change,) = run(modes, "ir", 2000, 2200)
    assert change.mode is Mode.IR_ONLY
    run(modes, "rgb ir", 2200, 3000)
    run(modes, "rgb", 3000, 4000)
    assert modes.mode is Mode.RGB_ONLY


def test_due_is_the_time_of_the_next_change():
    modes = machine()
    modes.frame("rgb", 100 * MS)
    modes.frame("ir", 200 * MS)
    due = modes.due_ns
    assert due == 600 * MS + 1
    assert modes.update(due - 1) is None
    change = modes.update(due)
    assert change is not None
    assert change.mode is Mode.IR_ONLY
    modes.update(5000 * MS)
    assert modes.due_ns is None


def test_a_frozen_camera_is_dropped_at_once_and_used_again_when_it_moves():
    modes = machine()
    run(modes, "rgb ir", 0, 1000)
    change = modes.frame("ir", 1000 * MS, frozen=True)
    assert change is not None
    assert change.mode is Mode.RGB_ONLY
    assert "repeats one image" in change.reason
    for at in range(1100, 2000, 100):
        modes.frame("rgb", at * MS)
        assert modes.frame("ir", at * MS, frozen=True) is None
    assert [change.mode for change in run(modes, "rgb ir", 2000, 2500)] == [Mode.FUSED]


def test_time_that_starts_again_waits_for_both_anew():
    modes = machine()
    run(modes, "rgb", 50_000, 52_000)
    assert modes.mode is Mode.RGB_ONLY
    changes = run(modes, "rgb ir", 0, 2000)
    assert modes.mode is Mode.FUSED
    assert len(changes) == 1


calls = st.lists(st.tuples(st.sampled_from(["rgb", "ir", "tick"]), st.integers(-50, 900), st.booleans()), max_size=60)


@settings(max_examples=examples(200), deadline=None)
@given(calls, st.sampled_from(sorted(FALLBACKS)), st.integers(1, 4))
def test_the_mode_is_always_one_that_the_fallback_allows(calls, fallback, back_after):
    modes = ModeMachine(0, 300, fallback, back_after)
    now, last = 0, modes.mode
    for what, step, frozen in calls:
        now = max(0, now + step)
        change = modes.update(now * MS) if what == "tick" else modes.frame(what, now * MS, frozen)
        assert (change is not None) == (modes.mode is not last)
        if change is not None:
            assert (change.before, change.mode, change.time_ns) == (last, modes.mode, now * MS)
            assert change.reason
        last = modes.mode
        assert last in {Mode.FUSED, Mode.STALE} | FALLBACKS[fallback]
        assert (last is Mode.FUSED) == (modes.is_alive("rgb") and modes.is_alive("ir"))


@settings(max_examples=examples(100), deadline=None)
@given(calls)
def test_due_is_exact(calls):
    """Without frames nothing changes before `due_ns`, when a camera becomes silent."""
    modes, now = ModeMachine(0, 300), 0
    for what, step, frozen in calls:
        now = max(0, now + step)
        if what == "tick":
            modes.update(now * MS)
        else:
            modes.frame(what, now * MS, frozen)
    alive = modes.is_alive("rgb") + modes.is_alive("ir")
    due = modes.due_ns
    assert (due is None) == (alive == 0)
    if due is not None:
        assert modes.update(due - 1) is None
        modes.update(due)
        assert modes.is_alive("rgb") + modes.is_alive("ir") < alive


class TestFrozenDetector:
    @pytest.fixture
    def frames(self) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        base = rng.integers(20000, 21000, (512, 640)).astype(np.uint16)
        return [(base + rng.integers(0, 3, base.shape)).astype(np.uint16) for _ in range(3)]

    def test_noise_alone_is_not_frozen(self, frames):
        detector = FrozenDetector(400)
        assert not any(detector(frames[i % 3], i * 111 * MS) for i in range(30))

    def test_a_repeated_image_is_frozen_after_the_time_and_not_before(self, frames):
        detector = FrozenDetector(400)
        detector(frames[1], 0)
        answers = [detector(frames[0].copy(), t * MS) for t in (100, 200, 400, 499, 500, 600)]
        assert answers == [False, False, False, False, True, True]
        assert not detector(frames[2], 700 * MS)
        assert detector.repeats == 0

    def test_images_sent_three_times_by_design_are_not_frozen(self, frames):
        detector = FrozenDetector(400)
        assert not any(detector(frames[i // 3 % 3], i * 37 * MS) for i in range(60))

    def test_zero_switches_it_off(self, frames):
        detector = FrozenDetector(0)
        assert not any(detector(frames[0], i * 1000 * MS) for i in range(10))

    def test_time_that_goes_back_begins_anew(self, frames):
        detector = FrozenDetector(400)
        detector(frames[0], 9000 * MS)
        assert detector(frames[0], 9500 * MS)
        assert not detector(frames[0], 100 * MS)
        assert not detector(frames[0], 400 * MS)

    @pytest.mark.parametrize("shape", [(1, 1), (7, 9), (40, 40, 3)])
    def test_any_shape_even_a_view(self, shape):
        frame = np.zeros((*shape, 2), np.uint8)[..., 0]
        detector = FrozenDetector(1)
        assert not detector(frame, 0)
        assert detector(frame, 10 * MS)
        assert not detector(frame.astype(np.uint16), 20 * MS)
