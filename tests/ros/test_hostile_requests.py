"""No parameter request ends the node; the values that it already has are always accepted."""

from __future__ import annotations

import array
import time

import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from type_description_interfaces.srv import GetTypeDescription

from spectradino_core.streams.settings import specs
from tests.ros.harness import NodeProcess, ir_pixels, rgb_pixels, wait_until
from tests.ros.management import Manager
from tests.ros.rig import Rig

WILD_TEXTS = {
    "empty": "",
    "NUL": "model\0.onnx",
    "escape": "\x1b[31mred\x1b]0;title\x07",
    "newlines": "a\n[FATAL] forged line\n",
    "long": "x" * 1_000_000,
    "unicode": "\U0001f916 \u202e reversed",
}
WILD_NUMBERS = [float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 0.0, -0.0]


def wild_values() -> list[ParameterValue]:
    kind = ParameterType
    values = [ParameterValue(type=number) for number in (*range(12), 127, 128, 255)]  # 10 and more are no types
    values += [ParameterValue(type=kind.PARAMETER_STRING, string_value=text) for text in WILD_TEXTS.values()]
    values += [ParameterValue(type=kind.PARAMETER_DOUBLE, double_value=number) for number in WILD_NUMBERS]
    values += [
        ParameterValue(type=kind.PARAMETER_INTEGER, integer_value=number) for number in (-(2**63), 2**63 - 1, -1)
    ]
    big = 200_000
    values += [
        ParameterValue(type=kind.PARAMETER_DOUBLE_ARRAY, double_array_value=array.array("d", [1.0]) * big),
        ParameterValue(type=kind.PARAMETER_DOUBLE_ARRAY, double_array_value=WILD_NUMBERS + [1.0, 1.0]),
        ParameterValue(type=kind.PARAMETER_STRING_ARRAY, string_array_value=["\0"] * 1000),
        ParameterValue(type=kind.PARAMETER_BYTE_ARRAY, byte_array_value=[b"\xff"] * 1000),
        ParameterValue(type=kind.PARAMETER_BOOL_ARRAY, bool_array_value=[True] * 1000),
        ParameterValue(type=kind.PARAMETER_INTEGER_ARRAY, integer_array_value=array.array("q", [2**62]) * big),
    ]
    return values


@pytest.fixture(scope="module")
def node(blob_model, peer):
    """A node that gives results for a pair of frames before and after all tests, without much growth."""
    rig = Rig(peer, "hostile")
    node = NodeProcess("-r", "__ns:=/hostile", model=blob_model, device="cpu", threads=1)
    node.wait_for_line("active: pairs from")
    rig.wait_for_node()
    frames = rgb_pixels((160, 120), (40, 40, 80, 80)), ir_pixels((160, 120), (40, 40, 80, 80))
    before, _ = rig.answer_to(*frames)
    assert before.detections
    memory_mb = node.rss_mb()
    yield node
    assert node.running, node.log
    after, _ = rig.answer_to(*frames)
    assert len(after.detections) == len(before.detections)
    assert node.rss_mb() < memory_mb + 60
    assert node.stop() == 0, node.log
    assert "Traceback" not in node.log
    assert "\x1b[31mred" not in node.log


@pytest.fixture
def manager(node, peer):
    manager = Manager(peer, node, "/hostile/detector_node")
    yield manager
    assert manager.state() == "active"


@pytest.mark.parametrize(
    "name",
    [
        "model",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("ir_to_rgb", "score_threshold", "threads", "autostart", "use_sim_time")
        ),
    ],
)
def test_no_value_ends_it(manager, name):
    request = SetParameters.Request(parameters=[Parameter(name=name, value=value) for value in wild_values()])
    answer = manager.peer.call(SetParameters, f"{manager.name}/set_parameters", request)
    assert len(answer.results) == len(request.parameters)
    assert all(result.reason for result in answer.results if not result.successful)
    assert max(len(result.reason) for result in answer.results) < 1000
    for value in wild_values():
        request = SetParametersAtomically.Request(parameters=[Parameter(name=name, value=value)])
        result = manager.peer.call(SetParametersAtomically, f"{manager.name}/set_parameters_atomically", request).result
        assert result.successful or 0 < len(result.reason) < 1000


@pytest.mark.parametrize("name", [*WILD_TEXTS.values(), "score_treshold", "qos_overrides./x.subscription.depth"])
def test_no_name_ends_it(manager, name):
    value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=0.5)
    for kind, service in ((SetParameters, "set_parameters"), (SetParametersAtomically, "set_parameters_atomically")):
        answer = manager.peer.call(
            kind, f"{manager.name}/{service}", kind.Request(parameters=[Parameter(name=name, value=value)] * 3)
        )
        results = answer.results if kind is SetParameters else [answer.result]
        assert not any(result.successful for result in results)
        # On the wire a name ends before a NUL, where that of a parameter may be left.
        complaint = "got 0.5" if name.startswith("model\0") else "is unknown"
        assert all(complaint in result.reason and len(result.reason) < 2000 for result in results)
    for kind, service in (
        (GetParameters, "get_parameters"),
        (GetParameterTypes, "get_parameter_types"),
        (DescribeParameters, "describe_parameters"),
    ):
        manager.peer.call(kind, f"{manager.name}/{service}", kind.Request(names=[name, "model"]))
    request = ListParameters.Request(prefixes=[name], depth=2**63)
    manager.peer.call(ListParameters, f"{manager.name}/list_parameters", request)
    request = GetTypeDescription.Request(type_name=name, type_hash=name[:100])
    manager.peer.call(GetTypeDescription, f"{manager.name}/get_type_description", request)


