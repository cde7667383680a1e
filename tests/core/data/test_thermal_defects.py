"""Injected defects have the requested strength, change nothing else and leave the input unmodified."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.data.thermal_defects import (
    add_border,
    add_clusters,
    add_dead_lines,
    add_dead_pixels,
    add_telemetry_rows,
    random_defects,
)
from tests.examples import examples

FRAME = np.full((512, 640), 30_000, np.uint16)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_dead_pixels_have_their_fraction_and_values(rng):
    out = add_dead_pixels(FRAME, 0.02, rng, (0, 65535))
    assert (out == 0).mean() == pytest.approx(0.01, rel=0.1)
    assert (out == 65535).mean() == pytest.approx(0.01, rel=0.1)
    assert set(np.unique(out)) == {0, 30_000, 65535}
    assert (FRAME == 30_000).all()


def test_clusters_cover_about_their_fraction(rng):
    out = add_clusters(FRAME, 0.01, rng, (16383,), side=5)
    assert (out == 16383).mean() == pytest.approx(0.01, rel=0.5)


def test_dead_lines_are_whole_lines(rng):
    out = add_dead_lines(FRAME, rng, rows=2, columns=3, value=7)
    assert ((out == 7).all(axis=1).sum(), (out == 7).all(axis=0).sum()) == (2, 3)


@pytest.mark.parametrize("sides", [("left",), ("top", "bottom"), ("top", "left"), ("top", "bottom", "left", "right")])
def test_a_border_covers_its_fraction(sides):
    assert (add_border(FRAME, 0.05, 0, sides) == 0).mean() == pytest.approx(0.05, abs=0.002)
    skewed = add_border(FRAME, 0.05, 0, sides, skew=0.8) == 0
    assert skewed.mean() == pytest.approx(0.05, abs=0.02)
    assert not skewed[100:-100, 100:-100].any()


def test_telemetry_takes_the_first_or_last_rows(rng):
    for bottom in (False, True):
        changed = (add_telemetry_rows(FRAME, 2, rng, bottom) != FRAME).any(axis=1)
        assert changed.sum() == 2
        assert changed[-2:].all() == bottom


@pytest.mark.parametrize("shape", [(1, 1), (9, 7), (60, 80), (288, 360)])
def test_random_defects_fit_any_frame_and_repeat_with_their_seed(shape):
    frame = np.full(shape, 30_000, np.uint16)
    for seed in range(examples(200)):
        out = random_defects(frame, np.random.default_rng(seed))
        assert out.shape == shape
        assert out.dtype == np.uint16
        np.testing.assert_array_equal(out, random_defects(frame, np.random.default_rng(seed)))
    assert (frame == 30_000).all()
