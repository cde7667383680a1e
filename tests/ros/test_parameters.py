"""Table of parameters: values are checked with reasons, the shipped file holds the defaults."""

from __future__ import annotations

import array

import pytest
import yaml

from spectradino_core.streams.parameter_values import check
from spectradino_core.streams.settings import ParameterError, Settings, specs
from spectradino_core.thermal import ThermalContract
from spectradino_ros.parameters import unknown_overrides
from spectradino_ros.shared_files import find_shared
from tests.blob_model import blob_info


def test_every_default_passes_its_own_check():
    for name, spec in specs().items():
        assert check(name, spec.default) == spec.default


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("score_threshold", 1.01, "must be in -1 to 1"),
        ("score_threshold", -0.01, "or -1 for the model's own"),
        ("score_threshold", float("nan"), "must be finite"),
        ("score_threshold", True, "must be a floating-point number"),
        ("sync_slop_ms", -1.0, "must be in 0 to 10000"),
        ("sync_slop_ms", "50", "must be a floating-point number, got '50'"),
        ("threads", 2.0, "must be an integer"),
        ("threads", -1, "must be in 0 to 256"),
        ("infrared_band", "mwir", 'must be one of "", lwir, swir, nir'),
        ("rgb_transport", "theora", "must be one of raw, compressed"),
        ("device", "gpu", "must be one of auto, cpu, cuda, tensorrt"),
        ("model", 5, "must be a string"),
        ("publish_overlay", "yes", "must be a boolean"),
        ("ir_normalization", "auto", "must be one of model, percentile, fixed, none"),
        ("ir_range_high", 65536.0, "must be in 0 to 65535"),
        ("thermal_smoothing", 1.0, "must be in 0 to 0.99"),
        ("ir_to_rgb", [1.0, 0.0], "must be a list of 9 numbers, got 2"),
        ("ir_to_rgb", [1.0, 0.0, 0.0, 0.0, float("nan"), 0.0, 0.0, 0.0, 1.0], "9 numbers, all finite"),
        ("ir_to_rgb", "identity", "must be a list of 9 numbers, got 'identity'"),
        ("extrinsic_rotation", [0.0, 0.0, 1.0], "must be a list of 4 or 9 numbers, got 3"),
        ("extrinsic_translation", [True, False, False], "3 numbers, all finite"),
        ("ir_crop", [0.0, 0.0, 1e308, 2.0], "must be 4 integers in 0 to 65536"),
        ("registration_from_camera_info", 1, "must be a boolean"),
        ("ir_time_offset", 5.0, "is unknown: did you mean 'ir_time_offset_ms'?"),
    ],
)
def test_a_refusal_names_the_allowed_values(name, value, reason):
    with pytest.raises(ParameterError, match=reason.replace("?", r"\?")) as caught:
        check(name, value)
    assert name in str(caught.value)


def test_whole_numbers_are_taken_for_floating_point_parameters():
    value = check("sync_slop_ms", 50)
    assert value == 50.0
    assert type(value) is float


def test_lists_come_as_ros_has_them():
    assert check("extrinsic_translation", array.array("d", [0.5, 0, -1])) == (0.5, 0.0, -1.0)
    assert check("extrinsic_translation", [1, 0, 2]) == (1.0, 0.0, 2.0)


def test_a_calibrated_time_offset_holds_until_another_is_given():
    assert Settings().calibrated(None).ir_time_offset_ms == 0.0
    assert Settings().calibrated(12.5).ir_time_offset_ms == 12.5
    assert Settings(ir_time_offset_ms=-3.0).calibrated(12.5).ir_time_offset_ms == -3.0


def test_the_thermal_contract_is_the_models_unless_overridden():
    info = blob_info(thermal=ThermalContract(smoothing=0.5))
    assert Settings().contract_of(info) == info.thermal
    assert Settings(thermal_smoothing=0.0).contract_of(info).smoothing == 0.0
    assert Settings(thermal_smoothing=0.0).smoothing is None
    fixed = Settings(ir_normalization="fixed", ir_range_low=7000.0, ir_range_high=9000.0).contract_of(info)
    assert (fixed.kind, fixed.low, fixed.high, fixed.depths) == ("fixed", 7000.0, 9000.0, (16,))


def test_the_models_own_threshold_is_used_until_another_is_set():
    info = blob_info(score_threshold=0.37)
    assert Settings().threshold_of(info) == 0.37
    assert Settings(score_threshold=0.0).threshold_of(info) == 0.0


def test_misspelt_names_are_distinguished_from_those_of_ros():
    lines = unknown_overrides(["use_sim_time", "qos_overrides./rgb/image_raw.subscription.depth", "modle", "model"])
    assert lines == ["parameter 'modle' is unknown and has no effect: did you mean 'model'?"]


def test_of_a_file_for_something_else_few_names_are_given_and_the_rest_counted():
    lines = unknown_overrides([f"planner.{n}" for n in range(20_000)])
    assert len(lines) == 11
    assert lines[-1].startswith("19990 more parameters are unknown")


def test_shipped_file_sets_every_parameter_but_those_of_the_launch_file_to_its_default():
    text = find_shared("config/detector.yaml").read_text()
    (values,) = (node["ros__parameters"] for node in yaml.safe_load(text).values())
    assert {n: check(n, value) for n, value in values.items()} == {
        n: spec.default for n, spec in specs().items() if n not in ("autostart", "infrared_band")
    }
