"""The node managed from outside: transitions by services, changes of parameters in each state, diagnostics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParametersAtomically
from sensor_msgs.msg import Image
from type_description_interfaces.srv import GetTypeDescription
from vision_msgs.msg import Detection2DArray, LabelInfo

from spectradino_core.streams.settings import specs
from tests.ros.harness import LATCHED, NodeProcess, Peer, image, ir_pixels, rgb_pixels, running, wait_until
from tests.ros.management import Manager

SIZE = (160, 120)


@contextmanager
def managed(peer: Peer, model: Path, namespace: str) -> Iterator[Manager]:
    node = NodeProcess("-r", f"__ns:={namespace}", model=model, device="cpu", threads=1, autostart=False)
    yield Manager(peer, node, f"{namespace}/detector_node")
    assert node.stop() == 0, node.log
    assert "Traceback" not in node.log


@pytest.fixture
def own_manager(peer, blob_model):
    """A node of this test alone, which may shut it down."""
    with managed(peer, blob_model, "/managed") as manager:
        yield manager


@pytest.fixture(scope="module")
def shared_manager(peer, blob_model):
    with managed(peer, blob_model, "/lasting") as manager:
        yield manager


@pytest.fixture
def manager(shared_manager, peer):
    """A node that several tests share: unconfigured, with the parameters that it was started with."""
    names = GetParameters.Request(names=[name for name in specs() if name != "autostart"])
    values = peer.call(GetParameters, f"{shared_manager.name}/get_parameters", names).values
    yield shared_manager
    try:
        for state, step in (("active", "DEACTIVATE"), ("inactive", "CLEANUP")):
            if shared_manager.state() == state:
                assert shared_manager.change(getattr(Transition, f"TRANSITION_{step}"))
    finally:
        before = [Parameter(name=name, value=value) for name, value in zip(names.names, values, strict=True)]
        request = SetParametersAtomically.Request(parameters=before)
        service = f"{shared_manager.name}/set_parameters_atomically"
        assert peer.call(SetParametersAtomically, service, request).result.successful


@pytest.mark.slow  # a node; test_hostile_requests.py covers the guard
def test_remapped_services_are_guarded_too(peer, blob_model):
    services = "change_state get_state get_available_states get_available_transitions get_transition_graph"
    services += " set_parameters set_parameters_atomically get_type_description"
    remapped = [word for name in services.split() for word in ("-r", f"~/{name}:=/moved/{name}_of_mine")]
    with running("-r", "__ns:=/remapped", *remapped, model=blob_model, device="cpu", threads=1) as node:
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
        assert not peer.call(ChangeState, "/moved/change_state_of_mine", request).success
        node.wait_for_line("refused the transition 'configure'")
        state = peer.call(GetState, "/moved/get_state_of_mine", GetState.Request())
        assert state.current_state.label == "active"
        kind = GetAvailableTransitions
        allowed = peer.call(kind, "/moved/get_available_transitions_of_mine", kind.Request()).available_transitions
        graph = peer.call(kind, "/moved/get_transition_graph_of_mine", kind.Request()).available_transitions
        assert {item.transition.label for item in allowed} == {"deactivate", "shutdown"}
        assert len(graph) > len(allowed)
        ask = GetTypeDescription.Request(type_name="forged\nline")
        answer = peer.call(GetTypeDescription, "/moved/get_type_description_of_mine", ask)
        assert "control characters" in answer.failure_reason
        assert node.stop() == 0, node.log
        assert "Traceback" not in node.log


def test_the_whole_life(own_manager, peer):
    def subscribers() -> int:
        return peer.node.count_subscribers("/managed/rgb/image_raw")

    detections = peer.collect(Detection2DArray, "/managed/detector_node/detections")
    cameras = {key: peer.node.create_publisher(Image, f"/managed/{key}/image_raw", 5) for key in ("rgb", "ir")}

    def answered() -> bool:
        before, stamp = len(detections), peer.now()
        cameras["rgb"].publish(image(rgb_pixels(SIZE, None), "rgb8", stamp, "rgb"))
        cameras["ir"].publish(image(ir_pixels(SIZE, (40, 40, 80, 80)), "mono16", stamp, "ir"))
        try:
            return wait_until(lambda: len(detections) > before, "an answer", 0.3)
        except AssertionError:
            return False

    assert own_manager.state() == "unconfigured"
    for _ in range(2):
        assert own_manager.change(Transition.TRANSITION_CONFIGURE)
        assert own_manager.state() == "inactive"
        assert subscribers() == 0
        assert own_manager.change(Transition.TRANSITION_ACTIVATE)
        assert own_manager.state() == "active"
        wait_until(answered, "an answer while active")
        assert own_manager.change(Transition.TRANSITION_DEACTIVATE)
        wait_until(lambda: subscribers() == 0, "the subscriptions' end")
        assert not answered()
        assert own_manager.change(Transition.TRANSITION_ACTIVATE)
        wait_until(answered, "an answer while active again")
        assert own_manager.change(Transition.TRANSITION_DEACTIVATE)
        assert own_manager.change(Transition.TRANSITION_CLEANUP)
        assert own_manager.state() == "unconfigured"
        wait_until(lambda: peer.node.count_publishers("/managed/detector_node/detections") == 0, "the topics' end")
    assert own_manager.change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert own_manager.state() == "finalized"


# slow: the whole life ends with a shutdown while it is unconfigured; from active it has more to end than from inactive.
@pytest.mark.parametrize(
    "state", ["active", *(pytest.param(state, marks=pytest.mark.slow) for state in ("unconfigured", "inactive"))]
)
def test_it_shuts_down_from_any_state(own_manager, peer, state):
    if state != "unconfigured":
        assert own_manager.change(Transition.TRANSITION_CONFIGURE)
    if state == "active":
        assert own_manager.change(Transition.TRANSITION_ACTIVATE)
        wait_until(lambda: peer.node.count_subscribers("/managed/rgb/image_raw"), "the subscriptions")
    assert own_manager.change(getattr(Transition, f"TRANSITION_{state.upper()}_SHUTDOWN"))
    assert own_manager.state() == "finalized"
    wait_until(lambda: peer.node.count_subscribers("/managed/rgb/image_raw") == 0, "the subscriptions' end")
    wait_until(lambda: peer.node.count_publishers("/managed/detector_node/detections") == 0, "the topics' end")


def test_a_failed_configuration_leaves_it_unconfigured_and_can_be_mended(manager, blob_model, tmp_path):
    assert manager.set("model", str(tmp_path / "nowhere.onnx")) == (True, "")
    assert not manager.change(Transition.TRANSITION_CONFIGURE)
    assert manager.state() == "unconfigured"
    manager.process.wait_for_line(r"\[ERROR\].*cannot configure: model file .*nowhere.onnx does not exist")
    assert manager.set("model", str(blob_model)) == (True, "")
    assert manager.change(Transition.TRANSITION_CONFIGURE)
    good, reason = manager.set("model", "other.onnx")
    assert not good
    assert "'model' can't change while the node is inactive" in reason
    assert ": first run 'ros2 lifecycle set /las" in reason


def test_parameters_change_live_and_are_checked(manager, peer):
    assert manager.change(Transition.TRANSITION_CONFIGURE)
    assert manager.change(Transition.TRANSITION_ACTIVATE)
    labels = peer.collect(LabelInfo, f"{manager.name}/label_info", LATCHED)
    wait_until(lambda: labels and labels[-1].threshold == pytest.approx(0.5), "the model's threshold")
    assert manager.set("score_threshold", 0.85) == (True, "")
    wait_until(lambda: labels[-1].threshold == pytest.approx(0.85), "the new threshold in the class names")
    assert manager.set("sync_slop_ms", 30) == (True, ""), "a whole number is as good"
    assert manager.set("fallback_mode", "fused_only") == (True, "")
    for name, value, reason in [
        ("score_threshold", -0.5, "or -1 for the model's own"),
        ("score_threshold", 1.5, "score_threshold"),
        ("sync_slop_ms", -1.0, "sync_slop_ms"),
        ("sync_slop_ms", "wide", "must be a floating-point number"),
        ("fallback_mode", "never", "must be one of auto, fused_only, rgb_only, ir_only"),
        ("publish_overlay", 1, "must be a boolean"),
        ("autostart", True, "read-only"),
    ]:
        good, said = manager.set(name, value)
        assert not good
        assert reason in said


def test_values_of_every_kind_are_checked_before_it_is_configured(manager):
    for name, good, bad, reason in [
        ("ir_to_rgb", [2.0, 0.0, 0.5, 0.0, 2.0, 0.5, 0.0, 0.0, 1.0], [1.0, 0.0], "must be a list of 9 numbers, got 2"),
        ("extrinsic_rotation", [0.0, 0.0, 0.0, 1.0], 1.0, "must be a list of 4 or 9 numbers, got 1.0"),
        ("threads", 2, 2.5, "must be an integer"),
        ("stale_ms", 300.0, float("nan"), "stale_ms"),
        ("ir_normalization", "percentile", "log", "must be one of model, percentile, fixed, none"),
        ("learn_ir_time_offset", True, "true", "must be a boolean"),
        ("calibration_file", "", 3, "must be a string"),
    ]:
        assert manager.set(name, good) == (True, "")
        accepted, said = manager.set(name, bad)
        assert not accepted
        assert name in said
        assert reason in said
    assert manager.change(Transition.TRANSITION_CONFIGURE)
    manager.process.wait_for_line("thermal: percentile 1 to 99.*; registration: parameter ir_to_rgb")


def test_every_parameter_describes_itself(manager, peer):
    names = list(specs())
    request = DescribeParameters.Request(names=names)
    answer = peer.call(DescribeParameters, f"{manager.name}/describe_parameters", request)
    for descriptor, spec in zip(answer.descriptors, specs().values(), strict=True):
        assert descriptor.description.startswith(spec.description)
        assert descriptor.read_only == (spec.name == "autostart")
        ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
        assert [(r.from_value, r.to_value) for r in ranges] == ([] if spec.low is None else [(spec.low, spec.high)])


def test_diagnostics_follow_the_state(manager, peer):
    arrays = peer.collect(DiagnosticArray, "/diagnostics")

    def status(state: str) -> DiagnosticStatus | None:
        for array in list(arrays):
            for found in array.status:
                values = {v.key: v.value for v in found.values}
                if found.hardware_id == manager.name and values["state"] == state:
                    return found
        return None

    assert wait_until(lambda: status("unconfigured"), "diagnostics").level == DiagnosticStatus.OK
    assert manager.change(Transition.TRANSITION_CONFIGURE)
    assert manager.set("no_message_timeout_s", 0.5) == (True, "")
    assert manager.change(Transition.TRANSITION_ACTIVATE)

    both = "no message on /lasting/rgb/image_raw, /lasting/ir/image_raw"

    def silent() -> DiagnosticStatus | None:
        found = status("active")
        return found if found is not None and found.message == both else arrays.clear()

    found = wait_until(silent, "a warning that the cameras are silent")
    assert found.level == DiagnosticStatus.WARN
    values = {v.key: v.value for v in found.values}
    assert values["model"] == "blob"
    assert values["engine"].startswith("ONNX Runtime")
    assert values["/lasting/ir/image_raw messages"] == "0"


@pytest.mark.slow  # two nodes; test_parameters.py recognises the names, test_inputs.py has an override
def test_an_override_of_a_wrong_type_is_refused_in_a_sentence_and_one_without_effect_named(peer, blob_model):
    topic = "qos_overrides./override/rgb/image_raw.subscription"
    wrong = {f"{topic}.depth": "lots"}
    node = NodeProcess("-r", "__ns:=/override", model=blob_model, device="cpu", threads=1, **wrong)
    assert node.wait() == 1
    assert node.count(r"\[ERROR\].*cannot activate: can't subscribe to /override/rgb/image_raw: .*'lots'") == 1
    assert "Traceback" not in node.log
    idle = {f"{topic}.dept": 5, "qos_overrides./elsewhere/image_raw.subscription.depth": 5, f"{topic}.depth": 5}
    with running("-r", "__ns:=/override", model=blob_model, device="cpu", threads=1, **idle) as node:
        node.wait_for_line(rf"\[WARN\].*'{topic}.dept' names no topic or QoS policy.*did you mean '{topic}.depth'\?")
        node.wait_for_line(r"\[WARN\].*'qos_overrides./elsewhere/image_raw.subscription.depth' names no topic")
        assert node.count("names no topic or QoS policy") == 2


@pytest.mark.slow  # a node; the failed configuration covers it
def test_a_failed_activation_leaves_nothing_behind_and_the_node_alive(peer, blob_model):
    """A camera that can't be subscribed to: in a transition, and later from a timer when a subscriber appears."""
    override = {"qos_overrides./refused/ir/image_raw.subscription.reliability": "bogus"}
    node = NodeProcess("-r", "__ns:=/refused", model=blob_model, device="cpu", threads=1, autostart=False, **override)
    try:
        manager = Manager(peer, node, "/refused/detector_node")
        labels = peer.collect(LabelInfo, "/refused/detector_node/label_info", LATCHED)
        assert manager.change(Transition.TRANSITION_CONFIGURE)
        assert not manager.change(Transition.TRANSITION_ACTIVATE)
        cause = "can't subscribe to /refused/ir/image_raw: .*bogus.*qos_overrides./refused/ir/image_raw"
        node.wait_for_line(rf"\[ERROR\].*cannot activate: {cause}")
        assert manager.state() == "inactive"
        wait_until(lambda: peer.node.count_subscribers("/refused/rgb/image_raw") == 0, "the other camera's end")
        assert manager.set("lazy_subscription", True) == (True, "")
        assert manager.change(Transition.TRANSITION_ACTIVATE)
        wait_until(lambda: labels, "label info")
        assert manager.set("score_threshold", 0.625) == (True, "")
        wait_until(lambda: labels[-1].threshold == 0.625, "the new threshold, though nobody listens to answers")
        peer.collect(Detection2DArray, "/refused/detector_node/detections")
        node.wait_for_line(rf"\[ERROR\].*cannot watch the cameras: {cause}")
        assert manager.state() == "active"
        assert peer.node.count_subscribers("/refused/rgb/image_raw") == 0
    finally:
        assert node.stop() == 0, node.log
    assert "Traceback" not in node.log
