"""Description in a model file: round trip through JSON, and refusal of every kind of damage with its name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.modality import Modality
from spectradino_core.runtime.bundle import FORMAT, BundleError, ModelInfo
from spectradino_core.thermal import ThermalContract
from tests.examples import examples

INFO = ModelInfo(
    name="box",
    variant="tiny",
    bands=(Modality.RGB, Modality.LWIR),
    box_classes=("person", "bicycle", "car"),
    mask_classes=("road", "sky"),
    palette=((128, 64, 128), (70, 130, 180)),
    input_size=(322, 238),
    thermal=ThermalContract(kind="fixed", low=250, high=350, kelvin_per_count=0.01, depths=(16,)),
    provenance={"recipe": "box", "seed": 7, "data": ["scenes", "roadscene"]},
    parity={"boxes": 1e-5},
)


def stored(**changes: object) -> str:
    """Return the stored text with some fields changed; None removes one."""
    data = json.loads(INFO.to_json()) | changes
    return json.dumps({key: value for key, value in data.items() if value != "removed"})


@pytest.mark.parametrize("band", [Modality.NIR, Modality.SWIR, Modality.LWIR])
def test_round_trip(band):
    info = INFO.with_(bands=(Modality.RGB, band))
    assert ModelInfo.from_json(info.to_json(), "m.onnx") == info
    assert info.infrared is band


def test_the_text_is_the_same_each_time():
    assert INFO.to_json() == ModelInfo.from_json(INFO.to_json(), "m.onnx").to_json()


@pytest.mark.parametrize("lacking", [{"mask_classes": (), "palette": ()}, {"box_classes": ()}], ids=["mask", "boxes"])
def test_a_model_with_one_head_only(lacking):
    info = INFO.with_(**lacking)
    assert ModelInfo.from_json(info.to_json(), "m.onnx") == info


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bands": (Modality.LWIR, Modality.RGB)}, "bands"),
        ({"bands": (Modality.RGB, Modality.RGB)}, "bands"),
        ({"bands": (Modality.RGB,)}, "bands"),
        ({"box_classes": (), "mask_classes": (), "palette": ()}, "neither detection classes nor mask classes"),
        ({"box_classes": ("person", "")}, "no name"),
        ({"palette": ()}, "palette"),
        ({"mask_classes": tuple(map(str, range(256))), "palette": ((0, 0, 0),) * 256}, "256 mask classes"),
        ({"input_size": (320, 238)}, "320"),
        ({"input_size": (0, 14)}, "0"),
        ({"score_threshold": 1.5}, "score_threshold"),
        ({"nms_iou": float("nan")}, "nms_iou"),
        ({"max_detections": 0}, "max_detections"),
        ({"max_detections": 2.5}, "max_detections"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(changes, words):
    with pytest.raises(BundleError, match=words):
        INFO.with_(**changes)


def test_several_faults_are_reported_together():
    with pytest.raises(BundleError, match=r"1 palette colours for 2 mask classes; .*nms_iou"):
        INFO.with_(palette=((1, 2, 3),), nms_iou=2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '"text"',
        "7",
        "{}",
        "[" * 100_000,
        INFO.to_json()[:-20],
        stored(format="removed"),
        stored(bands="removed"),
        stored(thermal="removed"),
        stored(bands=["rgb", "xray"]),
        stored(bands=[["rgb"], 1]),
        stored(box_classes="person"),
        stored(box_classes=[1, 2]),
        stored(box_classes=None),
        stored(palette=[[1, 2], [3, 4]]),
        stored(palette=["red", "blue"]),
        stored(palette=[[1e999, 0, 0], [0, 0, 0]]),
        stored(input_size=[322]),
        stored(input_size=["a", "b"]),
        stored(strides=3),
        stored(thermal=[]),
        stored(thermal=None),
        stored(thermal={"kind": "fixed"}),
        stored(thermal={"gamma": 2}),
        stored(score_threshold="high"),
        stored(name="removed"),
        stored(colour="green"),
    ],
)
def test_damage_is_a_bundle_error_that_names_the_file(text):
    with pytest.raises(BundleError, match=r"models/box\.onnx"):
        ModelInfo.from_json(text, "models/box.onnx")


@pytest.mark.parametrize("version", [FORMAT + 1, 0, "1", None, []])
def test_another_format_is_refused_with_both_numbers(version):
    with pytest.raises(BundleError, match=rf"m\.onnx: format .*reads formats up to {FORMAT}"):
        ModelInfo.from_json(stored(format=version), "m.onnx")


def test_older_software_reads_what_it_can_and_refuses_the_rest():
    """Format 1 has no input form and is unchanged; raw inputs have format 2."""
    old = json.loads(INFO.to_json())
    assert (old["format"], "inputs" in old) == (1, False)
    raw = INFO.with_(inputs="raw")
    assert json.loads(raw.to_json())["format"] == 2
    assert ModelInfo.from_json(raw.to_json(), "m.onnx") == raw != INFO
    for changes in ({"inputs": "raw"}, {"format": 2}, {"inputs": "cooked"}, {"inputs": ["raw"]}, {"inputs": None}):
        with pytest.raises(BundleError, match=r"m\.onnx: .*inputs"):
            ModelInfo.from_json(stored(**changes), "m.onnx")


def test_graphs_of_one_stream_are_of_a_format_of_their_own():
    """Versions that know only models of both streams refuse format 3."""
    for inputs in ("raw", "normalised"):
        alone = INFO.with_(inputs=inputs, streams="ir")
        fields = json.loads(alone.to_json())
        assert (fields["format"], fields["inputs"], fields["streams"]) == (3, inputs, "ir")
        assert ModelInfo.from_json(alone.to_json(), "m.onnx") == alone
        assert "streams" not in json.loads(INFO.with_(inputs=inputs).to_json())
    for changes in ({"streams": "ir"}, {"format": 3}, {"format": 3, "streams": "none"}):
        with pytest.raises(BundleError, match=r"m\.onnx: .*(streams|inputs)"):
            ModelInfo.from_json(stored(**changes), "m.onnx")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=6,
)


@settings(max_examples=examples(300), deadline=None)
@given(st.sampled_from(sorted(json.loads(INFO.to_json()))), values)
def test_any_value_in_any_field_is_a_description_or_a_bundle_error(field, value):
    try:
        info = ModelInfo.from_json(stored(**{field: value}), "m.onnx")
    except BundleError:
        return
    assert isinstance(info, ModelInfo)


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(0, 400), st.integers(0, 255))
def test_one_wrong_character_is_a_description_or_a_bundle_error(at, code):
    text = INFO.to_json()
    at %= len(text)
    try:
        ModelInfo.from_json(text[:at] + chr(code) + text[at + 1 :], "m.onnx")
    except BundleError:
        return