def test_a_name_with_a_typing_error_gets_the_right_one(manager):
    assert manager.set("score_treshold", 0.5) == (
        False,
        "parameter 'score_treshold' is unknown: did you mean 'score_threshold'?",
    )


@pytest.mark.slow  # a node; the names above cover requests
def test_no_parameter_can_be_deleted(manager):
    for name in specs():
        request = SetParameters.Request(parameters=[Parameter(name=name)])
        result = manager.peer.call(SetParameters, f"{manager.name}/set_parameters", request).results[0]
        assert not result.successful
        assert result.reason


def test_one_bad_parameter_of_many_costs_only_itself(manager):
    parameters = [
        Parameter(name="score_threshold", value=ParameterValue(type=3, double_value=0.25)),
        Parameter(name="stale_ms", value=ParameterValue(type=99)),
        Parameter(name="sync_slop_ms", value=ParameterValue(type=3, double_value=31.0)),
    ]
    request = SetParameters.Request(parameters=parameters)
    answer = manager.peer.call(SetParameters, f"{manager.name}/set_parameters", request)
    assert [result.successful for result in answer.results] == [True, False, True]
    request = SetParametersAtomically.Request(parameters=parameters)
    result = manager.peer.call(SetParametersAtomically, f"{manager.name}/set_parameters_atomically", request).result
    assert not result.successful
    assert "99 is not a valid" in result.reason


def test_a_request_of_thousands_of_parameters_is_refused_while_frames_come(manager):
    """Each parameter takes milliseconds, in which no frame is taken: 2,000 of them took 18 s."""
    value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=0.3)
    many = [Parameter(name=f"score_threshold_{n}", value=value) for n in range(5000)]
    said = "5000 parameters, more than the maximum of 256"
    begun = time.monotonic()
    answer = manager.peer.call(SetParameters, f"{manager.name}/set_parameters", SetParameters.Request(parameters=many))
    assert len(answer.results) == len(many)
    assert all(not result.successful and said in result.reason for result in answer.results)
    request = SetParametersAtomically.Request(parameters=many)
    result = manager.peer.call(SetParametersAtomically, f"{manager.name}/set_parameters_atomically", request).result
    assert not result.successful
    assert said in result.reason
    for kind, service in ((GetParameters, "get_parameters"), (DescribeParameters, "describe_parameters")):
        manager.peer.call(kind, f"{manager.name}/{service}", kind.Request(names=["model"] * 50_000))
    request = ListParameters.Request(prefixes=["a"] * 50_000)
    manager.peer.call(ListParameters, f"{manager.name}/list_parameters", request)
    assert time.monotonic() - begun < 5.0
    for service in ("set_parameters", "get_parameters", "list_parameters"):
        line = manager.process.wait_for_line(rf"\[WARN\].*refused a request to {service}: ")
        assert "; split it" in line


def test_what_it_has_can_be_given_again(manager):
    """`ros2 param load` of an unchanged `ros2 param dump`: every listed parameter, one by one."""
    listed = manager.peer.call(ListParameters, f"{manager.name}/list_parameters", ListParameters.Request())
    names = listed.result.names
    assert set(specs()) < set(names)
    values = manager.peer.call(GetParameters, f"{manager.name}/get_parameters", GetParameters.Request(names=names))
    parameters = [Parameter(name=name, value=value) for name, value in zip(names, values.values)]
    request = SetParameters.Request(parameters=parameters)
    answer = manager.peer.call(SetParameters, f"{manager.name}/set_parameters", request)
    assert [(n, r.reason) for n, r in zip(names, answer.results) if not r.successful] == []
    request = SetParametersAtomically.Request(parameters=parameters)
    result = manager.peer.call(SetParametersAtomically, f"{manager.name}/set_parameters_atomically", request).result
    assert result.successful, result.reason


def test_equal_values_of_another_type_are_equal_and_others_are_not(manager):
    assert manager.set("plane_distance_m", 10) == (True, "")
    assert manager.set("autostart", True) == (True, "")
    for name, value in (("autostart", False), ("plane_distance_m", 11.0), ("threads", True), ("images_rectified", 0)):
        assert not manager.set(name, value)[0], name


def test_a_refusal_names_the_transitions_that_the_present_state_allows(blob_model, peer):
    name = "/advice/detector_node"
    node = NodeProcess("-r", "__ns:=/advice", model=blob_model, device="cpu", threads=1)
    try:
        node.wait_for_line("active: pairs from")
        manager = Manager(peer, node, name)
        steps = {"deactivate": 4, "cleanup": 2}
        for state in ("active", "inactive"):
            assert manager.state() == state
            good, reason = manager.set("model", "other.onnx")
            assert not good
            advised = reason.partition("first run '")[2].rstrip("'").split(" && ")
            assert [words.rpartition(" ")[0] for words in advised] == [f"ros2 lifecycle set {name}"] * len(advised)
            named = [words.rpartition(" ")[2] for words in advised]
            assert named == (["deactivate", "cleanup"] if state == "active" else ["cleanup"])
            assert manager.change(steps[named[0]])
        assert manager.set("model", "other.onnx") == (True, "")
    finally:
        assert node.stop() == 0, node.log


def test_many_requests_do_not_slow_it(manager):
    """Half a second of refusals: it still gives results at once, and logged one line."""
    end, count = time.monotonic() + 0.5, manager.process.count("refused the transition")
    while time.monotonic() < end:
        manager.change(1)
    assert manager.process.count("refused the transition") - count <= 1
    wait_until(lambda: manager.state() == "active", "the state", 1.0)
