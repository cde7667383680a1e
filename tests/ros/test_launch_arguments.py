"""Launch arguments without ROS's launch: all parameters exist, values are parsed, unknown names are refused."""

from __future__ import annotations

import ast
import os

import pytest

from spectradino_core.streams.settings import ParameterError, specs
from spectradino_ros.launch_arguments import (
    arguments,
    dds_profile,
    parameter_file,
    parameter_values,
    refuse_unknown,
    remappings,
)
from spectradino_ros.shared_files import find_shared
from tests.ros.documents import python_blocks

NAMES = [argument.name for argument in arguments()]


def given(**texts: str) -> dict[str, str]:
    return {argument.name: argument.default for argument in arguments()} | texts


def test_every_parameter_is_an_argument_with_its_own_words():
    by_name = {argument.name: argument for argument in arguments()}
    assert len(by_name) == len(arguments()), "each name once"
    for spec in specs().values():
        argument = by_name[spec.name]
        assert argument.description.startswith(spec.description)
        assert argument.default == "", "or the parameter file would be overridden"
        if spec.choices:
            assert set(argument.choices) == {"", *spec.choices}
        if spec.kind is bool:
            assert {"", "true", "false", "True", "False"} == set(argument.choices)


def test_nothing_given_sets_nothing():
    assert parameter_values(given()) == {}


def example(spec) -> tuple[str, object]:
    """Return a text and the value that it represents, other than the default."""
    if spec.kind is bool:
        return ("False", False) if spec.default else ("true", True)
    if spec.kind is tuple:
        numbers = [float(i + 1) for i in range(spec.lengths[-1])]
        return f"[{', '.join(map(str, numbers))}]", numbers
    if spec.choices:
        return spec.choices[-1], spec.choices[-1]
    if spec.name == "class_thresholds":
        return "person:0.3,car:0.5", "person:0.3,car:0.5"
    if spec.kind is str:
        return "/some/file", "/some/file"
    value = spec.kind(spec.high)
    return str(value), value


@pytest.mark.parametrize("name", specs())
def test_a_value_of_every_parameter_is_read(name):
    text, value = example(specs()[name])
    values = parameter_values(given(**{name: text}))
    assert values == {name: value}
    assert type(values[name]) is type(value)


def test_general_arguments_set_parameters_and_special_ones_win():
    assert parameter_values(given(use_sim_time="True")) == {"use_sim_time": True}
    assert parameter_values(given(image_transport="compressed", ir_transport="raw")) == {
        "rgb_transport": "compressed",
        "ir_transport": "raw",
    }


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("score_threshold", "7", "parameter 'score_threshold' must be in -1 to 1, got 7"),
        ("sync_slop_ms", "wide", "launch argument 'sync_slop_ms' can't be read: 'wide'"),
        ("stale_ms", "nan", "must be finite"),
        ("threads", "2.5", "launch argument 'threads' can't be read: '2.5'"),
        ("ir_to_rgb", "1, 2, 3", "must be a list of 9 numbers, got 3"),
        ("ir_to_rgb", "[one]", "launch argument 'ir_to_rgb' can't be read"),
        ("extrinsic_translation", "0 0 inf", "all finite"),
    ],
)
def test_a_text_that_is_no_value_is_refused(name, text, complaint):
    with pytest.raises(ParameterError, match=complaint):
        parameter_values(given(**{name: text}))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("learn_ir_time_ofset", "did you mean 'learn_ir_time_offset'?"),
        ("rgb_topik", "did you mean 'rgb_topic'?"),
        ("param_file", "did you mean 'params_file'?"),
        ("qos_overrides./rgb/image_raw.subscription.depth", "set it in the parameter file (params_file)"),
        ("zzz", "known are namespace, "),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, hint):
    with pytest.raises(ParameterError) as refused:
        refuse_unknown(["model", name], NAMES)
    assert str(refused.value).startswith(f"launch argument '{name}' is unknown: {hint}")


def test_known_names_and_those_of_launch_itself_pass():
    refuse_unknown([*NAMES, "launch-prefix", "launch-prefix-filter"], NAMES)


