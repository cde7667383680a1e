"""Thermal contract: mapping of counts by kind, refusals, and no flicker on streams."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spectradino_core.thermal import (
    KINDS,
    STREAM_SMOOTHING,
    Smoothing,
    ThermalContract,
    ThermalError,
    ThermalNormaliser,
)
from tests.examples import examples


def scene(hot: bool = False) -> np.ndarray:
    """16-bit scene around 20 °C at 0.01 K per count, with an engine at 80 °C if `hot`."""
    frame = np.random.default_rng(0).normal(29315, 120, (60, 80)).astype(np.uint16)
    if hot:
        frame[20:40, 30:60] = 35315
    return frame


class TestKinds:
    def test_none_divides_by_the_largest_value_of_the_type(self):
        normaliser = ThermalNormaliser(ThermalContract(kind="none"))
        assert normaliser(np.array([[0, 51, 255]], np.uint8))[0] == pytest.approx([0, 0.2, 1])
        assert normaliser(np.array([[0, 13107, 65535]], np.uint16))[0] == pytest.approx([0, 0.2, 1])

    def test_fixed_counts_map_linearly_and_clip(self):
        normaliser = ThermalNormaliser(ThermalContract(kind="fixed", low=1000, high=2000, depths=(16,)))
        got = normaliser(np.array([[0, 1000, 1250, 2000, 60000]], np.uint16))
        assert got.dtype == np.float32
        assert got[0] == pytest.approx([0, 0, 0.25, 1, 1])

    def test_fixed_kelvin_by_hand(self):
        contract = ThermalContract(kind="fixed", low=273.15, high=323.15, kelvin_per_count=0.01, depths=(16,))
        # 273.15 K is 27315 counts; 298.15 K lies in the middle.
        got = ThermalNormaliser(contract)(np.array([[27315, 29815, 32315, 40000]], np.uint16))
        assert got[0] == pytest.approx([0, 0.5, 1, 1], abs=1e-4)

    def test_fixed_range_maps_a_temperature_to_one_value_in_any_scene(self):
        normaliser = ThermalNormaliser(ThermalContract(kind="fixed", low=28000, high=36000, depths=(16,)))
        np.testing.assert_array_equal(normaliser(scene())[:20], normaliser(scene(hot=True))[:20])

    def test_percentile_by_hand(self):
        """The 10th and 90th percentile of 0..99, by nearest rank, are 9 and 89."""
        frame = np.random.default_rng(0).permutation(100).astype(np.uint16).reshape(10, 10)
        normaliser = ThermalNormaliser(ThermalContract(low=10, high=90, min_span=1))
        got = normaliser(frame)
        assert normaliser.range == (9, 89)
        np.testing.assert_allclose(got, np.clip((frame - 9.0) / 80, 0, 1), atol=1e-6)

    @settings(max_examples=examples(80), deadline=None)
    @given(
        hnp.arrays(st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)),
        st.floats(0, 49),
        st.floats(51, 100),
    )
    def test_percentiles_equal_numpys_by_inverted_cdf(self, frame, low, high):
        normaliser = ThermalNormaliser(ThermalContract(low=low, high=high, min_span=1e-9))
        normaliser(frame)
        ranks = np.array([low, high]) / 100 * frame.size
        places = np.clip(np.ceil(ranks).astype(int) - 1, 0, None)
        first, last = np.sort(frame.ravel())[places]  # np.percentile(method="inverted_cdf") of NumPy 1.22
        if np.abs(ranks - np.round(ranks)).min() > 1e-6 and first != last:  # not on the edge of a rank
            assert normaliser.range == (first, last)

    def test_a_uniform_scene_is_grey_and_not_noise(self):
        frame = np.full((20, 20), 29000, np.uint16)
        frame[0, :5] += 1
        got = ThermalNormaliser(ThermalContract(min_span=8))(frame)
        assert got.std() < 0.02
        assert 0.4 < got.mean() < 0.6

    @settings(max_examples=examples(100), deadline=None)
    @given(
        hnp.arrays(st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)),
        st.sampled_from(KINDS),
        st.floats(0, 0.95),
    )
    def test_any_frame_gives_finite_values_in_0_to_1(self, frame, kind, smoothing):
        depths = (frame.dtype.itemsize * 8,)
        normaliser = ThermalNormaliser(ThermalContract(kind=kind, smoothing=smoothing, depths=depths))
        before = frame.copy()
        for _ in range(2):
            got = normaliser(frame)
            assert got.dtype == np.float32
            assert got.shape == frame.shape
            assert np.isfinite(got).all()
            assert got.min() >= 0
            assert got.max() <= 1
        np.testing.assert_array_equal(frame, before)

    @settings(max_examples=examples(50), deadline=None)
    @given(hnp.arrays(np.uint16, (6, 6)), st.sampled_from(KINDS))
    def test_hotter_is_never_darker(self, frame, kind):
        got = ThermalNormaliser(ThermalContract(kind=kind, depths=(16,)))(frame).ravel()
        order = np.argsort(frame.ravel(), kind="stable")
        assert (np.diff(got[order]) >= 0).all()


class TestSmoothing:
    def test_the_range_follows_by_the_smoothing(self):
        normaliser = ThermalNormaliser(ThermalContract(low=0, high=100, smoothing=0.75, min_span=1))
        normaliser(np.array([[100, 200]], np.uint16))
        normaliser(np.array([[100, 600]], np.uint16))
        assert normaliser.range == (100, 300)

    def test_a_hot_object_that_enters_does_not_make_the_rest_jump(self):
        def jump(smoothing: float) -> float:
            normaliser = ThermalNormaliser(ThermalContract(smoothing=smoothing))
            before, after = normaliser(scene()), normaliser(scene(hot=True))
            return float(np.abs(after[:20] - before[:20]).mean())

        assert jump(0.0) > 0.3
        assert jump(0.95) < 0.5 * jump(0.0)

    def test_it_arrives_in_the_end_and_reset_forgets(self):
        normaliser = ThermalNormaliser(ThermalContract(smoothing=0.9))
        single = ThermalNormaliser(ThermalContract())(scene(hot=True))
        normaliser(scene())
        for _ in range(150):
            got = normaliser(scene(hot=True))
        np.testing.assert_allclose(got, single, atol=1e-3)
        normaliser(scene())
        normaliser.reset()
        np.testing.assert_array_equal(normaliser(scene(hot=True)), single)

    def test_without_smoothing_frames_are_independent(self):
        normaliser = ThermalNormaliser(ThermalContract())
        first = normaliser(scene())
        normaliser(scene(hot=True))
        np.testing.assert_array_equal(normaliser(scene()), first)


def street(rng: np.random.Generator, hot_share: float = 0.0, warmer: float = 0.0) -> np.ndarray:
    """Frame of a 16-bit stream at 0.01 K per count: sky and ground with sensor noise, and an engine at 80 °C over a
    fraction of the upper half; the lower half changes only by noise."""
    frame = rng.normal(29315, 40, (96, 128))
    frame[48:] += 250
    frame[60:72, 40:52] += 900  # a person
    frame[10:40, : round(hot_share * 128)] = 35315
    return (frame + warmer).astype(np.uint16)


def greys(normaliser: ThermalNormaliser, frames: list[np.ndarray]) -> np.ndarray:
    """Return the mean grey value of the lower half, 0 to 255, frame by frame."""
    return np.array([255 * normaliser(frame)[48:].mean() for frame in frames])


class TestStream:
    """Default smoothing in serving: `STREAM_SMOOTHING`."""

    @settings(max_examples=examples(12), deadline=None)
    @given(st.floats(0.05, 0.9), st.integers(1, 20), st.integers(0, 1000))
    def test_no_flicker_when_a_hot_object_enters_and_leaves(self, share, frames_to_enter, seed):
        rng = np.random.default_rng(seed)
        shares = [0.0] * 20 + [share * min(1, (i + 1) / frames_to_enter) for i in range(60)] + [0.0] * 60
        frames = [street(rng, s) for s in shares]
        plain = np.abs(np.diff(greys(ThermalNormaliser(ThermalContract()), frames))).max()
        calm = np.abs(np.diff(greys(ThermalNormaliser(ThermalContract(), STREAM_SMOOTHING), frames))).max()
        assert calm < 6
        assert plain > 8 * calm  # without it the image jumps by a quarter of all greys or more

    def test_a_running_mean_alone_is_not_enough(self):
        rng = np.random.default_rng(0)
        frames = [street(rng, 0.4 if i >= 20 else 0.0) for i in range(40)]
        mean_only = ThermalNormaliser(ThermalContract(smoothing=0.9))
        assert np.abs(np.diff(greys(mean_only, frames))).max() > 15

    @pytest.mark.parametrize(("before", "after"), [(0.0, 0.4), (0.4, 0.0)])
    def test_it_has_adapted_after_two_seconds_at_30_hz(self, before, after):
        rng = np.random.default_rng(1)
        normaliser = ThermalNormaliser(ThermalContract(), STREAM_SMOOTHING)
        for _ in range(30):
            normaliser(street(rng, before))
        for _ in range(60):
            got = normaliser(street(rng, after))
        single = ThermalNormaliser(ThermalContract())(street(np.random.default_rng(2), after))
        assert 255 * np.abs(got.mean() - single.mean()) < 2

    def test_another_scene_is_shown_at_once(self):
        rng = np.random.default_rng(3)
        normaliser = ThermalNormaliser(ThermalContract(), STREAM_SMOOTHING)
        for _ in range(10):
            normaliser(street(rng))
        warm = street(rng, warmer=4000.0)  # 40 K: the robot drove indoors, or the camera changed its gain
        np.testing.assert_array_equal(normaliser(warm), ThermalNormaliser(ThermalContract())(warm))

    def test_noise_from_frame_to_frame_is_calmer_than_without(self):
        rng = np.random.default_rng(4)
        frames = [street(rng) for _ in range(60)]
        plain, calm = (
            greys(ThermalNormaliser(ThermalContract(), s), frames)[20:].std() for s in (None, STREAM_SMOOTHING)
        )
        assert calm < 0.6 * plain

    def test_the_first_frame_of_a_stream_is_as_in_training(self):
        frame = street(np.random.default_rng(5))
        normaliser = ThermalNormaliser(ThermalContract(), STREAM_SMOOTHING)
        wanted = ThermalNormaliser(ThermalContract())(frame)
        np.testing.assert_array_equal(normaliser(frame), wanted)
        normaliser(street(np.random.default_rng(6), 0.5))
        normaliser.reset()
        np.testing.assert_array_equal(normaliser(frame), wanted)

    def test_the_models_own_smoothing_is_kept(self):
        assert ThermalNormaliser(ThermalContract(smoothing=0.5), STREAM_SMOOTHING).keep == 0.5
        assert ThermalNormaliser(ThermalContract(), STREAM_SMOOTHING).keep == 0.9

    @settings(max_examples=examples(60), deadline=None)
    @given(st.lists(hnp.arrays(np.uint16, (5, 6)), min_size=2, max_size=6))
    def test_the_range_is_always_valid(self, frames):
        normaliser = ThermalNormaliser(ThermalContract(), Smoothing(0.5, 1.0))
        for frame in frames:
            got = normaliser(frame)
            assert np.isfinite(got).all()
            assert got.min() >= 0
            assert got.max() <= 1
            low, high = normaliser.range
            assert high - low >= 8 * (1 - 1e-9)

    @pytest.mark.parametrize("values", [(1.0, 3.0), (-0.1, 3.0), (0.9, 0.0), (float("nan"), 3.0), (0.9, float("nan"))])
    def test_settings_that_make_no_sense_are_refused(self, values):
        with pytest.raises(ThermalError):
            Smoothing(*values)


class TestValidPixels:
    def test_the_percentiles_look_at_valid_pixels_only_and_the_rest_is_0(self):
        frame = np.full((10, 20), 60000, np.uint16)
        frame[:, :10] = np.arange(100).reshape(10, 10) + 1000
        valid = np.zeros(frame.shape, bool)
        valid[:, :10] = True
        normaliser = ThermalNormaliser(ThermalContract(low=10, high=90, min_span=1))
        got = normaliser(frame, valid)
        np.testing.assert_array_equal(got[:, :10], ThermalNormaliser(normaliser.contract)(frame[:, :10].copy()))
        assert normaliser.range == (1009, 1089)
        assert (got[:, 10:] == 0).all()

    def test_a_frame_without_a_valid_pixel_is_0_and_teaches_nothing(self):
        normaliser = ThermalNormaliser(ThermalContract(), STREAM_SMOOTHING)
        nothing = np.zeros((6, 8), bool)
        assert (normaliser(np.full((6, 8), 9, np.uint16), nothing) == 0).all()
        assert normaliser.range is None

    def test_valid_pixels_of_another_size_are_refused(self):
        with pytest.raises(ThermalError, match="valid has shape"):
            ThermalNormaliser(ThermalContract())(np.zeros((4, 4), np.uint8), np.ones((4, 5), bool))


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"kind": "auto"}, "auto"),
            ({"low": 99, "high": 1}, "99"),
            ({"low": float("nan")}, "nan"),
            ({"low": -1}, "0..100"),
            ({"high": 100.5}, "0..100"),
            ({"kind": "fixed", "low": 5, "high": 5, "depths": (16,)}, "empty"),
            ({"kind": "fixed", "low": 0, "high": 255}, "one depth"),
            ({"smoothing": 1.0}, "smoothing"),
            ({"smoothing": float("nan")}, "smoothing"),
            ({"depths": ()}, "depths"),
            ({"depths": (12,)}, "12"),
            ({"min_span": 0}, "min_span"),
            ({"kelvin_per_count": 0}, "kelvin_per_count"),
            ({"kelvin_per_count": -0.01}, "kelvin_per_count"),
        ],
    )
    def test_settings_that_make_no_sense(self, fields, words):
        with pytest.raises(ThermalError, match=words):
            ThermalContract(**fields)

    @pytest.mark.parametrize(
        ("frame", "words"),
        [
            (np.zeros((4, 4, 3), np.uint8), r"\[H, W\]"),
            (np.zeros((0, 4), np.uint8), r"\[H, W\]"),
            (np.zeros((4, 4), np.float32), "float32"),
            (np.zeros((4, 4), np.int16), "int16"),
        ],
    )
    def test_frames_that_are_no_counts(self, frame, words):
        with pytest.raises(ThermalError, match=words):
            ThermalNormaliser(ThermalContract())(frame)

    @pytest.mark.parametrize(("model", "topic"), [(8, np.uint16), (16, np.uint8)])
    def test_a_depth_that_the_model_was_not_made_for_names_both_and_the_remedy(self, model, topic):
        with pytest.raises(ThermalError, match=f"needs {model}-bit.*are {24 - model}-bit.*camera") as caught:
            ThermalNormaliser(ThermalContract(depths=(model,)))(np.zeros((4, 4), topic))
        assert "percentile" in str(caught.value)


@pytest.mark.parametrize(
    ("contract", "words"),
    [
        (ThermalContract(), "percentile 1 to 99, 8-bit or 16-bit"),
        (ThermalContract(kind="none", depths=(8,)), "none, 8-bit"),
        (ThermalContract(kind="fixed", low=0, high=255, depths=(8,)), "fixed 0 to 255 counts, 8-bit"),
        (
            ThermalContract(kind="fixed", low=263.15, high=323.15, kelvin_per_count=0.04, depths=(16,)),
            "fixed 263.15 to 323.15 K at 0.04 K per count, 16-bit",
        ),
    ],
)
def test_a_contract_in_words(contract, words):
    assert contract.describe() == words


class TestStorage:
    @pytest.mark.parametrize(
        "contract",
        [
            ThermalContract(),
            ThermalContract(kind="fixed", low=250, high=350, kelvin_per_count=0.04, depths=(16,)),
            ThermalContract(kind="none", depths=(8,), smoothing=0.5),
        ],
    )
    def test_round_trip_through_json(self, contract):
        assert ThermalContract.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract

    @pytest.mark.parametrize(
        "data",
        [{"gain": 2}, {"kind": "auto"}, {"low": "a"}, {"depths": 8}, {"depths": [[8]]}, {"smoothing": None}, [], None],
    )
    def test_a_damaged_contract_is_a_thermal_error(self, data):
        with pytest.raises(ThermalError):
            ThermalContract.from_dict(data)


@settings(deadline=None)
@given(
    frame=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=30), fill=st.nothing()
    ),
    spread=st.sampled_from([1, 7, 255]),
    low=st.floats(0, 49),
    high=st.floats(51, 100),
    masked=st.booleans(),
    threads=st.sampled_from([1, 2]),
)
def test_percentiles_are_the_sorted_counts_own(frame, spread, low, high, masked, threads):
    """Nearest rank, for any range of counts and any method, which depends on OpenCV's threads."""
    usual = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        check_percentiles(frame, spread, low, high, masked)
    finally:
        cv2.setNumThreads(usual)


