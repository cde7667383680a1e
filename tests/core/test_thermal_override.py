"""Overrides of a model's thermal contract by the user, and refused contradictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spectradino_core.thermal import (
    NORMALIZATIONS,
    ThermalContract,
    ThermalError,
    ThermalNormaliser,
    override_contract,
    override_invalid_counts,
)

ANY = ThermalContract()
KELVIN = ThermalContract(kind="fixed", low=263.15, high=323.15, kelvin_per_count=0.04, depths=(16,))
COUNTS = ThermalContract(kind="fixed", low=2000, high=12000, depths=(16,))
EIGHT = ThermalContract(depths=(8,))


@pytest.mark.parametrize("model", [ANY, KELVIN, COUNTS, EIGHT])
def test_the_defaults_do_not_change_the_model(model):
    assert override_contract(model) is model


@pytest.mark.parametrize(
    ("text", "counts", "recognised"),
    [
        ("auto", (), True),
        ("none", (), False),
        ("0", (0,), False),
        ("65535, 0", (0, 65535), False),
        (" auto ,4095,4095", (4095,), True),
    ],
)
def test_invalid_counts_are_read_from_their_parameter(text, counts, recognised):
    for model in (ANY, ThermalContract(invalid_counts=(9,), recognise_invalid=False)):
        found = override_invalid_counts(model, text)
        assert (found.invalid_counts, found.recognise_invalid) == (counts, recognised)
        assert override_invalid_counts(model, "model") is model


@pytest.mark.parametrize("text", ["", "zero", "-1", "65536", "0;1", "0,,1", "model, 0", "none, 0", "1e3", "²"])
def test_invalid_counts_that_are_none_are_refused(text):
    with pytest.raises(ThermalError, match="ir_invalid_counts"):
        override_invalid_counts(ANY, text)


@pytest.mark.parametrize("asked", [("none",), ("percentile", 5, 95), ("fixed", 2000, 12000)])
def test_another_normalisation_keeps_the_models_invalid_counts(asked):
    for model in (KELVIN, ANY):
        model = replace(model, invalid_counts=(7,), recognise_invalid=False)
        found = override_contract(model, *asked)
        assert (found.invalid_counts, found.recognise_invalid) == ((7,), False)


@pytest.mark.parametrize(
    ("model", "asked", "wanted"),
    [
        (ANY, ("percentile", 5, 95), ThermalContract(low=5, high=95)),
        (ThermalContract(low=2, high=98), ("percentile",), ThermalContract(low=2, high=98)),
        (KELVIN, ("percentile",), ThermalContract(depths=(16,))),
        (ANY, ("none",), ThermalContract(kind="none")),
        (EIGHT, ("none",), ThermalContract(kind="none", depths=(8,))),
        (ANY, ("fixed", 2000, 12000), COUNTS),
        (ANY, ("fixed", 10, 200), ThermalContract(kind="fixed", low=10, high=200, depths=(8,))),
        (ANY, ("fixed", 263.15, 323.15, 0.04), KELVIN),
        (COUNTS, ("fixed", 263.15, 323.15, 0.04), KELVIN),
        (COUNTS, ("fixed",), COUNTS),
    ],
)
def test_overridden_contracts(model, asked, wanted):
    assert override_contract(model, *asked) == wanted


@pytest.mark.parametrize("normalization", ["model", "fixed"])
def test_another_cameras_scale_for_a_model_in_kelvin(normalization):
    """Equal temperatures have equal values, whatever the camera's kelvin per count."""
    other = override_contract(KELVIN, normalization, kelvin_per_count=0.01)
    assert (other.low, other.high, other.kelvin_per_count) == (263.15, 323.15, 0.01)
    kelvin = np.array([[270.0, 293.15, 310.0]])
    fine = ThermalNormaliser(other)((kelvin / 0.01).astype(np.uint16))
    coarse = ThermalNormaliser(KELVIN)((kelvin / 0.04).astype(np.uint16))
    np.testing.assert_allclose(fine, coarse, atol=2e-3)


@pytest.mark.parametrize("normalization", ["model", "fixed"])
def test_a_camera_that_does_not_count_from_absolute_zero(normalization):
    """Of a camera with count 0 at -100 Celsius, and 0.1 K per count, equal temperatures look equal as well."""
    other = override_contract(KELVIN, normalization, kelvin_per_count=0.1, celsius_offset=-100.0)
    kelvin = np.array([[270.0, 293.15, 310.0]])
    own = ThermalNormaliser(other)(np.rint((kelvin - 273.15 + 100) / 0.1).astype(np.uint16))
    np.testing.assert_allclose(own, ThermalNormaliser(KELVIN)((kelvin / 0.04).astype(np.uint16)), atol=2e-3)


@pytest.mark.parametrize("model", [ANY, COUNTS, EIGHT])
@pytest.mark.parametrize("normalization", ["model", "none", "percentile"])
def test_the_scale_of_a_camera_leaves_a_range_that_is_not_in_kelvin(model, normalization):
    """It is set for the temperatures of detections."""
    assert override_contract(model, normalization, 0, 0, 0.1, -100.0) == override_contract(model, normalization)


@pytest.mark.parametrize(
    ("model", "asked", "words"),
    [
        (ANY, ("auto",), "ir_normalization .*model, percentile, fixed, none, got 'auto'"),
        (ANY, ("model", 1, 99), "no effect with ir_normalization 'model'.*percentile 1 to 99"),
        (ANY, ("none", 0, 255), "takes no range"),
        (ANY, ("percentile", 5, 120), "0 to 100, got 5 and 120"),
        (ANY, ("percentile", 99, 1), "99 must be below ir_range_high 1"),
        (ANY, ("fixed",), "needs ir_range_low and ir_range_high"),
        (ANY, ("fixed", 5, 5), "must be below"),
        (ANY, ("fixed", float("nan"), 5), "must be below"),
        (ANY, ("fixed", -5, 200), "a 8-bit frame has 0 to 255"),
        (ANY, ("fixed", 0, 70000), "a 16-bit frame has 0 to 65535"),
        (ANY, ("fixed", 263, 900, 0.01), "90000 counts.*ir_kelvin_per_count"),
        (ANY, ("fixed", 263, 323, -0.04), "ir_kelvin_per_count must be above 0"),
        (KELVIN, ("model", 0, 0, 0.001), "263150 to 323150 counts"),
        (EIGHT, ("fixed", 263, 323, 0.04), "needs a 16-bit camera, but the model takes 8-bit"),
        (EIGHT, ("fixed", 0, 4000), "a 8-bit frame has 0 to 255"),
        (ANY, ("model", 0, 0, 0.0, -100.0), "ir_celsius_offset -100 has no effect without ir_kelvin_per_count"),
        (ANY, ("fixed", 163.15, 323.15, 0.1, -100.0), "is -100 to 1500 counts.*ir_celsius_offset"),
    ],
)
def test_what_contradicts_itself_or_the_model_is_refused(model, asked, words):
    with pytest.raises(ThermalError, match=words):
        override_contract(model, *asked)


@pytest.mark.parametrize("normalization", NORMALIZATIONS[1:])
def test_the_depths_stay_the_models(normalization):
    asked = (normalization, 1, 99) if normalization == "fixed" else (normalization,)
    contract = override_contract(EIGHT, *asked)
    with pytest.raises(ThermalError, match="16-bit"):
        ThermalNormaliser(contract)(np.zeros((4, 4), np.uint16))