def test_the_parameter_file_must_be_there_and_be_meant_for_the_node(tmp_path):
    assert parameter_file("", "robot") == find_shared("config/detector.yaml")
    for text, complaint in ((f"{tmp_path}/no.yaml", "there is no such file"), (str(tmp_path), "it is a folder")):
        with pytest.raises(ParameterError, match=f"launch argument 'params_file' is '{text}': {complaint}"):
            parameter_file(text, "")
    file = tmp_path / "mine.yaml"
    for name, namespace in [
        ("/**", "robot"),
        ("detector_node", ""),
        ("/robot/detector_node", "robot"),
        ("/a/*/detector_node", "/a/b"),
    ]:
        file.write_text(f"{name}:\n  ros__parameters:\n    device: cpu\n")
        assert parameter_file(str(file), namespace) == file
    for name, namespace, node in [
        ("detector", "", "/detector_node"),
        ("detector_node", "robot", "/robot/detector_node"),
        ("/robot/detector_node", "", "/detector_node"),
    ]:
        file.write_text(f"{name}:\n  ros__parameters:\n    device: cpu\n")
        with pytest.raises(ParameterError, match=f"has no block for {node}, only for /"):
            parameter_file(str(file), namespace)
    file.write_text("device: cpu\n")
    with pytest.raises(ParameterError, match="has no parameters"):
        parameter_file(str(file), "")


def hostile_paths(folder) -> dict[str, str]:
    """Invalid paths and their errors."""
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    return {
        f"{folder}/pipe": "is a named pipe",
        f"{folder}/loop": "can't be read: Too many levels of symbolic links",
        f"{folder}/dangling": "is a link to nowhere, which does not exist",
        "/dev/zero": "is a device",
        "~nosuchuser/rig.yaml": "there is no",
        "x" * 5000: "there is no",
    }


@pytest.mark.parametrize("read", [lambda text: parameter_file(text, ""), dds_profile], ids=["params", "dds"])
def test_a_path_that_is_no_file_is_called_what_it_is(tmp_path, read):
    for text, said in hostile_paths(tmp_path).items():
        with pytest.raises(ParameterError) as caught:
            read(text)
        assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "a b", "/a/", "//x", "a//b", "1abc", "ü", "~", "a:=b", "\x1b[31m", "/"])
def test_what_is_no_name_in_ros_is_refused_before_the_node_starts(text):
    for name in ("rgb_topic", "ir_topic", "rgb_info_topic", "namespace"):
        if text in ("", "/") and name in ("rgb_info_topic", "namespace"):
            continue
        with pytest.raises(
            ParameterError, match=f"launch argument '{name}' is .*not a valid ROS name.*as in /front"
        ) as caught:
            remappings(given(**{name: text}))
        assert "\x1b" not in str(caught.value)
    for text in ("/a/b_1", "a", "~/a", "{node}/a", "_x"):
        assert remappings(given(rgb_topic=text))[0][1] == text


def test_topics_and_their_camera_info():
    assert dict(remappings(given(rgb_topic="/cam/color", ir_info_topic="/calibration"))) == {
        "rgb/image_raw": "/cam/color",
        "rgb/camera_info": "/cam/camera_info",
        "ir/image_raw": "ir/image_raw",
        "ir/camera_info": "/calibration",
    }


def test_the_profile_is_the_shipped_one_or_a_file(tmp_path):
    assert dds_profile("large_images").name == "fastdds_large_images.xml"
    with pytest.raises(ParameterError, match="there is no file nowhere.xml; give large_images"):
        dds_profile("nowhere.xml")


def test_the_documentation_shows_a_launch_file_for_each_way_of_managing(repository):
    """Their effect is tested in test_launch.py, if ROS's launch is installed; here that they can be parsed."""
    blocks = python_blocks(repository / "docs/node.md")
    assert len(blocks) == 3
    for block in blocks:
        tree = ast.parse(block)
        dictionaries = [ast.literal_eval(node) for node in ast.walk(tree) if isinstance(node, ast.Dict)]
        (nav2,) = [d for d in dictionaries if "bond_timeout" in d] or [None]
        if nav2 is not None:
            assert nav2 == {"autostart": True, "node_names": ["detector_node"], "bond_timeout": 0.0}
        for given in (d for d in dictionaries if d is not nav2):
            refuse_unknown(given, NAMES)
    assert sum("nav2_lifecycle_manager" in block for block in blocks) == 1