def check_percentiles(frame, spread, low, high, masked):
    frame = (frame // spread).astype(frame.dtype)
    valid = np.random.default_rng(0).random(frame.shape) < 0.5 if masked else None
    normaliser = ThermalNormaliser(ThermalContract(low=low, high=high, min_span=1e-3))
    normaliser(frame, valid)
    seen = np.sort(frame.ravel() if valid is None else frame[valid])
    if not len(seen):
        assert normaliser.range is None
        return
    ends = [float(seen[max(1, math.ceil(len(seen) * percent / 100)) - 1]) for percent in (low, high)]
    if ends[0] == ends[1]:
        ends = [ends[0] - 5e-4, ends[0] + 5e-4]
    assert normaliser.range == pytest.approx(tuple(ends), abs=1e-9)


class TestInvalidCounts:
    def test_a_contract_of_before_recognises_them_and_is_written_as_before(self):
        stored = {"kind": "percentile", "low": 1.0, "high": 99.0, "depths": [8, 16]}
        contract = ThermalContract.from_dict(stored)
        assert (contract.invalid_counts, contract.recognise_invalid) == ((), True)
        assert not {"invalid_counts", "recognise_invalid"} & set(contract.to_dict())

    def test_other_rules_travel_in_the_model_file_and_are_described(self):
        contract = ThermalContract(invalid_counts=(0, 4095), recognise_invalid=False)
        again = ThermalContract.from_dict(json.loads(json.dumps(contract.to_dict())))
        assert again == contract
        assert contract.describe().endswith("invalid counts 0, 4095, no others recognised")

    @pytest.mark.parametrize(
        "fields",
        [{"invalid_counts": [-1]}, {"invalid_counts": [65536]}, {"invalid_counts": ["0"]}, {"invalid_counts": [0.5]},
         {"invalid_counts": 0}, {"invalid_counts": [True]}, {"recognise_invalid": "no"}, {"recognise_invalid": 1}],
    )  # fmt: skip
    def test_rules_that_make_no_sense_are_refused(self, fields):
        with pytest.raises(ThermalError):
            ThermalContract.from_dict({"kind": "percentile"} | fields)


def test_a_range_over_some_pixels_is_that_of_a_frame_of_them():
    rng = np.random.default_rng(0)
    frame = rng.normal(9_000, 300, (40, 50)).astype(np.uint16)
    for fraction in (0.0, 0.3, 0.9):
        valid = rng.random(frame.shape) >= fraction
        damaged = np.where(valid, frame, rng.choice(np.array([0, 9_000, 65_535], np.uint16), frame.shape))
        masked, alone = (ThermalNormaliser(ThermalContract()) for _ in range(2))
        got = masked(damaged, valid)
        alone(frame[valid][None])
        assert masked.range == alone.range
        assert (got[~valid] == 0).all()
