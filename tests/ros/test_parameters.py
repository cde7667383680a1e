"""The table of parameters: values checked with reasons, the shipped file and the README's table in step with it."""

from __future__ import annotations

import json

import pytest
import yaml

from spectradino_ros.parameters import ParameterError, Settings, check, markdown_table, specs, unknown_overrides
from spectradino_ros.shared_files import find_shared
from tests.blob_model import blob_info


def test_every_default_passes_its_own_check():
    for name, spec in specs().items():
        assert check(name, spec.default) == spec.default


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("score_threshold", 1.01, "lies in -1 to 1"),
        ("score_threshold", -0.01, "or is -1 for the model's own"),
        ("score_threshold", float("nan"), "must be finite"),
        ("score_threshold", True, "is a floating-point number"),
        ("sync_slop_ms", 0.0, "lies in 0.1 to 10000"),
        ("sync_slop_ms", "50", "is a floating-point number, got '50'"),
        ("threads", 2.0, "is a whole number"),
        ("threads", -1, "lies in 0 to 256"),
        ("infrared_band", "mwir", 'is one of "", lwir, swir, nir'),
        ("rgb_transport", "theora", "is one of raw, compressed"),
        ("device", "gpu", "is one of auto, cpu, cuda, tensorrt"),
        ("model", 5, "is a text"),
        ("publish_overlay", "yes", "is a truth value"),
        ("ir_time_offset", 5.0, "is unknown: did you mean 'ir_time_offset_ms'?"),
    ],
)
def test_a_refusal_says_what_is_allowed(name, value, reason):
    with pytest.raises(ParameterError, match=reason.replace("?", r"\?")) as caught:
        check(name, value)
    assert name in str(caught.value)


def test_whole_numbers_are_taken_for_floating_point_parameters():
    value = check("sync_slop_ms", 50)
    assert value == 50.0
    assert type(value) is float


def test_the_models_own_threshold_holds_until_another_is_asked_for():
    info = blob_info(score_threshold=0.37)
    assert Settings().threshold_of(info) == 0.37
    assert Settings(score_threshold=0.0).threshold_of(info) == 0.0


def test_misspelt_names_are_told_from_ros_own():
    told = unknown_overrides(["use_sim_time", "qos_overrides./rgb/image_raw.subscription.depth", "modle", "model"])
    assert told == ["parameter 'modle' is unknown and has no effect: did you mean 'model'?"]


@pytest.mark.parametrize("band", ["lwir", "swir", "nir"])
def test_the_shipped_files_set_known_parameters_to_their_defaults_and_the_band(band):
    (values,) = (
        node["ros__parameters"]
        for node in yaml.safe_load(find_shared(f"config/{band}_detector.yaml").read_text()).values()
    )
    assert values.pop("infrared_band") == band
    assert values == {n: spec.default for n, spec in specs().items() if n not in ("autostart", "infrared_band")}


def test_the_table_has_a_row_for_each():
    rows = markdown_table().splitlines()
    assert len(rows) == 2 + len(specs())
    for row, spec in zip(rows[2:], specs().values(), strict=True):
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert cells[0] == f"`{spec.name}`"
        assert cells[2] == f"`{json.dumps(spec.default)}`"
        assert cells[5] == spec.description
